"""The engine on another architecture: cross-compiled, and run under an emulator."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("tests/cross/engine_check.cc", "custom_op/core/*.cc", "custom_op/cpu/*.cc")
X86_ONLY = {
    "kernel_avx2.cc",
    "kernel_avx512.cc",
    "kernel_emulated512.cc",
    "kernel_q8_avx2.cc",
    "kernel_q8_avxvnni.cc",
    "kernel_q8_avx512vnni.cc",
    "kernel_q8_emulated_avxvnni.cc",
    "kernel_q8_emulated_avx512vnni.cc",
}


#: As in CMakeLists.txt.
DOT_PRODUCT = ["-march=armv8.2-a+dotprod"]


def exact(source: Path) -> bool:
    """Whether results of this source are defined to the bit."""
    return source.name.startswith("kernel_q8_") or source == ROOT / "custom_op/core/quantized.cc"


def tool(*names: str) -> str:
    for name in names:
        if path := shutil.which(name):
            return path
    pytest.skip(f"needs {' or '.join(names)} (Debian: g++-aarch64-linux-gnu, qemu-user-static)")


def test_aarch64_kernels_agree_with_the_reference(tmp_path):
    compiler = tool("aarch64-linux-gnu-g++")
    emulator = tool("qemu-aarch64-static", "qemu-aarch64")
    program = tmp_path / "engine_check"
    sources = [
        source
        for pattern in SOURCES
        for source in sorted(ROOT.glob(pattern))
        if source.name not in X86_ONLY
    ]
    # -O1: the compiler's time counts here, not the program's.
    flags = ["-std=c++17", "-O1", "-static", "-pthread", f"-I{ROOT / 'custom_op'}"]
    objects = []
    for source in [source for source in sources if exact(source)]:
        objects.append(tmp_path / f"{source.parent.name}_{source.stem}.o")
        own = DOT_PRODUCT if source.name == "kernel_q8_neondot.cc" else []
        command = [compiler, *flags, "-ffp-contract=off", *own, "-c", str(source)]
        subprocess.run([*command, "-o", str(objects[-1])], check=True)
        sources.remove(source)
    subprocess.run(
        [compiler, *flags, *map(str, [*sources, *objects]), "-o", str(program)], check=True
    )
    done = subprocess.run([emulator, str(program)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "neon" in done.stdout
    assert "baseline" in done.stdout
    assert "q8:neondot" in done.stdout
    assert ", 0 failed" in done.stdout
    print(done.stdout)
