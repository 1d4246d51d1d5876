"""The CPU engines (custom_op/cpu/) against the float64 reference, every algorithm on every
instruction set that this machine can run."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from cases import CORNERS, DTYPES, STORE_ROUNDOFF, Case, assert_within
from forced import (
    PLAIN,
    Epilogue,
    allowed,
    check,
    each_algorithm,
    each_choice,
    each_isa,
    method,
    plan,
    reference,
    run,
    same_bits,
    transforms,
    window_sizes,
    with_residual,
)
from hypothesis import given
from hypothesis import strategies as st

from ort_tconv import _core

each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def test_memory_is_poisoned(poisoned_memory: bool) -> None:
    """What the other tests rely on to see outputs and scratch memory that were never written."""
    if not poisoned_memory:
        pytest.skip("this C library cannot fill new memory")
    for size in (1 << 12, 1 << 17, 1 << 23):
        assert np.isnan(np.empty(size, np.float32)).all()


# ---- any case ------------------------------------------------------------------------------------

EPILOGUES = [
    PLAIN,
    Epilogue("Relu"),
    Epilogue("LeakyRelu", (0.3,)),
    Epilogue("Clip", (-1.0, 2.0)),
    Epilogue("Sigmoid"),
    Epilogue("Tanh"),
    Epilogue("HardSigmoid", (0.25, 0.5)),
    Epilogue("HardSwish"),
    Epilogue("Silu"),
    Epilogue("Elu", (0.5,)),
    Epilogue("Softplus"),
    Epilogue("Gelu"),
    Epilogue("GeluTanh"),
    Epilogue("PRelu", (0.2,)),
    Epilogue("PRelu"),  # a slope for each output channel, filled in below
]


@st.composite
def engine_cases(draw) -> Case:
    """Larger than cases.drawn_cases: several tiles, channel blocks and vectors of everything."""
    axes = draw(st.sampled_from([1, 1, 2, 2, 2, 3, 4]))

    def each(most: list[int]) -> tuple[int, ...]:
        return tuple(draw(st.integers(1, most[axes - 1])) for _ in range(axes))

    strides = each([9, 5, 3, 2])
    if draw(st.booleans()):  # dense, or of stride 1: what transforms take
        most = [7, 5, 3, 3][axes - 1]  # taps of a sub-kernel
        dilations = tuple(draw(st.integers(1, 4)) if s == 1 else 1 for s in strides)
        kernel = tuple(
            s * draw(st.integers(1, most)) - draw(st.integers(0, s - 1)) for s in strides
        )
    else:
        dilations, kernel = each([4, 4, 3, 2]), each([12, 6, 4, 3])
    case = Case(
        spatial=each([40, 14, 6, 3]),
        kernel=kernel,
        batch=draw(st.integers(0, 3)),
        group=draw(st.sampled_from([1, 1, 1, 2, 3])),
        group_in=draw(st.sampled_from([1, 2, 3, 5, 8, 17])),
        group_out=draw(st.sampled_from([1, 2, 3, 4, 7, 9, 16, 33])),
        strides=strides,
        dilations=dilations,
        auto_pad=draw(st.sampled_from(["", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])),
        bias=draw(st.booleans()),
        dtype=draw(st.sampled_from(list(DTYPES))),
    )
    full = _core.output_shape(
        case.x_shape,
        case.w_shape,
        strides=list(strides),
        dilations=list(dilations),
        group=case.group,
    )[0][2:]
    kind = draw(st.sampled_from(["", "pads", "output_shape", "output_padding"]))
    if kind == "pads" and case.auto_pad in ("", "NOTSET"):
        begin = tuple(draw(st.integers(0, min(side - 1, k))) for side, k in zip(full, kernel))
        end = tuple(draw(st.integers(0, min(side - 1 - b, 4))) for side, b in zip(full, begin))
        case = dataclasses.replace(case, pads=begin + end)
    elif kind == "output_shape":
        shape = tuple(draw(st.integers(1, side + 3)) for side in full)
        case = dataclasses.replace(case, output_shape=shape)
    elif kind == "output_padding":
        room = [max(s, d) - 1 for s, d in zip(strides, dilations)]
        padding = tuple(draw(st.integers(0, most)) for most in room)
        case = dataclasses.replace(case, output_padding=padding)
    return case


@each_isa
@each_choice
@given(
    case=engine_cases(),
    epilogue=st.sampled_from(EPILOGUES),
    residual=st.booleans(),
    threads=st.sampled_from([1, 2, 5]),
)
def test_any_case(
    isa: str, algorithm: str, case: Case, epilogue: Epilogue, residual: bool, threads: int
) -> None:
    if epilogue.activation == "PRelu" and not epilogue.params:
        slopes = np.linspace(-0.5, 1.5, case.out_channels).tolist()
        epilogue = Epilogue("PRelu", tuple(slopes))
    arrays = case.arrays()
    if residual:
        arrays = with_residual(case, arrays)
    y = check(case, arrays, algorithm, epilogue, isa=isa, threads=threads)
    other = {1: 2, 2: 5, 5: 1}[threads]
    methods = {method(case, algorithm, isa=isa, threads=n) for n in (threads, other)}
    if len(methods) == 1:
        again = run(case, arrays, epilogue, algorithm=algorithm, isa=isa, threads=other)
        assert same_bits(y, again), f"{threads} and {other} threads differ"


# ---- chosen cases --------------------------------------------------------------------------------

CHOSEN = CORNERS | {
    "1-D, kernel 64, stride 32": Case((9,), (64,), strides=(32,), pads=(16, 16)),
    "stride 300 without overlap": Case((5,), (300,), batch=2, strides=(300,)),
    "stride 600": Case((3,), (700,), strides=(600,), pads=(33, 50)),
    "stride 600 in the last axis": Case((3, 2), (2, 650), strides=(1, 600)),
    "stride 600 in the first axis": Case((2, 3), (650, 2), strides=(600, 1)),
    "stride 600, 5 taps": Case((3,), (5,), strides=(600,), output_padding=(599,)),
    "taps far apart": Case((40,), (3,), dilations=(50,)),
    "taps far apart in rows": Case((4, 30), (2, 3), strides=(1, 2), dilations=(1, 41)),
    "taps far apart in columns": Case((30, 4), (3, 2), strides=(2, 1), dilations=(41, 1)),
    "dilation 2, stride 2": Case((6, 7), (3, 3), strides=(2, 2), dilations=(2, 2)),
    "dilation 2, stride 3": Case((6, 7), (3, 4), strides=(3, 3), dilations=(2, 2)),
    "dilation 3, stride 2, padded": Case(
        (6, 7), (3, 3), strides=(2, 2), dilations=(3, 3), pads=(3, 2, 1, 4)
    ),
    "channel chunks": Case((3, 3), (8, 8), group_in=1500, group_out=8, strides=(2, 2)),
    "many input channels": Case((5,), (4,), group_in=1500, group_out=5, strides=(2,)),
    "many output channels": Case((5, 4), (4, 4), group_in=3, group_out=201, strides=(2, 2)),
    "odd channels": Case((6, 5), (4, 4), group_in=37, group_out=53, strides=(2, 2)),
    "no input channel": Case((3, 3), (3, 3), group_in=0, strides=(2, 2)),
    "no input channel, no bias": Case((3,), (4,), group_in=0, strides=(2,), bias=False),
    "depthwise, 40 groups": Case(
        (7, 9), (4, 4), group=40, group_in=1, group_out=1, strides=(2, 2), pads=(1, 1, 1, 1)
    ),
    "depthwise, three outputs each": Case((7, 9), (3, 3), group=8, group_in=1, strides=(2, 2)),
    "groups of 5 and 7 channels": Case(
        (6, 6), (5, 5), group=3, group_in=5, group_out=7, strides=(2, 2)
    ),
    "batch of groups": Case((4, 6), (3, 3), batch=3, group=2, group_in=4, strides=(2, 2)),
    "one pixel": Case((1, 1), (5, 5), group_in=20, group_out=20, strides=(2, 2), pads=(2, 1, 2, 1)),
    "one pixel, every output": Case((1, 1), (4, 3), batch=3, group=2, group_in=20, group_out=11),
    "one voxel, every output": Case((1, 1, 1), (2, 3, 2), group_in=9, strides=(5, 3, 2)),
    "fewer taps than the stride": Case((9, 8), (2, 2), group_in=20, group_out=21, strides=(3, 3)),
    "one tap of four outputs": Case((9, 8), (1, 1), group_in=20, group_out=21, strides=(2, 2)),
    "one output": Case((3, 3), (4, 4), strides=(2, 2), pads=(4, 4, 3, 3)),
    "long rows": Case((3, 1000), (4, 4), strides=(2, 2), pads=(1, 1, 1, 1)),
    "long rows, one channel": Case((2, 999), (5, 5), group_in=1, group_out=1, strides=(2, 2)),
    "long columns": Case((1000, 2), (4, 4), strides=(2, 2), pads=(1, 1, 1, 1)),
    "long signal": Case((4000,), (16,), strides=(8,), pads=(4, 4)),
    "image of many tiles": Case((65, 67), (4, 4), group_in=3, strides=(2, 2), pads=(1, 1, 1, 1)),
    "pixel shuffle": Case((17, 19), (2, 2), group_in=9, group_out=10, strides=(2, 2)),
    "row shared by classes, columns not": Case((9, 40), (1, 4), strides=(2, 2), pads=(0, 1, 0, 1)),
    "columns shared by classes, row not": Case((9, 40), (4, 1), strides=(2, 2), pads=(1, 0, 1, 0)),
    "volume of many tiles": Case((12, 13, 14), (4, 4, 4), strides=(2, 2, 2), pads=(1,) * 6),
    "5-D": Case((2, 3, 2, 2, 3), (2, 1, 2, 2, 3), strides=(2, 1, 2, 1, 2)),
    "8-D": Case((1, 2, 1, 2, 1, 2, 1, 2), (2, 1, 2, 1, 2, 1, 2, 1), strides=(2,) * 8),
    "mostly outside the input": Case((2, 3), (3, 3), strides=(2, 2), output_shape=(40, 51)),
    "stride 1, kernel 3": Case((9, 8), (3, 3), group_in=5, pads=(1, 1, 1, 1)),
    "stride 1, kernel 7": Case((29, 31), (7, 7), group_in=5, group_out=9, pads=(3, 3, 3, 3)),
    "stride 1, kernel 11, dilation 3": Case((200,), (11,), group_in=20, dilations=(3,)),
    "stride 1, kernel 3, dilation 5": Case((9, 70), (3, 3), group_in=3, dilations=(2, 5)),
    "7 and 6 taps a class": Case((30, 11), (13, 8), group_in=5, strides=(2, 2), pads=(5, 3, 6, 2)),
    "short last block of channels": Case((3,), (2,), group_in=1, group_out=9),
    "stride 1, kernel 1": Case((9, 8), (1, 1), group_in=5, group_out=6),
    # Borders are much of these, and some of them are summed tap by tap.
    "a few frames": Case((3,), (24,), group_in=130, group_out=2, strides=(6,)),
    "a few frames, trimmed": Case((8,), (16,), group_in=70, group_out=1, strides=(4,), pads=(9, 6)),
    "small image": Case(
        (2, 3), (4, 4), group_in=70, group_out=9, strides=(2, 2), pads=(1, 1, 1, 1)
    ),
    "small image, kernel 5": Case((3, 4), (5, 5), group_in=70, group_out=9, strides=(2, 2)),
    "small volume": Case((2, 2, 2), (4, 4, 4), group_in=66, group_out=9, strides=(2,) * 3),
    # Rows of the input, or of a window, that lie a multiple of 4 KB apart in all channels.
    "channels 4 KB apart": Case((32, 32), (2, 2), group_in=20, group_out=3, strides=(2, 2)),
    "channels 4 KB apart, one out": Case(
        (32, 32), (2, 2), group_in=20, group_out=1, strides=(2, 2)
    ),
    "channels 4 KB apart, two out": Case((2, 64, 16), (1, 2, 2), group_in=18, strides=(1, 2, 2)),
    "channels 4 KB apart, few taps": Case(
        (32, 32), (1, 2), group_in=20, group_out=1, strides=(2, 2)
    ),
    "channels of a window 4 KB apart": Case((62, 30), (2, 2), group_in=20, group_out=2),
}


@each_isa
@each_choice
@pytest.mark.parametrize("case", CHOSEN.values(), ids=CHOSEN.keys())
def test_chosen_case(isa: str, algorithm: str, case: Case) -> None:
    check(case, case.arrays(), algorithm, isa=isa, threads=2)


@each_isa
def test_channel_chunks_are_crossed(isa: str) -> None:
    case = CHOSEN["channel chunks"]
    assert plan(case, "direct", isa=isa)["channel_chunk"] < case.group_in


@each_isa
@each_dtype
@pytest.mark.parametrize("algorithm", ["direct", "stacked"])
@pytest.mark.parametrize("taps", [2, 3, 4, 7])
def test_every_number_of_frames(isa: str, algorithm: str, taps: int, dtype: str) -> None:
    """From one frame, each position of which meets one tap, to as many as have an inner part."""
    for frames in range(1, 20):
        case = Case(
            (frames,), (5 * taps,), group_in=33, group_out=2, strides=(5,), dtype=dtype, batch=2
        )
        arrays = integers(case)
        y = run(case, arrays, isa=isa, algorithm=algorithm)
        assert np.array_equal(y, reference(case, arrays))


@pytest.mark.parametrize("channels", [514, 1026, 1500, 2049, 4098])
@pytest.mark.parametrize("l2", [1 << 18, 1 << 19, 1 << 20, 1 << 21])
def test_chunks_of_channels_are_nearly_equal(channels: int, l2: int) -> None:
    """None is left over with a few channels."""
    case = Case((8,), (1024,), group_in=channels, group_out=1, strides=(256,))
    chunk = plan(case, "stacked", machine={"l2_bytes": l2})["channel_chunk"]
    chunks = math.ceil(channels / chunk)
    assert channels - (chunks - 1) * chunk > 0.75 * chunk


def integers(case: Case, transformed: Sequence[int] = ()) -> dict[str, np.ndarray]:
    """Small ones: every sum, and every sum of halves and quarters of a transform, is exact.  For
    Winograd's large tiles weights are multiples of what those divide by."""
    rng = np.random.default_rng(3)
    shapes = {name: value.shape for name, value in case.arrays().items()}
    dtype = DTYPES[case.dtype]
    arrays = {name: rng.integers(-2, 3, shape).astype(dtype) for name, shape in shapes.items()}
    arrays["w"] *= 18 ** list(transformed).count(_core.LARGE_TILES)
    return arrays


