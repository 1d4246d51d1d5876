"""Whether this machine can run the CUDA kernels; as a program, fails and says why if not."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys

NVCC = shutil.which("nvcc", path=f"{os.environ.get('PATH', '')}:/usr/local/cuda/bin")


def missing() -> str:
    """What is missing, "" if nothing is."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver: libcuda.so.1 was not found"
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return "the NVIDIA driver does not start"
    if count.value == 0:
        return "no NVIDIA GPU"
    return "" if NVCC else "no nvcc, the CUDA compiler"


if __name__ == "__main__":
    if reason := missing():
        sys.exit(f"this needs an NVIDIA GPU, and cannot run here: {reason}")
