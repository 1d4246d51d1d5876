"""Kernel core of ort_tconv: geometry, plan, reference and engine.

Attributes are those of the operator; ``None`` and an empty list mean "not given".  Every function
raises :class:`Error` if attributes and shapes do not fit, with a message that names the attribute
or input, its value and the rule.
"""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import Unpack

class Attributes(TypedDict, total=False):
    auto_pad: str | None
    dilations: Sequence[int] | None
    group: int | None
    kernel_shape: Sequence[int] | None
    output_padding: Sequence[int] | None
    output_shape: Sequence[int] | None
    pads: Sequence[int] | None
    strides: Sequence[int] | None
    activation: str | None
    weights: str | None
    weight_scales: Sequence[float] | None
    allow_tf32: int | None
    activation_params: Sequence[float] | None

class Machine(TypedDict, total=False):
    """What one core can use."""

    threads: int  # that can run at once
    l2_bytes: int  # of one core
    l3_bytes: int  # of one logical processor; 0: there is no such cache
    l3_sharers: int  # logical processors that share one

class CacheFiles(TypedDict, total=False):
    """Texts of ``/sys/devices/system/cpu/cpuN/cache/indexM``."""

    level: str
    type: str
    size: str
    shared_cpu_list: str

class Answers(TypedDict, total=False):
    """What processor and operating system say of themselves; what is left out is unknown."""

    cpuid_caches: list[tuple[int, int, int, int]]  # registers of leaf 4 or 0x8000001D, by subleaf
    hybrid: bool  # cores of several kinds
    bare: bool  # no hypervisor
    sysfs: list[list[CacheFiles]]  # of each processor that this process may use
    processors: int
    cpu_max: list[str]  # texts of cgroup v2
    cfs: list[tuple[str, str]]  # texts of cgroup v1: quota and period
    most_threads: str  # environment variable ORT_TCONV_THREADS

class Error(ValueError): ...

version: str
built_with_cuda: bool
built_with_provider: bool

def isa() -> str:
    """Instruction set in use; ``ORT_TCONV_ISA`` forces another."""

def compiled_isas() -> list[str]:
    """Instruction sets built in, best first."""

def supported_isas() -> list[str]:
    """Those of them that this processor has, best first."""

def emulated_isas() -> list[str]:
    """Other kernel shapes that this processor can run when they are named, for tests."""

def machine(answers: Answers | None = None) -> Machine:
    """What one core can use of this machine, or of one that gives these answers."""

def machine_answers() -> Answers:
    """What processor and operating system say of themselves."""

def algorithms() -> list[str]:
    """Values of the attribute ``algorithm``, besides ``auto``."""

class PackedWeights:
    @property
    def nbytes(self) -> int: ...

def pack(
    x_shape: Sequence[int],
    w: ArrayLike,
    isa: str = "",
    algorithm: str = "",
    **attributes: Unpack[Attributes],
) -> PackedWeights:
    """``w`` as a session holds it: equal weights in equal layouts are one object."""

def reads_original(
    x_shape: Sequence[int],
    w: ArrayLike,
    isa: str = "",
    algorithm: str = "",
    **attributes: Unpack[Attributes],
) -> bool:
    """Whether runs may read ``w`` beside what is packed of it."""

def weight_cache() -> tuple[int, int]:
    """Number and bytes of the packed weights that are alive."""

def output_shape(
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    b_shape: Sequence[int] | None = None,
    **attributes: Unpack[Attributes],
) -> tuple[list[int], list[int]]:
    """Shape of Y, and the pads in effect: all beginnings, then all ends."""

def residue_classes(
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    aligned: bool = False,
    **attributes: Unpack[Attributes],
) -> list[dict[str, Any]]:
    """Residue classes, an entry a spatial axis."""

def plan(
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    dtype: str = "float32",
    isa: str = "",
    algorithm: str = "",
    threads: int = 1,
    machine: Machine = ...,
    constant_weights: bool = True,
    **attributes: Unpack[Attributes],
) -> dict[str, Any]:
    """Plan for the shapes, on any instruction set that is built in.

    It serves sessions of any number of threads up to ``threads``: ``cost`` is the geometric mean of
    what it is predicted to cost each, in vector multiply-adds and their equivalents.

    Without ``constant_weights``, W is packed in every run.  What ``machine`` leaves out is that of
    this machine; ``threads`` of 0 are its, too.

    ``macs`` are those of the direct method, ``executed_macs`` those in the plan's sums, products
    with padding included.  ``work`` is what the cost of a session of all threads is made of.
    """