@each_isa
@each_choice
@pytest.mark.parametrize("case", CHOSEN.values(), ids=CHOSEN.keys())
def test_integers_are_exact(isa: str, algorithm: str, case: Case) -> None:
    options = {"isa": isa, "algorithm": algorithm, "threads": 3}
    if _core.LARGE_TILES in transforms(case, **options):
        case = dataclasses.replace(case, dtype="float64")  # the bits that their sums need
    arrays = integers(case, transforms(case, **options))
    y = run(case, arrays, **options)
    assert np.array_equal(y, reference(case, arrays))


@cache
def heavy_weights() -> tuple[Case, dict[str, np.ndarray], np.ndarray]:
    """72 MB of weights, which few caches hold: plans and kernels then fetch them otherwise."""
    case = Case((1, 2), (4, 4), group_in=2200, group_out=512, strides=(2, 2), bias=False)
    arrays = integers(case)
    return case, arrays, reference(case, arrays)


@each_isa
@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
def test_weights_that_no_cache_holds(isa: str, algorithm: str) -> None:
    case, arrays, expected = heavy_weights()
    y = run(case, arrays, isa=isa, algorithm=algorithm, threads=3)
    assert np.array_equal(y, expected)


# Every length of every vector loop's tail, and of its unrolled blocks'.


