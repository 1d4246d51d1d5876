"""Write one of the networks to a file: ``python examples/architectures NAME OUT.onnx``."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import onnx

from architectures import ARCHITECTURES, export


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", metavar="NAME", choices=ARCHITECTURES)
    parser.add_argument("output", metavar="OUT", help="ONNX file to write")
    parser.add_argument("--small", action="store_true", help="narrow layers, a small input")
    parser.add_argument("--dynamo", action="store_true", help="PyTorch's newer exporter")
    parser.add_argument("--dynamic", action="store_true", help="leave the input's sizes open")
    options = parser.parse_args()
    model = export(
        ARCHITECTURES[options.name],
        small=options.small,
        dynamo=options.dynamo,
        dynamic=options.dynamic,
    )
    onnx.save(model, options.output)


if __name__ == "__main__":
    main()
