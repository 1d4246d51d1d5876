"""Calls the CUDA engine's test entry (entry.h): under the host emulation, or on a GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cases import Case

from ort_tconv import _core

#: In the order of ort_tconv::DType and ort_tconv::ActivationKind.
DTYPES = ("float32", "float64", "float16", "bfloat16")
ACTIVATIONS = (
    "",
    "Relu",
    "LeakyRelu",
    "PRelu",
    "Clip",
    "Sigmoid",
    "Tanh",
    "HardSigmoid",
    "HardSwish",
    "Silu",
    "Elu",
    "Softplus",
    "Gelu",
    "GeluTanh",
)
DEFAULT_PARAMETERS = {"LeakyRelu": (0.01,), "HardSigmoid": (0.2, 0.5), "Elu": (1.0,)}

_LISTS = ("in_", "kernel", "stride", "dilation", "pad_begin", "pad_end", "out")


class _Call(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in ("rank", "batch", "channels", "out_channels", "group")
        ),
        *((name, ctypes.POINTER(ctypes.c_int64)) for name in _LISTS),
        ("dtype", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("x", "w", "b", "z", "y")),
        ("activation", ctypes.c_int64),
        ("activation_a", ctypes.c_double),
        ("activation_b", ctypes.c_double),
        ("slopes", ctypes.c_void_p),
        ("slope_count", ctypes.c_int64),
        *(
            (name, ctypes.c_int64)
            for name in ("capability", "multiprocessors", "shared_bytes", "allow_tf32", "splits")
        ),
        ("kernel_name", ctypes.c_char_p),
        ("tile", ctypes.c_char_p),
        ("stream", ctypes.c_void_p),
    ]


@dataclass(frozen=True)
class Device:
    """What the plan is made for; capability 0 stands for the device that is there."""

    capability: int = 80
    multiprocessors: int = 108
    shared_bytes: int = 163 * 1024


@dataclass(frozen=True)
class Pointers:
    """Addresses of contiguous tensors; 0 where there is none."""

    x: int
    w: int
    y: int
    b: int = 0
    z: int = 0
    slopes: int = 0


class Engine:
    def __init__(self, library: Path) -> None:
        self._run = ctypes.CDLL(str(library)).tconv_run
        self._run.argtypes = [ctypes.POINTER(_Call), ctypes.c_char_p, ctypes.c_int64]

    def call(
        self,
        case: Case,
        pointers: Pointers,
        *,
        activation: str = "",
        parameters: tuple[float, ...] = (),
        device: Device = Device(),
        allow_tf32: bool = False,
        kernel: str = "",
        tile: str = "",
        splits: int = 0,
        stream: int = 0,
    ) -> str:
        """Runs the case; returns the plan in words.  Raises RuntimeError as the engine words it."""
        shape, pads = _core.output_shape(case.x_shape, case.w_shape, **case.attributes)
        axes = len(case.spatial)
        ones = (1,) * axes
        lists = (
            case.spatial,
            case.kernel,
            case.strides or ones,
            case.dilations or ones,
            pads[:axes],
            pads[axes:],
            shape[2:],
        )
        parameters = parameters or DEFAULT_PARAMETERS.get(activation, ())
        slopes = len(parameters) if activation == "PRelu" else 0
        host_slopes = (ctypes.c_float * max(slopes, 1))(*parameters[:slopes])
        scalars = (*parameters, 0.0, 0.0) if not slopes else (0.0, 0.0)
        call = _Call(
            axes,
            case.batch,
            case.group * case.group_in,
            case.out_channels,
            case.group,
            *((ctypes.c_int64 * axes)(*values) for values in lists),
            DTYPES.index(case.dtype),
            pointers.x,
            pointers.w,
            pointers.b,
            pointers.z,
            pointers.y,
            ACTIVATIONS.index(activation),
            *scalars[:2],
            pointers.slopes or ctypes.addressof(host_slopes),
            slopes,
            device.capability,
            device.multiprocessors,
            device.shared_bytes,
            allow_tf32,
            splits,
            kernel.encode(),
            tile.encode(),
            stream,
        )
        text = ctypes.create_string_buffer(4096)
        failed = self._run(ctypes.byref(call), text, len(text))
        if failed:
            raise RuntimeError(text.value.decode())
        return text.value.decode()

    def run(
        self, case: Case, arrays: Mapping[str, np.ndarray], **options
    ) -> tuple[np.ndarray, str]:
        """Y, and the plan in words, for arrays in host memory (the emulation)."""
        arrays = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
        shape = _core.output_shape(case.x_shape, case.w_shape, **case.attributes)[0]
        y = poisoned(tuple(shape), arrays["x"].dtype)
        address = {name: value.ctypes.data for name, value in arrays.items()}
        return y, self.call(case, Pointers(y=y.ctypes.data, **address), **options)


def poisoned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """NaN, 16-byte aligned as the memory of CUDA allocators is."""
    count = int(np.prod(shape, dtype=np.int64))
    raw = np.full(count * dtype.itemsize + 16, 0xFF, np.uint8)
    start = -raw.ctypes.data % 16
    return raw[start : start + count * dtype.itemsize].view(dtype).reshape(shape)