@each_isa
@each_algorithm
def test_every_number_of_output_channels(isa: str, algorithm: str) -> None:
    for channels in range(1, 68):
        case = Case((5,), (4,), group_out=channels, strides=(2,), pads=(1, 1))
        check(case, case.arrays(channels), algorithm, isa=isa)


@each_isa
@each_algorithm
def test_every_number_of_input_channels(isa: str, algorithm: str) -> None:
    for channels in range(1, 36):
        case = Case((5,), (4,), group_in=channels, strides=(2,), pads=(1, 1))
        check(case, case.arrays(channels), algorithm, isa=isa)


@each_isa
@each_algorithm
@pytest.mark.parametrize("stride", [1, 2, 3, 4, 7])
def test_every_row_length(isa: str, algorithm: str, stride: int) -> None:
    for width in range(1, 70, 1 if stride == 2 else 3):
        case = Case((2, width), (1, 2 * stride), strides=(1, stride), pads=(0, 1, 0, 0))
        check(case, case.arrays(width), algorithm, isa=isa)


# ---- weights that are not constant, and weights in 16 bits --------------------------------------


@each_isa
@each_choice
@pytest.mark.parametrize("case", CHOSEN.values(), ids=CHOSEN.keys())
def test_computed_weights(isa: str, algorithm: str, case: Case) -> None:
    """Weights of a run alone are packed by its threads: the same sums of another plan's parts."""
    arrays = case.arrays()
    options = {"isa": isa, "algorithm": algorithm, "threads": 2, "constant_weights": False}
    transformed = transforms(case, algorithm, isa=isa, threads=2, constant_weights=False)
    y = run(case, arrays, **options)
    assert_within(y, reference(case, arrays), allowed(case, arrays, transformed=transformed))


@each_isa
@each_choice
def test_computed_weights_that_are_not_finite(isa: str, algorithm: str) -> None:
    case = Case((5, 6), (4, 4), group_in=20, group_out=20, strides=(2, 2), pads=(1, 1, 1, 1))
    arrays = case.arrays()
    arrays["w"][3, 4, 1, 2] = np.inf
    options = {"isa": isa, "algorithm": algorithm, "threads": 2}
    computed = run(case, arrays, constant_weights=False, **options)
    assert same_bits(computed, run(case, arrays, **options))
    assert np.isfinite(computed[:, :4]).all() and not np.isfinite(computed[:, 4]).all()


@each_isa
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
@pytest.mark.parametrize("taps", range(1, 18))
def test_every_shape_of_packed_weights(isa: str, algorithm: str, taps: int, dtype: str) -> None:
    """Taps of an output channel lie side by side, and are packed as columns, some of them together:
    any number of them, of any number of output channels."""
    for channels in (1, 3, 4, 7, 8, 9, 16, 17, 20, 33):
        case = Case((6,), (taps,), group_in=9, group_out=channels, strides=(2,), dtype=dtype)
        arrays = case.arrays(channels)
        for constant in (True, False):
            check(case, arrays, algorithm, isa=isa, threads=1, constant_weights=constant)


@each_isa
@pytest.mark.parametrize("taps", (2, 4, 5, 9))
def test_taps_that_no_output_has_are_not_packed(isa: str, taps: int) -> None:
    case = Case((1,), (taps,), group_in=9, group_out=20, strides=(3,), pads=(taps - 1, 0))
    arrays = case.arrays()
    assert case.expected(arrays).shape[-1] == 1
    for constant in (True, False):
        check(case, arrays, "direct", isa=isa, threads=1, constant_weights=constant)


