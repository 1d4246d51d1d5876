"""The quantised engine against its definition: equal to the last bit, on every set of kernels."""

import re

import numpy as np
import pytest
from cases import CORNERS, Case, drawn_cases
from hypothesis import given
from instruction_sets import isa_parameters
from quantities import BYTES, OUTPUTS, Quantized, expected, reference, run, sums, ways_to_quantize

from ort_tconv import _core

USUAL = Case((6, 5), (4, 4), strides=(2, 2), pads=(1, 1, 1, 1), group_in=11, group_out=19)
WIDE = Case((9, 37), (3, 5), strides=(2, 3), pads=(1, 0, 1, 2), group_in=7, group_out=2)
ALGORITHMS = ("direct", "stacked", "narrow", "winograd")


each_isa = pytest.mark.parametrize(
    "isa",
    isa_parameters(
        _core.compiled_quantized_isas(),
        _core.quantized_isas(),
        _core.emulated_quantized_isas(),
    ),
)
each_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def check(case: Case, how: Quantized, seed: int = 0, **options) -> None:
    inputs = how.inputs(case, seed)
    y = run(case, how, inputs, **options)
    wanted = expected(case, how, inputs)
    assert y.dtype == OUTPUTS[how.y]
    np.testing.assert_array_equal(y, wanted)


def planned(case: Case, algorithm: str, isa: str) -> str:
    """The engine that is used where this one is asked for."""
    shapes = case.x_shape, case.w_shape
    return _core.quantized_plan(*shapes, algorithm=algorithm, isa=isa, **case.attributes)[
        "algorithm"
    ]


@each_isa
@each_algorithm
@pytest.mark.parametrize("corner", CORNERS)
def test_corners(corner, algorithm, isa):
    check(CORNERS[corner], Quantized(), algorithm=algorithm, isa=isa)
    check(
        CORNERS[corner],
        Quantized("int8", "uint8", "int8", "of a group", w_zeros=True),
        algorithm=algorithm,
        isa=isa,
    )


@each_isa
@each_algorithm
@pytest.mark.parametrize("y", OUTPUTS)
@pytest.mark.parametrize("w", BYTES)
@pytest.mark.parametrize("x", BYTES)
def test_types(x, w, y, algorithm, isa):
    for case in (USUAL, WIDE):
        for w_zeros in (False, True):
            for bias in ("", "int32", "float32"):
                how = Quantized(x, w, y, "each", w_zeros, bias)
                check(case, how, algorithm=algorithm, isa=isa)


@each_isa
@given(case=drawn_cases(most_axes=3), how=ways_to_quantize())
def test_any_case(isa, case, how):
    for algorithm in ALGORITHMS:
        check(case, how, algorithm=algorithm, isa=isa, threads=2)


@given(case=drawn_cases(most_axes=3), how=ways_to_quantize())
def test_the_definition_itself(case, how):
    inputs = how.inputs(case)
    np.testing.assert_array_equal(reference(case, how, inputs), expected(case, how, inputs))


@each_isa
@each_algorithm
def test_extreme_values_do_not_saturate_on_the_way(algorithm, isa):
    """Pairs of products at the ends of the range, which an instruction that saturates would cut."""
    case = Case((4, 5), (4, 4), strides=(2, 2), group_in=64, group_out=9)
    for x in BYTES:
        for w in BYTES:
            how = Quantized(x, w, "float32", "one", bias="")
            inputs = how.inputs(case)
            for pattern in (np.iinfo(w).max, np.iinfo(w).min):
                inputs["w"] = np.full(case.w_shape, pattern, w)
                inputs["x"] = np.full(case.x_shape, np.iinfo(x).max, x)
                inputs["x_zero_point"] = np.array(np.iinfo(x).min, x)
                y = run(case, how, inputs, algorithm=algorithm, isa=isa)
                np.testing.assert_array_equal(y, expected(case, how, inputs))


@each_isa
@each_algorithm
@pytest.mark.parametrize("w", BYTES)
def test_without_input_channels_the_bias_is_left(w, algorithm, isa):
    """Zero points of weights would be multiplied with sums of inputs, of which there are none."""
    case = Case((3, 4), (3, 3), strides=(2, 1), group_in=0, group_out=5)
    for w_zeros in (False, True):
        check(case, Quantized("uint8", w, w_zeros=w_zeros), algorithm=algorithm, isa=isa)


@each_isa
@each_algorithm
def test_many_channels_in_chunks(algorithm, isa):
    case = Case((2, 3), (5, 5), strides=(1, 1), group_in=1030, group_out=33)
    check(case, Quantized(), algorithm=algorithm, isa=isa)


