import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gpu
import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# The cases and error bounds of the CPU engines' tests hold here, too.
sys.path.insert(0, str(HERE.parent / "cpu"))

CMAKE = shutil.which("cmake", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def build(folder: Path, *options: str) -> Path:
    """The CUDA engine's test library, built in ``folder``; another process may want it, too."""
    if CMAKE is None:
        pytest.skip("needs cmake")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (
            [CMAKE, "-S", str(HERE), "-B", str(folder), *options],
            [CMAKE, "--build", str(folder), "--parallel", str(os.cpu_count())],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
    return folder / "libcuda_engine.so"


@pytest.fixture(scope="session")
def emulation_folder() -> Path:
    folder = ROOT / "build" / "cuda-emulation"
    build(folder)
    return folder


@pytest.fixture(scope="session")
def emulation(emulation_folder: Path):
    from engine import Engine

    return Engine(emulation_folder / "libcuda_engine.so")


# Where there is no GPU, test_gpu.py says so once, rather than every test here.
MACHINES = (
    ["emulated"] if gpu.missing() else ["emulated", pytest.param("gpu", marks=pytest.mark.gpu)]
)


@pytest.fixture(scope="session", params=MACHINES)
def engine(request):
    """The kernels under the emulation, and on the GPU if there is one."""
    if request.param == "emulated":
        return request.getfixturevalue("emulation")
    from engine import Engine

    options = ("-DORT_TCONV_EMULATE=OFF", f"-DCMAKE_CUDA_COMPILER={gpu.NVCC}")
    return Engine(build(ROOT / "build" / "cuda-engine", *options))