@each_isa
@pytest.mark.parametrize("taps", (1, 3, 4, 5, 6, 9))
def test_no_weight_that_is_not_finite_is_missed(isa: str, taps: int) -> None:
    """Each makes the whole layer run by its definition, which sums in another order."""
    case = Case((2,), (taps,), group_in=300, group_out=20, strides=(2,), bias=False)
    arrays, options = case.arrays(), {"isa": isa, "algorithm": "direct"}
    finite = run(case, arrays, constant_weights=False, **options)
    w = arrays["w"]
    for at in range(20 * taps):
        arrays["w"] = w.copy()
        arrays["w"][at].reshape(-1)[at] = (np.nan, np.inf, -np.inf)[at % 3]
        y = run(case, arrays, constant_weights=False, **options)
        assert same_bits(y, run(case, arrays, constant_weights=True, **options))
        others = np.arange(20) != at // taps
        assert np.isfinite(y[:, others]).all() and not np.isfinite(y[:, ~others]).all()
        assert not same_bits(y[:, others], finite[:, others])


def test_plans_know_whether_weights_are_constant() -> None:
    """To transform them in every run costs more than the transform saves in a small image."""
    shapes = (1, 512, 16, 16), (512, 512, 3, 3)
    computed = _core.plan(*shapes, strides=[2, 2], constant_weights=False)
    assert computed["algorithm"] == "direct"


KEPT = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
each_kept = pytest.mark.parametrize("weights", KEPT)


@each_isa
@each_choice
@each_kept
@pytest.mark.parametrize("case", CHOSEN.values(), ids=CHOSEN.keys())
def test_weights_in_16_bits(isa: str, algorithm: str, weights: str, case: Case) -> None:
    """Each weight, or each sum of weights in a transform, is off by a roundoff of its type."""
    arrays = case.arrays()
    options = {"isa": isa, "threads": 2, "weights": weights}
    y = run(case, arrays, algorithm=algorithm, **options)
    transformed = transforms(case, algorithm, **options)
    bound = allowed(case, arrays, transformed=transformed)
    rounding = KEPT[weights] * products_size(case, arrays, transformed) + 2.0**-24
    assert_within(y, reference(case, arrays), 1.01 * (bound + rounding))


def products_size(case: Case, arrays, transformed: Sequence[int]) -> np.ndarray:
    """What `allowed` multiplies with roundings, without bias and residual."""
    magnitude = {name: np.abs(arrays[name]).astype(np.float64) for name in "xw"}
    plain = dataclasses.replace(case, bias=False)
    if transformed:
        return window_sizes(plain, magnitude, transformed)
    return reference(plain, magnitude)


@each_isa
@each_kept
@pytest.mark.parametrize("algorithm", ["direct", "stacked"])
def test_weights_that_16_bits_hold_are_exact(isa: str, weights: str, algorithm: str) -> None:
    """A sum over taps reads them back as they were: the bits of float32's result."""
    for case in (
        Case((4, 4), (4, 4), group_in=37, group_out=53, strides=(2, 2), pads=(1, 1, 1, 1)),
        Case((9,), (64,), group_in=70, group_out=2, strides=(16,)),
    ):
        arrays = case.arrays()
        arrays["w"] = arrays["w"].astype(np.float16 if weights == "float16" else np.float32)
        if weights == "bfloat16":
            arrays["w"] = (arrays["w"].view(np.uint32) & 0xFFFF0000).view(np.float32)
        arrays["w"] = arrays["w"].astype(np.float32)
        options = {"isa": isa, "algorithm": algorithm}
        kept = run(case, arrays, weights=weights, **options)
        assert same_bits(kept, run(case, arrays, weights="float32", **options))
        assert same_bits(kept, run(case, arrays, **options))


@each_isa
def test_every_float16_is_read_back(isa: str) -> None:
    """All finite ones, subnormal ones included."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)].astype(np.float32)
    w = finite.reshape(1, -1, 1)
    x = np.ones((1, 1, 1), np.float32)
    y = _core.run(x, w, isa=isa, algorithm="direct", weights="float16")
    assert np.array_equal(y.ravel(), finite)


def test_16_bit_weights_take_half_the_memory() -> None:
    shapes = (1, 256, 4, 4), (256, 128, 4, 4)
    for algorithm in ("direct", "winograd", "stacked"):
        options = {"strides": [2, 2], "algorithm": algorithm}
        full = _core.plan(*shapes, **options)["packed_bytes"]
        for weights in KEPT:
            assert _core.plan(*shapes, weights=weights, **options)["packed_bytes"] == full // 2


def test_weights_that_do_not_fit_are_named() -> None:
    x, w = np.ones((1, 8, 4), np.float32), np.full((8, 16, 4), 7e4, np.float32)
    with pytest.raises(_core.Error, match=r"input W has values too large .* weights = 'float16'"):
        _core.run(x, w, strides=[2], algorithm="direct", weights="float16")
    y = _core.run(x, w, strides=[2], algorithm="direct", weights="bfloat16")
    assert np.isfinite(y).all()
    w[0, 0, 0] = np.finfo(np.float32).max  # which bfloat16 would round up
    with pytest.raises(_core.Error, match=r"weights = 'bfloat16': only float32 has the range"):
        _core.run(x, w, strides=[2], algorithm="direct", weights="bfloat16")
    with pytest.raises(
        _core.Error, match=r"attribute weights = 'int4': must be one of float32, float16"
    ):
        _core.run(x, w, strides=[2], weights="int4")
    double = x.astype(np.float64), w.astype(np.float64)
    for weights in ("float16", "int8"):
        with pytest.raises(_core.Error, match=rf"weights = '{weights}': inputs are float64"):
            _core.run(*double, strides=[2], weights=weights)


# ---- weights in 8 bits ---------------------------------------------------------------------------


def by_channel(case: Case, w: np.ndarray) -> np.ndarray:
    """Weights [C, M/group, ...] as rows of output channels."""
    taps = math.prod(case.kernel)
    rows = w.reshape(case.group, case.group_in, case.group_out, taps).swapaxes(1, 2)
    return rows.reshape(case.out_channels, case.group_in * taps)


def spread(case: Case, channels: np.ndarray) -> np.ndarray:
    """Weights that are one number for each output channel."""
    rows = channels.reshape(case.group, 1, case.group_out).repeat(case.group_in, axis=1)
    ones = (1,) * len(case.spatial)
    return np.broadcast_to(rows.reshape(case.w_shape[:2] + ones), case.w_shape).astype(np.float64)


@each_isa
@pytest.mark.parametrize("algorithm", ["direct", "stacked"])  # the others keep float32
@pytest.mark.parametrize("case", CHOSEN.values(), ids=CHOSEN.keys())
def test_weights_in_8_bits(isa: str, algorithm: str, case: Case) -> None:
    """Each weight is off by half a scale at most, a 127th of the channel's largest."""
    arrays = case.arrays()
    options = {"isa": isa, "threads": 2, "weights": "int8"}
    assert not transforms(case, algorithm, **options)
    y = run(case, arrays, algorithm=algorithm, **options)
    scales = np.abs(by_channel(case, arrays["w"])).max(axis=1, initial=0) / 127
    magnitude = {"x": np.abs(arrays["x"]).astype(np.float64), "w": spread(case, scales / 2)}
    off = reference(dataclasses.replace(case, bias=False), magnitude)
    assert_within(y, reference(case, arrays), 1.01 * (allowed(case, arrays) + off + 2.0**-24))