#: Sub-kernels with equal taps, which are lanes of one product.
STACKED = {
    "rows in pieces": Case((7,), (160,), strides=(40,), pads=(11, 3), group_in=9, group_out=1),
    "rows of three blocks": Case((5,), (93,), strides=(31,), group_in=5, group_out=2),
    "rows put together": Case((6, 9), (4, 6), strides=(2, 3), pads=(1, 1, 2, 0), batch=2),
    "rows of one output": Case((9, 6), (6, 2), strides=(3, 1), group_in=7, group_out=3),
    "one position": Case((1,), (300,), strides=(70,), group_in=37, group_out=1),
    "positions that only fill up": Case((3, 5), (5, 4), strides=(5, 2), output_padding=(4, 1)),
    "groups": Case((11,), (24,), strides=(12,), group=3, group_in=6, group_out=2, batch=2),
    "volume": Case((2, 3, 4), (4, 2, 10), strides=(2, 2, 5), group_in=3, group_out=2),
    "chunks of channels": Case((6,), (512,), strides=(64,), group_in=1030, group_out=1),
}


@each_isa
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", STACKED)
def test_stacked(name, threads, isa):
    case = STACKED[name]
    assert planned(case, "stacked", isa) == "stacked"
    for how in (
        Quantized(),
        Quantized("int8", "uint8", "int8", "of a group", w_zeros=True, bias="float32"),
        Quantized("uint8", "int8", "float32", w_zeros=True, bias=""),
    ):
        check(case, how, algorithm="stacked", isa=isa, threads=threads)


#: Sub-kernels that Winograd transforms along all axes, or some.
TRANSFORMED = {
    "two taps": Case((7, 9), (4, 4), strides=(2, 2), pads=(1, 1, 1, 1), group_in=11, group_out=19),
    "three taps and two": Case((8, 5), (5, 5), strides=(2, 2), pads=(2, 2, 2, 2)),
    "groups of taps": Case((23,), (15,), strides=(2,), pads=(3, 4), group_in=6, group_out=10),
    "dilation": Case((17,), (4,), dilations=(3,), group_in=5, group_out=9),
    "one axis": Case((6, 9), (1, 4), strides=(1, 2), group_in=34, group_out=33),
    "volume": Case((3, 4, 5), (4, 4, 4), strides=(2, 2, 2), pads=(1,) * 6, group_in=7),
    "groups and images": Case((5, 6), (3, 4), strides=(1, 2), group=3, batch=2, group_in=9),
    "channels in passes": Case((4, 4), (4, 4), strides=(2, 2), group_in=301, group_out=20),
    "output padding": Case((4, 7), (4, 3), strides=(2, 1), output_padding=(1, 0)),
}


@each_isa
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", TRANSFORMED)
def test_winograd_is_exact(name, threads, isa):
    case = TRANSFORMED[name]
    wide = isa in ("avx2", "neon", "baseline")  # which multiply integers of 16 bits
    assert planned(case, "winograd", isa) == ("winograd" if wide else "direct")
    for how in (
        Quantized(extreme=True),
        Quantized("int8", "uint8", "int8", "of a group", w_zeros=True, bias="float32"),
        Quantized("uint8", "int8", "float32", w_zeros=True, bias="", extreme=True),
    ):
        check(case, how, algorithm="winograd", isa=isa, threads=threads)


def test_winograd_leaves_room_for_its_larger_sums():
    """2^31 / (255 * 128) products of a sum, of which each transformed axis takes half."""

    def kind(channels):
        shapes = (1, channels, 24, 24), (channels, 8, 4, 4)
        plan = _core.quantized_plan(*shapes, strides=[2, 2], algorithm="winograd", isa="avx2")
        return re.split(" in | aligned| tile", plan["text"])[0]

    assert kind(256) == "winograd of axes 1,2"
    assert kind(4113) in ("winograd of axes 1", "winograd of axes 2")
    assert kind(8224) in ("winograd of axes 1", "winograd of axes 2")
    assert kind(8225) == "direct"
    case = Case((3, 4), (4, 4), strides=(2, 2), group_in=4100, group_out=3)
    check(case, Quantized(extreme=True), algorithm="winograd")


def test_direct_stands_in_where_sub_kernels_have_other_taps():
    for attributes in (
        {"strides": [2, 2]},
        {"strides": [4, 4]},
        {"strides": [2, 1], "dilations": [2, 1]},
    ):
        plan = _core.quantized_plan((1, 8, 6, 6), (8, 4, 3, 3), algorithm="stacked", **attributes)
        assert plan["algorithm"] == "direct"
        assert "no stacked plan for these sub-kernels" in plan["text"]


