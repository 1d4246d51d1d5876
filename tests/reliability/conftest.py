import sys
from pathlib import Path

# What the tests of the CPU engines share.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cpu"))