def multiples(case: Case, scales: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays whose weights are float32 products of integers from -128 to 127 and their channel's
    scale."""
    arrays = case.arrays(seed)
    integers = np.random.default_rng(seed).integers(-128, 128, case.w_shape)
    each = spread(case, scales).astype(np.float32)
    return {**arrays, "w": integers.astype(np.float32) * each}


EPILOGUES_OF_INTEGERS = [PLAIN, Epilogue("Relu"), Epilogue("Clip", (-1.0, 2.0)), Epilogue("Silu")]


@each_isa
@each_algorithm
@pytest.mark.parametrize("epilogue", EPILOGUES_OF_INTEGERS, ids=str)
def test_weights_that_were_integers(isa: str, algorithm: str, epilogue: Epilogue) -> None:
    """With their own scales nothing is lost but to the rounding of sums and of their scaling."""
    for case in (
        Case((6, 5), (4, 4), group_in=37, group_out=53, strides=(2, 2), pads=(1, 1, 1, 1)),
        Case((9,), (64,), group_in=70, group_out=2, strides=(16,)),
        Case((4, 3, 5), (3, 3, 3), group=3, group_in=5, group_out=7, strides=(2, 1, 2)),
        Case((7, 9), (4, 4), group=40, group_in=1, group_out=1, strides=(2, 2)),
    ):
        scales = np.random.default_rng(1).uniform(1e-4, 3e-2, case.out_channels)
        scales[::3] *= -1
        scales = scales.astype(np.float32)
        arrays = with_residual(case, multiples(case, scales))
        given = {"weights": "int8", "weight_scales": scales.tolist()}
        y = run(case, arrays, epilogue, isa=isa, algorithm=algorithm, **given)
        # One rounding more, of the weights as they are given here.
        bound = allowed(case, arrays, epilogue) + 2.0**-23 * epilogue.slope * reference(
            case, {name: np.abs(value) for name, value in arrays.items()}
        )
        assert_within(y, reference(case, arrays, epilogue), 1.01 * bound)


@each_isa
@pytest.mark.parametrize("algorithm", ["direct", "stacked"])
def test_scales_that_are_powers_of_two_change_no_bit(isa: str, algorithm: str) -> None:
    for case in (
        Case((4, 4), (4, 4), group_in=37, group_out=53, strides=(2, 2), pads=(1, 1, 1, 1)),
        Case((9,), (64,), group_in=70, group_out=2, strides=(16,)),
    ):
        scales = 2.0 ** np.random.default_rng(2).integers(-9, 3, case.out_channels)
        arrays = multiples(case, scales)
        options = {"isa": isa, "algorithm": algorithm}
        kept = run(case, arrays, weights="int8", weight_scales=scales.tolist(), **options)
        assert same_bits(kept, run(case, arrays, **options))


@each_isa
@pytest.mark.parametrize("pixels", [1, 30])  # read by the product, and converted beforehand
def test_every_int8_is_read_back(isa: str, pixels: int) -> None:
    integers = np.arange(-128, 128).astype(np.float32)
    for scale in (np.float32(0.3), np.float32(1e-45), np.float32(-2.5e36)):
        w = (integers * scale).reshape(1, -1, 1)
        x = np.ones((1, 1, pixels), np.float32)
        options = {"weights": "int8", "weight_scales": [scale.item()]}
        y = _core.run(x, w, isa=isa, algorithm="direct", **options)
        assert np.array_equal(y, np.broadcast_to(w.reshape(1, -1, 1), y.shape))


@each_isa
def test_scales_of_weights_that_are_all_zero_or_subnormal(isa: str) -> None:
    """A scale that is rounded down would leave the largest weight without an integer."""
    tiny = np.float32(1e-45)
    for steps in (0, 1, 100, 127, 128, 190, 254, 255, 1000):
        w = np.full((1, 4, 1), steps * tiny, np.float32)
        w[0, 1] *= -1
        y = _core.run(
            np.ones((1, 1, 3), np.float32), w, isa=isa, algorithm="direct", weights="int8"
        )
        # Off by half a scale, which is itself a whole number of the smallest steps.
        assert np.abs(y - w).max() <= tiny * (1 + steps // 254)


def test_inputs_and_weights_that_are_not_finite_stay_so() -> None:
    case = Case((5, 6), (4, 4), group_in=20, group_out=20, strides=(2, 2), pads=(1, 1, 1, 1))
    arrays = case.arrays()
    arrays["w"][3, 4, 1, 2] = np.nan
    y = run(case, arrays, algorithm="direct", weights="int8")
    assert np.isnan(y[:, 4]).any() and np.isfinite(y[:, :4]).all()
    arrays = case.arrays()
    arrays["x"][0, 0, 2, 2] = np.inf
    expected = np.isfinite(run(case, arrays, algorithm="direct"))
    assert np.array_equal(
        np.isfinite(run(case, arrays, algorithm="direct", weights="int8")), expected
    )


def test_8_bit_weights_take_a_quarter_of_the_memory() -> None:
    shapes = (1, 256, 4, 4), (256, 128, 4, 4)
    for algorithm in ("direct", "stacked"):
        options = {"strides": [2, 2], "algorithm": algorithm}
        full = _core.plan(*shapes, **options)["packed_bytes"]
        assert _core.plan(*shapes, weights="int8", **options)["packed_bytes"] == full // 4
    options = {"strides": [2, 2], "weights": "int8"}
    assert _core.plan(*shapes, **options)["algorithm"] != "winograd"
    stands_in = _core.plan(*shapes, algorithm="winograd", **options)
    assert stands_in["algorithm"] == "direct"
    assert "sums of weights do not fit into int8" in stands_in["reason"]
    narrow = [
        _core.plan(*shapes, strides=[2, 2], algorithm="narrow", weights=w)["packed_bytes"]
        for w in ("float32", "int8")
    ]
    assert narrow[0] == narrow[1]


def test_weights_of_other_scales_are_packed_apart() -> None:
    w = np.ones((8, 16, 4), np.float32)
    options = {"algorithm": "direct", "weights": "int8"}
    one, same, other, own = (
        _core.pack((1, 8, 4), w, **options, **({} if scale is None else {"weight_scales": [scale]}))
        for scale in (1.0, 1.0, 0.5, None)
    )
    assert one is same and one is not other and own is not one and own is not other


def test_scales_are_checked() -> None:
    x, w = np.ones((1, 8, 4), np.float32), np.full((8, 6, 4), 3.0, np.float32)

    def refused(words: str, weights: str = "int8", **options) -> None:
        with pytest.raises(_core.Error, match=words):
            _core.run(x, w, strides=[2], algorithm="direct", weights=weights, **options)

    refused(
        "attribute weight_scales has 1 entries, and attribute weights is 'float16'",
        "float16",
        weight_scales=[1.0],
    )
    refused(
        "attribute weight_scales has 2 entries, must have 1 or one for each of the 6 output",
        weight_scales=[1.0, 2.0],
    )
    refused(
        "attribute weight_scales: entry 1 is nan, must be finite", weight_scales=[1.0, math.nan] * 3
    )
    refused("entry 0 is inf", weight_scales=[math.inf])
    words = "input W has the value 3 in output channel 2, where attribute weight_scales is "
    refused(words + "0: must be -128 to 127 times that", weight_scales=[1.0, 1.0, 0.0] * 2)
    refused(words + "0.01: must be", weight_scales=[1.0, 1.0, 0.01] * 2)
    y = _core.run(x, 0 * w, algorithm="direct", weights="int8", weight_scales=[0.0])
    assert not y.any()


# ---- borders -------------------------------------------------------------------------------------


@each_isa
@pytest.mark.parametrize("algorithm", ["direct", "stacked"])
def test_taps_outside_of_small_images(isa: str, algorithm: str) -> None:
    """Their products are left out where that pays: every size around the kernels' own."""
    for side in range(1, 9):
        for kernel, stride in ((4, 2), (5, 2), (6, 2), (3, 1), (9, 3), (2, 2)):
            case = Case(
                (side, 9 - side),
                (kernel, kernel),
                group_in=16,
                group_out=16,
                strides=(stride, stride),
                pads=((kernel - stride) // 2,) * 4,
            )
            arrays = integers(case)
            y = run(case, arrays, isa=isa, algorithm=algorithm, threads=2)
            assert np.array_equal(y, reference(case, arrays)), (side, kernel, stride)


# ---- the workload --------------------------------------------------------------------------------

WORKLOADS = Path(__file__).parents[2] / "benchmarks" / "workloads.json"


@cache
def workload(dtype: str) -> dict[str, Case]:
    """The layers with fewer channels and smaller images, the geometry untouched."""
    result = {}
    for rows in json.loads(WORKLOADS.read_text()).values():
        for row in rows if isinstance(rows, list) else []:
            batch, channels, *spatial = row["x"]
            group = row.get("group", 1)
            side = {1: 60, 2: 10, 3: 5}[len(spatial)]
            result[row["name"]] = Case(
                spatial=tuple(min(size, side) for size in spatial),
                kernel=tuple(row["kernel"]),
                batch=min(batch, 2),
                group=min(group, 3),
                group_in=min(channels // group, 21),
                group_out=min(row["m"] // group, 19),
                strides=tuple(row["strides"]),
                pads=tuple(row["pads"]),
                output_padding=tuple(row.get("output_padding", ())),
                dilations=tuple(row.get("dilations", ())),
                dtype=dtype,
            )
    return result


@each_isa
@each_dtype
@each_algorithm
def test_workload(isa: str, dtype: str, algorithm: str) -> None:
    for name, case in workload(dtype).items():
        try:
            check(case, case.arrays(), algorithm, isa=isa)
            transformed = transforms(case, algorithm, isa=isa)
            if _core.LARGE_TILES in transformed and dtype != "float64":
                continue
            exact = integers(case, transformed)
            y = run(case, exact, isa=isa, algorithm=algorithm)
            stored = reference(case, exact).astype(y.dtype)
            assert np.array_equal(y.astype(np.float64), stored.astype(np.float64))
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


@each_isa
def test_winograd_is_really_used(isa: str) -> None:
    """A NaN makes its tile fall back to plain sums (a transform would spread it), which round
    differently elsewhere in the tile; equal bits would mean that no transform ever ran."""
    case = Case((9, 9), (4, 4), group_in=20, group_out=20, strides=(2, 2))
    assert transforms(case, "winograd", isa=isa)
    arrays = case.arrays()
    ordinary = run(case, arrays, isa=isa, algorithm="winograd")
    arrays["x"][0, 0, 0, 0] = np.nan
    plain = run(case, arrays, isa=isa, algorithm="winograd")
    untouched = ~np.isnan(plain)
    assert not untouched[:, :, :4, :4].any()
    assert untouched[:, :, 4:].all()
    assert not same_bits(ordinary[untouched], plain[untouched])


# ---- the same bits -------------------------------------------------------------------------------

REPEATED = {
    name: CHOSEN[name]
    for name in (
        "the usual 4x4, stride 2",
        "image of many tiles",
        "volume of many tiles",
        "odd channels",
        "long signal",
        "batch of groups",
        "stride 600",
        "channel chunks",
    )
}


@each_isa
@each_choice
@pytest.mark.parametrize("case", REPEATED.values(), ids=REPEATED.keys())
def test_bits_depend_on_the_method_alone(isa: str, algorithm: str, case: Case) -> None:
    """Neither on the threads that share its tasks nor on the run."""
    arrays = case.arrays()
    results: dict[str, np.ndarray] = {}
    for threads in (1, 1, 2, 3, 5, 16):
        y = run(case, arrays, isa=isa, algorithm=algorithm, threads=threads)
        key = method(case, algorithm, isa=isa, threads=threads)
        assert same_bits(results.setdefault(key, y), y), threads


def test_bits_repeat_by_default() -> None:
    case = CHOSEN["image of many tiles"]
    first = run(case, case.arrays(), threads=5)
    assert all(same_bits(first, run(case, case.arrays(), threads=5)) for _ in range(5))


@each_isa
@each_algorithm
def test_batch_elements_do_not_depend_on_each_other(isa: str, algorithm: str) -> None:
    case = Case((9, 8), (4, 4), batch=3, group_in=5, group_out=6, strides=(2, 2))
    alone = dataclasses.replace(case, batch=1)
    arrays = case.arrays()
    together = run(case, arrays, isa=isa, algorithm=algorithm)
    same_method = len({method(each, algorithm, isa=isa) for each in (case, alone)}) == 1
    for n in range(case.batch):
        own = arrays | {"x": arrays["x"][n : n + 1]}
        part = check(alone, own, algorithm, isa=isa)
        assert same_bits(together[n : n + 1], part) or not same_method


# ---- what surrounds the sums ---------------------------------------------------------------------


@each_isa
@each_choice
@each_dtype
@pytest.mark.parametrize("operands", ["x w", "x w b", "x w z", "x w b z"])
def test_bias_and_residual(isa: str, algorithm: str, dtype: str, operands: str) -> None:
    case = Case((5, 9), (4, 4), group=2, group_out=5, strides=(2, 2), dtype=dtype)
    arrays = with_residual(case, case.arrays())
    given_arrays = {name: arrays[name] for name in operands.split()}
    check(case, given_arrays, algorithm, isa=isa, threads=2)


@each_isa
@each_choice
@pytest.mark.parametrize("epilogue", EPILOGUES[:-1], ids=lambda e: e.activation or "none")
def test_activation(isa: str, algorithm: str, epilogue: Epilogue) -> None:
    case = Case((5, 9), (3, 3), group_out=5, strides=(2, 2), output_padding=(1, 0))
    check(case, with_residual(case, case.arrays()), algorithm, epilogue, isa=isa)


@each_isa
@each_choice
def test_prelu_slopes_follow_the_channels(isa: str, algorithm: str) -> None:
    case = Case((5, 9), (4, 4), group=3, group_out=5, strides=(2, 2))
    epilogue = Epilogue("PRelu", tuple(np.linspace(-1, 3, 15).tolist()))
    check(case, case.arrays(), algorithm, epilogue, isa=isa, threads=2)


@each_isa
@each_choice
def test_any_memory_layout_is_read_and_none_is_written(isa: str, algorithm: str) -> None:
    case = Case((5, 9), (4, 4), group_in=4, group_out=6, strides=(2, 2))
    arrays = with_residual(case, case.arrays())
    expected = run(case, arrays, isa=isa, algorithm=algorithm)
    strided = {
        "x": np.ascontiguousarray(arrays["x"].T).T,
        "w": np.repeat(arrays["w"], 2, axis=1)[:, ::2],
        "b": np.ascontiguousarray(arrays["b"][::-1])[::-1],
        "z": np.broadcast_to(arrays["z"], (2, *arrays["z"].shape))[1],
    }
    copies = {name: array.copy() for name, array in strided.items()}
    for array in strided.values():
        array.flags.writeable = False
    assert same_bits(run(case, strided, isa=isa, algorithm=algorithm), expected)
    assert all(same_bits(strided[name].copy(), copy) for name, copy in copies.items())


# ---- empty problems ------------------------------------------------------------------------------

EMPTY = {
    "empty batch": Case((3, 3), (3, 3), batch=0, strides=(2, 2)),
    "no output channel": Case((3, 3), (3, 3), group_out=0, strides=(2, 2)),
    "no channel at all": Case((3,), (3,), group_in=0, group_out=0, bias=False),
}


@each_isa
@each_choice
@each_dtype
@pytest.mark.parametrize("case", EMPTY.values(), ids=EMPTY.keys())
def test_empty_output(isa: str, algorithm: str, dtype: str, case: Case) -> None:
    case = dataclasses.replace(case, dtype=dtype)
    y = run(case, with_residual(case, case.arrays()), isa=isa, algorithm=algorithm, threads=2)
    assert y.dtype == DTYPES[dtype]
    assert list(y.shape) == _core.output_shape(case.x_shape, case.w_shape, **case.attributes)[0]
    assert y.size == 0


@each_isa
@each_choice
def test_empty_input_axis_leaves_the_bias(isa: str, algorithm: str) -> None:
    case = Case((0, 3), (4, 3), strides=(2, 2), group_out=5)
    arrays = case.arrays()
    y = run(case, arrays, isa=isa, algorithm=algorithm)
    assert y.shape == (1, 5, 2, 7)
    assert np.array_equal(y, np.broadcast_to(arrays["b"].reshape(1, 5, 1, 1), y.shape))


# ---- NaN, Inf and large values -------------------------------------------------------------------


def compare_non_finite(
    case: Case, arrays: dict[str, np.ndarray], algorithm: str, isa: str, threads: int
) -> None:
    """NaN and Inf exactly where the reference has them, everything else within its bound."""
    y = run(case, arrays, algorithm=algorithm, isa=isa, threads=threads).astype(np.float64)
    with np.errstate(invalid="ignore"):
        expected = reference(case, arrays)
    finite = np.isfinite(expected)
    assert 0 < finite.sum() < finite.size, "the case must have both"
    special = np.where(finite, 0, expected)
    assert np.array_equal(np.where(finite, 0, y), special, equal_nan=True)
    # Finite results saw finite values only; others may be what they like in the bound.
    tame = {name: value.astype(np.float64) for name, value in arrays.items()}
    tame = {name: np.where(np.isfinite(value), value, 0) for name, value in tame.items()}
    transformed = transforms(case, algorithm, isa=isa, threads=threads)
    error = np.abs(np.where(finite, y, 0) - np.where(finite, expected, 0))
    assert (error <= allowed(case, tame, transformed=transformed)).all()


NON_FINITE = {
    "4x4, stride 2": Case((9, 10), (4, 4), strides=(2, 2), pads=(1, 1, 1, 1)),
    "5x5, stride 2": Case((9, 10), (5, 5), strides=(2, 2), pads=(2, 2, 2, 2)),
    "3x3, stride 2": Case((9, 10), (3, 3), group_in=5, group_out=9, strides=(2, 2)),
    "3x3, stride 1": Case((9, 10), (3, 3), group=2),
    "8, stride 4": Case((50,), (8,), strides=(4,), pads=(2, 2)),
    "2x2, stride 2": Case((9, 10), (2, 2), group_in=1, strides=(2, 2)),
    "wide": Case((4, 60), (4, 4), group_out=1, strides=(2, 2), pads=(1, 1, 1, 1)),
    # A tile with such values packs the original weights of these, 32 channels at a time.
    "3x3, many channels": Case((5, 6), (3, 3), group_in=70, group_out=9, pads=(1, 1, 1, 1)),
    "5x5, groups": Case((4, 5), (5, 5), group=2, group_in=33, group_out=17, strides=(2, 2)),
}


@each_isa
@each_choice
@each_dtype
@pytest.mark.parametrize("case", NON_FINITE.values(), ids=NON_FINITE.keys())
def test_non_finite_inputs_stay_where_they_belong(
    isa: str, algorithm: str, dtype: str, case: Case
) -> None:
    case = dataclasses.replace(case, dtype=dtype)
    for seed, values in enumerate(([np.nan], [np.inf], [-np.inf], [np.nan, np.inf, -np.inf])):
        arrays = case.arrays(seed)
        rng = np.random.default_rng(seed)
        for value in values:
            arrays["x"].reshape(-1)[rng.integers(arrays["x"].size)] = value
        compare_non_finite(case, arrays, algorithm, isa, threads=1 + seed)


@each_isa
@each_dtype
def test_weights_that_winograd_keeps_need_no_others(isa: str, dtype: str) -> None:
    """``run`` takes W away where it is said not to be read, and above X is not finite."""

    def reads(case: Case, algorithm: str = "winograd", w: np.ndarray | None = None) -> bool:
        case = dataclasses.replace(case, dtype=dtype)
        w = case.arrays()["w"] if w is None else w
        return _core.reads_original(case.x_shape, w, isa, algorithm, **case.attributes)

    for kernel, stride, middle in (
        (4, 2, False),
        (3, 2, False),
        (5, 2, True),
        (3, 1, True),
        (6, 2, True),
    ):
        case = Case((9, 10), (kernel, kernel), strides=(stride, stride))
        assert transforms(case, "winograd", isa=isa)
        assert reads(case) == middle
        assert not reads(case, "direct")
    long = Case((50,), (16,), strides=(4,))  # groups of two taps
    assert transforms(long, "winograd", isa=isa)
    assert not reads(long)
    usual = dataclasses.replace(Case((9, 10), (4, 4), strides=(2, 2)), dtype=dtype)
    w = usual.arrays()["w"]
    w[0, 0, 0, 0] = np.nan
    assert reads(usual, w=w) and reads(usual, "direct", w=w)
    w[0, 0, 0, 0] = 0
    assert not reads(usual, w=w)
    if dtype != "float16":  # computed as float32, where none is too small
        w[0, 0, 0, 0] = np.finfo(w.dtype).tiny / 4 if dtype != "bfloat16" else 2.0**-130
        assert reads(usual, w=w)  # beside the others it became 0
        assert not reads(usual, "direct", w=w)


@each_isa
@each_choice
@pytest.mark.parametrize("name", ["b", "z"])
def test_non_finite_bias_and_residual(isa: str, algorithm: str, name: str) -> None:
    case = NON_FINITE["4x4, stride 2"]
    arrays = with_residual(case, case.arrays())
    arrays[name].reshape(-1)[:2] = np.nan, np.inf
    compare_non_finite(case, arrays, algorithm, isa, threads=1)


@each_isa
@each_choice
def test_zero_times_inf_is_nan(isa: str, algorithm: str) -> None:
    """A tap of weight zero still meets the Inf, as in the definition."""
    case = Case((6, 6), (4, 4), strides=(2, 2), pads=(1, 1, 1, 1), bias=False)
    arrays = case.arrays()
    arrays["w"][:, :, ::2] = 0
    arrays["x"][0, 1, 3, 3] = np.inf
    compare_non_finite(case, arrays, algorithm, isa, threads=1)


@each_isa
@each_choice
@each_dtype
@pytest.mark.parametrize("share", [1.0, 0.5, 0.0], ids=["large x", "large both", "large w"])
@pytest.mark.parametrize("kernel", [3, 4, 5])
def test_values_near_overflow_stay_finite(
    isa: str, algorithm: str, dtype: str, share: float, kernel: int
) -> None:
    """Sums of magnitudes of a sixteenth of the greatest number are far enough from it for every
    order of summation."""
    case = Case(
        (9, 10), (kernel, kernel), group_in=5, strides=(2, 2), pads=(1, 1, 1, 1), dtype=dtype
    )
    arrays = {name: value.astype(np.float64) for name, value in case.arrays().items()}
    largest = reference(case, {name: np.abs(value) for name, value in arrays.items()}).max()
    scale = {"float16": 65504.0, "float64": 1.7e308}.get(dtype, 3.3e38) / 16 / largest
    arrays["x"] *= scale**share
    arrays["w"] *= scale ** (1 - share)
    arrays = {name: value.astype(DTYPES[dtype]) for name, value in arrays.items()}
    y = run(case, arrays, isa=isa, algorithm=algorithm).astype(np.float64)
    assert np.isfinite(y).all()
    # Compared after division by a power of two, lest the bound itself overflow.
    small = {name: value.astype(np.float64) for name, value in arrays.items()}
    small |= {name: small[name] / 2.0**60 for name in ("x", "b")}
    error = np.abs(y / 2.0**60 - reference(case, small))
    transformed = transforms(case, algorithm, isa=isa)
    assert (error <= allowed(case, small, transformed=transformed)).all()


@each_isa
@each_choice
@each_dtype
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 2)])
def test_weights_whose_sums_are_too_large(
    isa: str, algorithm: str, dtype: str, kernel: int, stride: int
) -> None:
    """Winograd adds up three taps: of finite weights near the greatest number that is beyond it."""
    case = Case((9, 10), (kernel, kernel), strides=(stride, stride), bias=False, dtype=dtype)
    arrays = case.arrays()
    arrays["w"][0, 0] = {"float16": 60000.0, "float64": 1.7e308}.get(dtype, 3.3e38)
    arrays["x"] = (np.abs(arrays["x"].astype(np.float64)) * 1e-3).astype(arrays["x"].dtype)
    y = run(case, arrays, isa=isa, algorithm=algorithm).astype(np.float64)
    assert np.isfinite(y).all()
    small = {name: value.astype(np.float64) for name, value in arrays.items()}
    small["w"] = small["w"] / 2.0**60
    error = np.abs(y / 2.0**60 - reference(case, small))
    transformed = transforms(case, algorithm, isa=isa)
    assert (error <= allowed(case, small, transformed=transformed)).all()


@each_isa
@each_choice
@each_dtype
def test_results_too_large_become_inf(isa: str, algorithm: str, dtype: str) -> None:
    greatest = {"float16": 60000.0, "float64": 1.7e308}.get(dtype, 3.3e38)
    case = Case((3, 4), (4, 4), group_in=1, strides=(2, 2), bias=False, dtype=dtype)
    arrays = case.arrays()
    arrays["x"] = np.full_like(arrays["x"], greatest)
    arrays["w"] = np.full_like(arrays["w"], 1.5)
    arrays["w"][:, 1] = -1.5
    arrays["w"][:, 2] = 0.5 * STORE_ROUNDOFF[dtype]
    y = run(case, arrays, isa=isa, algorithm=algorithm).astype(np.float64)
    assert (y[:, 0] == math.inf).all()
    assert (y[:, 1] == -math.inf).all()
    assert np.isfinite(y[:, 2]).all()