@each_isa
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(
    "case",
    [
        Case((31, 29), (4, 4), batch=3, group_in=17, group_out=9, strides=(2, 2)),
        Case((3, 400), (2, 9), group_in=3, group_out=1, strides=(2, 2), pads=(0, 4, 0, 4)),
        Case((4, 4), (4, 4), group_in=33, group_out=150, strides=(2, 2), pads=(1, 1, 1, 1)),
        Case((700,), (16,), group_in=24, group_out=20, strides=(8,), pads=(4, 4)),
        Case((5, 2), (3, 3), group=6, group_in=4, group_out=5, strides=(2, 300)),
    ],
)
def test_tiles_and_tasks(case, threads, isa):
    for algorithm in ("auto", *ALGORITHMS):
        check(case, Quantized(), algorithm=algorithm, isa=isa, threads=threads)
        check(
            case,
            Quantized("int8", "uint8", w_zeros=True),
            algorithm=algorithm,
            isa=isa,
            threads=threads,
        )


@each_isa
def test_rounding_is_half_to_even(isa):
    """Sums of odd integers, halved."""
    case = Case((1, 21), (1, 1), group_in=1, group_out=1, bias=False)
    how = Quantized("int8", "int8", "int8", "one", bias="")
    inputs = how.inputs(case) | {
        "x": np.arange(-21, 21, 2, dtype=np.int8).reshape(case.x_shape),
        "x_zero_point": np.zeros((), np.int8),
        "w": np.ones(case.w_shape, np.int8),
        "x_scale": np.float32(1),
        "w_scale": np.array(0.5, np.float32),
        "y_scale": np.float32(1),
        "y_zero_point": np.zeros((), np.int8),
    }
    for algorithm in ALGORITHMS:
        y = run(case, how, inputs, algorithm=algorithm, isa=isa).reshape(-1)
        assert y.tolist()[:4] == [-10, -10, -8, -8]
        assert y.tolist()[-4:] == [6, 8, 8, 10]
        np.testing.assert_array_equal(y, np.rint(inputs["x"].reshape(-1) / 2).astype(np.int8))


@each_isa
@pytest.mark.parametrize("y", BYTES)
def test_saturation(y, isa):
    how = Quantized("uint8", "int8", y, "one", extreme=True)
    inputs = how.inputs(USUAL)
    inputs["y_scale"] = inputs["y_scale"] / np.float32(50)
    wanted = expected(USUAL, how, inputs)
    info = np.iinfo(y)
    assert (wanted == info.min).any()
    assert (wanted == info.max).any()
    np.testing.assert_array_equal(run(USUAL, how, inputs, isa=isa), wanted)


def test_kernels_give_the_same_bits():
    how = Quantized(y="float32", bias="float32")
    inputs = how.inputs(USUAL)
    results = {
        run(USUAL, how, inputs, isa=isa, algorithm=algorithm).tobytes()
        for isa in (*_core.quantized_isas(), *_core.emulated_quantized_isas())
        for algorithm in ALGORITHMS
    }
    assert len(results) == 1


def test_plans_use_lanes_for_what_there_is_more_of():
    def algorithm(x, w, isa="avx2", **attributes):
        return _core.quantized_plan(x, w, isa=isa, **attributes)["algorithm"]

    assert algorithm((1, 64, 32, 32), (64, 64, 4, 4), strides=[2, 2]) == "winograd"
    assert algorithm((1, 64, 32, 32), (64, 64, 4, 4), "avx512vnni", strides=[2, 2]) == "direct"
    assert algorithm((1, 64, 32, 32), (64, 64, 2, 2), strides=[2, 2]) == "direct"
    assert algorithm((1, 512, 4, 4), (512, 64, 4, 4), strides=[2, 2]) == "direct"
    assert algorithm((1, 64, 32, 32), (64, 1, 4, 4), strides=[2, 2]) == "narrow"
    assert algorithm((1, 64, 32, 32), (64, 1, 4, 4), strides=[2, 2], group=64) == "narrow"
    for isa in _core.compiled_quantized_isas():
        for frames in (1, 8, 200):
            assert algorithm((1, 1026, frames), (1026, 1, 1024), isa, strides=[256]) == "stacked"


def test_every_task_has_work():
    for threads in (1, 2, 16):
        plan = _core.quantized_plan(
            (1, 512, 4, 4), (512, 256, 4, 4), threads=threads, strides=[2, 2], pads=[1, 1, 1, 1]
        )
        assert plan["tasks"] >= threads
        assert plan["tasks"] <= plan["blocks"] * np.prod(plan["tiles"])


def test_sums_of_the_tests_are_exact():
    inputs = Quantized().inputs(USUAL)
    assert np.abs(sums(USUAL, inputs)).max() < 2**24