def candidates(
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    dtype: str = "float32",
    isa: str = "",
    threads: int = 1,
    machine: Machine = ...,
    **attributes: Unpack[Attributes],
) -> list[dict[str, Any]]:
    """The plans that suit a session of ``threads`` threads, with what each costs it: a function of
    the arguments alone.  ``kind`` tells them apart."""

def session_candidates(
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    isa: str = "",
    threads: int = 1,
    machine: Machine = ...,
    **attributes: Unpack[Attributes],
) -> list[dict[str, Any]]:
    """The plans among which :func:`plan` chooses the one of least ``cost``, for float32.

    ``costs`` are those in sessions of each number of threads that count, ``cost`` is their
    geometric mean.
    """

class WeightArena:
    """Random numbers, which stand in for packed weights."""

    def __init__(self, bytes: int) -> None: ...

class CandidateTimer:
    """Times the candidates of one problem, float32, with random numbers for X and W."""

    def __init__(
        self,
        x_shape: Sequence[int],
        w_shape: Sequence[int],
        arena: WeightArena,
        isa: str = "",
        threads: int = 1,
        machine: Machine = ...,
        **attributes: Unpack[Attributes],
    ) -> None: ...
    @property
    def candidates(self) -> list[dict[str, Any]]:
        """Those of :func:`candidates`."""

    def time(self, index: int, cold: bool, calls: int) -> list[float]:
        """Seconds of each of ``calls`` calls, after one that is not counted.  Weights are the same
        in all calls, or, ``cold``, further parts of the arena, whose size decides whether a cache
        still holds them."""

def moving_cost(elements: float, dtype: str, shuffled: bool = ...) -> float: ...
def least_conv_cost(
    x_shape: Sequence[int], w_shape: Sequence[int], dtype: str, columns: bool, **attributes: Any
) -> float: ...
def relayout_cost(elements: float) -> float: ...

SURE_SHARE: float
LARGE_TILES: int

def nominal_side(axes: int) -> int: ...
def reference(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    z: ArrayLike | None = None,
    **attributes: Unpack[Attributes],
) -> NDArray[np.float64]:
    """Transposed convolution by its definition, in float64."""

def run(
    x: NDArray[Any],
    w: NDArray[Any],
    b: NDArray[Any] | None = None,
    z: NDArray[Any] | None = None,
    isa: str = "",
    algorithm: str = "",
    threads: int = 1,
    dtype: str | None = None,
    candidate: int | None = None,
    constant_weights: bool = True,
    **attributes: Unpack[Attributes],
) -> NDArray[Any]:
    """The engine itself: Y in the dtype of X (bfloat16: ml_dtypes', or uint16 with ``dtype``).
    ``candidate`` is the plan's position in :func:`candidates`."""

# ---- quantised ---------------------------------------------------------------------------------

def quantized_isa() -> str:
    """The set of quantised kernels in use."""

def compiled_quantized_isas() -> list[str]:
    """Sets of quantised kernels built in, best first."""

def quantized_isas() -> list[str]:
    """Those of them this processor has, best first."""

def emulated_quantized_isas() -> list[str]:
    """Those whose multiplication is emulated, for tests."""

def quantized_plan(
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    isa: str = "",
    algorithm: str = "",
    threads: int = 1,
    **attributes: Unpack[Attributes],
) -> dict[str, Any]:
    """Plan for the shapes, with the set of kernels as ``isa``: any that is built in, or the best
    that is based on an instruction set of :func:`compiled_isas`."""

def quantized_reference(
    x: NDArray[Any],
    x_scale: float,
    x_zero_point: NDArray[Any],
    w: NDArray[Any],
    w_scale: NDArray[Any],
    w_zero_point: NDArray[Any],
    y_scale: float,
    y_zero_point: NDArray[Any],
    b: NDArray[Any] | None = None,
    **attributes: Unpack[Attributes],
) -> NDArray[Any]:
    """``QLinearSegregatedConvTranspose`` by its definition: Y in the dtype of ``y_zero_point``."""

def run_quantized(
    x: NDArray[Any],
    x_scale: float,
    x_zero_point: NDArray[Any],
    w: NDArray[Any],
    w_scale: NDArray[Any],
    w_zero_point: NDArray[Any],
    y_scale: float,
    y_zero_point: NDArray[Any],
    b: NDArray[Any] | None = None,
    isa: str = "",
    algorithm: str = "",
    threads: int = 1,
    **attributes: Unpack[Attributes],
) -> NDArray[Any]:
    """The same by the engine."""
