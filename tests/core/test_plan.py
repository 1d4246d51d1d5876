"""Plans (custom_op/core/plan.h): how work is cut, for machines that need not be this one.

Nothing is computed here, so every instruction set that is built in is planned for.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cases import Case
from hypothesis import given, settings
from hypothesis import strategies as st

from ort_tconv import _core

WORKLOADS = Path(__file__).parents[2] / "benchmarks" / "workloads.json"
ISAS = _core.compiled_isas()
ALGORITHMS = _core.algorithms()
THREADS = (1, 2, 8, 64)
DTYPES = ("float32", "float64", "float16", "bfloat16")
MIB = 1 << 20


@dataclass(frozen=True)
class Layer:
    name: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    attributes: dict[str, Any]

    @property
    def group(self) -> int:
        return self.attributes.get("group", 1)

    @property
    def out_channels(self) -> int:
        return self.w[1]

    def plan(self, **options: Any) -> dict[str, Any]:
        return _core.plan(self.x, self.w, **self.attributes, **options)

    def domain(self, plan: dict[str, Any]) -> list[int]:
        """Positions along each axis that the plan has to cover: the batch, then the image's."""
        return [self.x[0], *(axis["domain"] for axis in self.axes(plan))]

    def sub_kernels(self, plan: dict[str, Any]) -> int:
        return math.prod(len(axis["classes"]) for axis in self.axes(plan))

    def axes(self, plan: dict[str, Any]) -> list[dict[str, Any]]:
        # Where an axis has one input position the engine takes the kernel's reach for the stride.
        sides, kernel = self.x[2:], self.w[2:]
        ones = [1] * len(sides)
        strides = self.attributes.get("strides", ones)
        dilations = self.attributes.get("dilations", ones)
        spread = [
            max(s, (k - 1) * d + 1) if side == 1 else s
            for side, s, k, d in zip(sides, strides, kernel, dilations)
        ]
        attributes = {**self.attributes, "strides": spread}
        if set(sides) == {1} and set(dilations) == {1}:
            # And where all have one, and no output is cut off or added, one axis in place of all.
            out, pads = _core.output_shape(self.x, self.w, **attributes)
            if not any(pads) and out[2:] == list(kernel):
                taps = math.prod(kernel)
                x, w = (*self.x[:2], 1), (*self.w[:2], taps)
                return _core.residue_classes(x, w, strides=[taps], group=attributes.get("group"))
        return _core.residue_classes(self.x, self.w, aligned=plan["aligned"], **attributes)

    def resized(self, *factors: int) -> Layer:
        """Batch and image sides times the factors; channels stay."""
        batch, *sides = factors
        grown = [size * factor for size, factor in zip(self.x[2:], sides)]
        return replace(self, x=(self.x[0] * batch, self.x[1], *grown))


def layers() -> list[Layer]:
    result = []
    for rows in json.loads(WORKLOADS.read_text()).values():
        for row in rows if isinstance(rows, list) else []:
            names = ("strides", "pads", "output_padding", "dilations", "group")
            attributes = {name: row[name] for name in names if name in row}
            w = (row["x"][1], row["m"] // row.get("group", 1), *row["kernel"])
            result.append(Layer(row["name"], tuple(row["x"]), w, attributes))
    return result


LAYERS = layers()
each_layer = pytest.mark.parametrize("layer", LAYERS, ids=[layer.name for layer in LAYERS])
each_algorithm = pytest.mark.parametrize("algorithm", ["auto", *ALGORITHMS])


def every_option(dtypes=DTYPES):
    return [
        {"isa": isa, "dtype": dtype, "threads": threads, "algorithm": algorithm}
        for isa in ISAS
        for dtype in dtypes
        for threads in THREADS
        for algorithm in ("auto", *ALGORITHMS)
    ]


def check_tiling(layer: Layer, options: dict[str, Any]) -> None:
    """Tiles cover the domain and channel blocks the channels, none of them without need, and the
    tasks are all of both."""
    plan = layer.plan(**options)
    domain = layer.domain(plan)
    assert len(plan["tile"]) == len(plan["tiles"]) == len(domain), (options, plan)
    for tile, tiles, positions in zip(plan["tile"], plan["tiles"], domain):
        assert tile >= 1, (options, plan)
        assert (tiles - 1) * tile < max(1, positions) <= tiles * tile, (options, plan, domain)
    block, blocks, per_task = plan["block"], plan["blocks"], plan["blocks_per_task"]
    if layer.out_channels > 0:
        lanes = layer.out_channels
        if plan["algorithm"] == "stacked":  # the sub-kernels stand beside the channels
            lanes *= layer.sub_kernels(plan)
        assert (blocks - 1) * block < lanes <= blocks * block, (options, plan)
        assert 1 <= per_task <= blocks, (options, plan)
        chunks = math.ceil(blocks / per_task)
        work = layer.group * math.prod(plan["tiles"]) * chunks
        assert plan["tasks"] == work, (options, plan)


# ---- the workload --------------------------------------------------------------------------------


@each_layer
def test_tiles_cover_the_domain(layer: Layer) -> None:
    for options in every_option():
        check_tiling(layer, options)


@each_layer
def test_macs_are_those_of_the_direct_method(layer: Layer) -> None:
    """Every input meets every tap: N C M/group prod(D k)."""
    expected = layer.x[0] * layer.x[1] * layer.out_channels * math.prod(layer.x[2:] + layer.w[2:])
    for algorithm in ("auto", *ALGORITHMS):
        assert layer.plan(algorithm=algorithm)["macs"] == expected


@each_layer
@pytest.mark.parametrize("isa", ISAS)
def test_cheapest_algorithm_is_chosen(layer: Layer, isa: str) -> None:
    for threads in THREADS:
        options = {"isa": isa, "threads": threads}
        forced = [layer.plan(algorithm=name, **options) for name in ALGORITHMS]
        chosen = layer.plan(**options)
        assert chosen["cost"] == min(plan["cost"] for plan in forced)
        same = [plan for plan in forced if plan["algorithm"] == chosen["algorithm"]]
        about_the_choice = ("reason", "text")
        assert {k: v for k, v in chosen.items() if k not in about_the_choice} in [
            {k: v for k, v in plan.items() if k not in about_the_choice} for plan in same
        ]
        assert layer.plan(algorithm="auto", **options) == chosen


@each_layer
def test_plans_repeat(layer: Layer) -> None:
    for options in every_option(dtypes=["float32"]):
        assert layer.plan(**options) == layer.plan(**options)


@each_layer
def test_plan_prints_itself(layer: Layer) -> None:
    plan = layer.plan(threads=2)
    for part in (plan["algorithm"], plan["reason"], str(plan["tile"]), f"tasks {plan['tasks']}"):
        assert part in plan["text"]


# ---- algorithms ----------------------------------------------------------------------------------

#: Algorithms that compute every problem; others hand some problems to direct and say so.
GENERAL = ("direct", "narrow")


def test_general_algorithms_exist() -> None:
    assert set(GENERAL) <= set(ALGORITHMS)


@pytest.mark.parametrize("algorithm", GENERAL)
def test_forced_algorithm_is_honoured(algorithm: str) -> None:
    for layer in LAYERS:
        for isa in ISAS:
            for dtype in DTYPES:
                plan = layer.plan(algorithm=algorithm, isa=isa, dtype=dtype, threads=2)
                assert plan["algorithm"] == algorithm, layer.name


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name not in GENERAL])
def test_algorithm_that_does_not_apply_says_so(algorithm: str) -> None:
    used = 0
    for layer in LAYERS:
        plan = layer.plan(algorithm=algorithm)
        if plan["algorithm"] == algorithm:
            used += 1
        else:
            assert plan["algorithm"] == "direct", layer.name
            assert plan["reason"].startswith("direct stands in"), layer.name
    assert used > 0, "no layer of the workload can use it"


#: Kernel, strides, and whether an axis has a class of several taps and none without one.
WINOGRAD_FORMS = {
    "2 taps": ((4, 4), (2, 2), True),
    "3 and 2 taps": ((5, 5), (2, 2), True),
    "3 taps": ((6, 6), (2, 2), True),
    "2 and 1 taps": ((3, 3), (2, 2), True),
    "stride 1": ((3, 3), (1, 1), True),
    "axes differ": ((5, 6), (2, 3), True),
    "1-D": ((4,), (2,), True),
    "3-D": ((4, 4, 4), (2, 2, 2), True),
    "2 taps beside 1": ((4, 2), (2, 2), True),
    "2 taps beside 4": ((4, 8), (2, 2), True),
    "2 taps beside none": ((4, 2), (2, 3), True),
    "1 tap": ((2, 2), (2, 2), False),
    "4 taps": ((8, 8), (2, 2), True),
    "7 and 6 taps": ((13, 13), (2, 2), True),
    "stride 1, 11 taps": ((11,), (1,), True),
    "classes without a tap": ((2, 2), (3, 3), False),
}


@pytest.mark.parametrize(
    "kernel, strides, has_form", WINOGRAD_FORMS.values(), ids=WINOGRAD_FORMS.keys()
)
def test_winograd_forms(kernel: tuple[int, ...], strides: tuple[int, ...], has_form: bool) -> None:
    case = Case((20,) * len(kernel), kernel, group_in=16, group_out=16, strides=strides)
    plan = _core.plan(case.x_shape, case.w_shape, algorithm="winograd", **case.attributes)
    assert plan["algorithm"] == ("winograd" if has_form else "direct")


@pytest.mark.parametrize(
    "stride, dilation, has_form",
    [(1, 3, True), (2, 3, False), (2, 1, True), (1, 1024, True), (1, 10**6, False)],
)
def test_winograd_of_taps_far_apart(stride: int, dilation: int, has_form: bool) -> None:
    case = Case((40,), (7,), group_in=16, group_out=16, strides=(stride,), dilations=(dilation,))
    plan = _core.plan(case.x_shape, case.w_shape, algorithm="winograd", **case.attributes)
    assert plan["algorithm"] == ("winograd" if has_form else "direct")


@pytest.mark.parametrize("axes, dilation", [(1, 2**40), (2, 10**6), (2, 1000), (3, 1000)])
def test_winograd_of_large_tiles_is_no_choice(axes: int, dilation: int) -> None:
    # All but a few outputs of each axis are cut off.
    pads = (dilation - 2, dilation - 2) * axes
    case = Case((5,) * axes, (3,) * axes, 1, 1, 2048, 16, dilations=(dilation,) * axes)
    plan = _core.plan(
        case.x_shape, case.w_shape, pads=pads, algorithm="winograd", **case.attributes
    )
    assert plan["algorithm"] == "direct"
    assert plan["scratch_bytes"] < 64e6


@pytest.mark.parametrize("algorithm", ["Direct", "fast", " direct", "direct,narrow"])
def test_unknown_algorithm(algorithm: str) -> None:
    with pytest.raises(_core.Error) as caught:
        LAYERS[0].plan(algorithm=algorithm)
    message = str(caught.value)
    assert f"algorithm = '{algorithm}'" in message
    assert all(name in message for name in ("auto", *ALGORITHMS))


def test_unknown_isa_or_dtype() -> None:
    with pytest.raises(_core.Error) as caught:
        LAYERS[0].plan(isa="sse9")
    assert all(name in str(caught.value) for name in ("'sse9'", *ISAS))
    with pytest.raises(_core.Error) as caught:
        LAYERS[0].plan(dtype="float8")
    assert all(name in str(caught.value) for name in ("'float8'", *DTYPES))


# ---- threads -------------------------------------------------------------------------------------

#: Domain positions below which a piece of work is not cut further.  Each piece fetches the weights
#: of its channel block again (direct: 96 positions; winograd: 24 tiles of at most 3 outputs an
#: axis), or works in rows of at least 16 vectors (narrow: 16 x 16 floats).
GRAIN = {
    "direct": lambda axes: 96,
    "stacked": lambda axes: 96,
    "narrow": lambda axes: 256,
    "winograd": lambda axes: 24 * 3**axes,
}
#: Multiply-adds a thread, one or two milliseconds, with which no shape is an excuse.
PLENTY = 50e6


@each_layer
@each_algorithm
def test_every_thread_has_work(layer: Layer, algorithm: str) -> None:
    """Work is enough if each thread can have a grain of the image for one block of channels."""
    for isa in ISAS:
        for dtype in ("float32", "float64"):
            for threads in THREADS:
                plan = layer.plan(isa=isa, dtype=dtype, threads=threads, algorithm=algorithm)
                grain = GRAIN[plan["algorithm"]](len(layer.x) - 2)
                pieces = math.prod(layer.domain(plan)) // grain * plan["blocks"]
                enough = layer.group * pieces >= threads
                # Of an algorithm that is forced where another suits, that is not asked.
                plenty = algorithm == "auto" and plan["macs"] >= threads * PLENTY
                if enough or plenty:
                    assert plan["tasks"] >= threads, (isa, dtype, threads, plan["text"])


@each_layer
def test_two_threads_both_have_work(layer: Layer) -> None:
    """The workload has no layer that is too small to be shared by two."""
    for isa in ISAS:
        assert layer.plan(isa=isa, threads=2)["tasks"] >= 2


def test_enough_work_is_not_rare() -> None:
    """The rule above would hold for any plan if no layer met its condition."""
    met = sum(layer.plan(isa=isa, threads=8)["tasks"] >= 8 for layer in LAYERS for isa in ISAS)
    assert met > 0.75 * len(LAYERS) * len(ISAS)


def test_one_thread_does_not_cut_more_than_memory_asks() -> None:
    small = Layer("small", (1, 8, 4, 4), (8, 8, 4, 4), {"strides": [2, 2], "pads": [1] * 4})
    for isa in ISAS:
        for algorithm in ALGORITHMS:
            assert small.plan(isa=isa, algorithm=algorithm)["tasks"] == 1


# ---- memory --------------------------------------------------------------------------------------


@each_layer
def test_scratch_is_bounded(layer: Layer) -> None:
    """4 MiB a thread, for the layer, a batch of 16, and 64 times the image."""
    axes = len(layer.x) - 2
    for size in (layer, layer.resized(16, *(1,) * axes), layer.resized(1, *(64,) * axes)):
        for options in every_option():
            assert size.plan(**options)["scratch_bytes"] <= 4 * MIB, (size.x, options)


@each_layer
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_scratch_does_not_follow_the_batch_or_the_image(layer: Layer, algorithm: str) -> None:
    """Tiles grow with the batch and the image up to a size: from 64 to 4096 times a side only their
    rounding changes, which at most doubles them, and which of three sizes is the cheapest."""
    for isa in ISAS:
        for axis in range(len(layer.x) - 1):
            plans = []
            for factor in (64, 4096):
                factors = [factor if i == axis else 1 for i in range(len(layer.x) - 1)]
                plans.append(layer.resized(*factors).plan(isa=isa, algorithm=algorithm))
            fewer, more = plans
            growth = 2 if fewer["kind"] == more["kind"] else 8
            assert more["scratch_bytes"] <= growth * fewer["scratch_bytes"], (isa, axis)


@each_layer
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_more_threads_need_no_more_scratch_each(layer: Layer, algorithm: str) -> None:
    for isa in ISAS:
        one = layer.plan(isa=isa, algorithm=algorithm, threads=1)
        for threads in THREADS[1:]:
            many = layer.plan(isa=isa, algorithm=algorithm, threads=threads)
            # Threads share the memory's bandwidth, which may make another form of Winograd cheaper,
            # or another size of tiles.
            if many["kind"] == one["kind"]:
                assert many["scratch_bytes"] <= one["scratch_bytes"]
            assert many["scratch_bytes"] <= 4 * MIB


@each_layer
@pytest.mark.parametrize("algorithm", GENERAL)
def test_packed_weights_depend_on_the_weights_alone(layer: Layer, algorithm: str) -> None:
    axes = len(layer.x) - 2
    for isa in ISAS:
        options = {"isa": isa, "algorithm": algorithm}
        packed = layer.plan(**options)["packed_bytes"]
        # No sub-kernel is dropped: at least the weights themselves.
        assert packed >= 4 * math.prod(layer.w)
        for size in (layer.resized(16, *(1,) * axes), layer.resized(1, *(8,) * axes)):
            assert size.plan(threads=8, **options)["packed_bytes"] == packed


# ---- any problem ---------------------------------------------------------------------------------


@st.composite
def drawn_layers(draw) -> Layer:
    axes = draw(st.integers(1, 4))

    def each(least: int, most: int) -> list[int]:
        return [draw(st.integers(least, most)) for _ in range(axes)]

    strides, dilations = each(1, 5), each(1, 3)
    kernel, sides = each(1, 9), each(1, 300 if axes < 3 else 40)
    group = draw(st.integers(1, 3))
    group_in, group_out = draw(st.integers(0, 400)), draw(st.integers(0, 400))
    attributes: dict[str, Any] = {"strides": strides, "dilations": dilations, "group": group}
    x = (draw(st.integers(0, 3)), group * group_in, *sides)
    w = (group * group_in, group_out, *kernel)
    full = _core.output_shape(x, w, **attributes)[0][2:]
    attributes["pads"] = [min(side - 1, draw(st.integers(0, 4))) for side in full] + [0] * axes
    return Layer("drawn", x, w, attributes)


@settings(max_examples=150)
@given(
    layer=drawn_layers(),
    isa=st.sampled_from(ISAS),
    dtype=st.sampled_from(DTYPES),
    algorithm=st.sampled_from(["auto", *ALGORITHMS]),
    threads=st.integers(1, 100),
)
def test_any_problem_is_covered(
    layer: Layer, isa: str, dtype: str, algorithm: str, threads: int
) -> None:
    options = {"isa": isa, "dtype": dtype, "algorithm": algorithm, "threads": threads}
    check_tiling(layer, options)
    assert layer.plan(**options)["scratch_bytes"] >= 0


#: An axis whose residue classes can be aligned, which makes its domain one longer, beside one whose
#: cannot.
MIXED = [
    Layer("row", (1, 1, 9, 40), (1, 1, 4, 1), {"strides": [2, 2], "pads": [1, 0, 1, 0]}),
    Layer("column", (1, 1, 9, 40), (1, 1, 1, 4), {"strides": [2, 2], "pads": [0, 1, 0, 1]}),
    Layer(
        "dilated row",
        (1, 1, 32, 40),
        (1, 1, 4, 4),
        {"strides": [2, 2], "pads": [1, 0, 1, 0], "dilations": [1, 2]},
    ),
]


@pytest.mark.parametrize("layer", MIXED, ids=[layer.name for layer in MIXED])
def test_axes_aligned_and_not_are_covered(layer: Layer) -> None:
    for options in every_option():
        check_tiling(layer, options)


# ---- caches --------------------------------------------------------------------------------------


def test_caches_of_another_machine() -> None:
    """A smaller L2 cache gets smaller tiles; weights beyond the last level count as heavy."""
    sides = {"strides": [2, 2], "pads": [1] * 4, "isa": ISAS[0]}
    shapes = [1, 64, 128, 128], [64, 64, 4, 4]
    small = _core.plan(*shapes, machine={"l2_bytes": 256 * 1024, "l3_bytes": 32 * MIB}, **sides)
    large = _core.plan(*shapes, machine={"l2_bytes": 2 * MIB, "l3_bytes": 32 * MIB}, **sides)
    assert small["scratch_bytes"] < large["scratch_bytes"]
    assert math.prod(small["tile"]) < math.prod(large["tile"])


#: What a guest of two processors says whose host has 260 MiB of last-level cache, and the engine
#: that was the fastest there: forced direct took 0.49 to 0.81 of Winograd's time on the first
#: three, on one thread and on two.
GUEST = {
    "cpuid_caches": [
        (1 | 1 << 5, 63, 48 * 1024 // 64 - 1, 0),
        (3 | 2 << 5, 63, 2 * MIB // 64 - 1, 0),
        (3 | 3 << 5 | 1 << 14, 63, 260 * MIB // 64 - 1, 0),
    ],
    "processors": 2,
}
FASTEST = {
    "ebgan_8x8x1024": "direct",
    "dcgan_8x8x512": "direct",
    "gpgan_8x8x256": "direct",
    "ebgan_16x16x512": "winograd",
}


@pytest.mark.skipif("avx512" not in ISAS, reason="avx512 is not built for this architecture")
@pytest.mark.parametrize("name", FASTEST)
@pytest.mark.parametrize("threads", [1, 2])
def test_layers_of_many_weights_on_another_processor(name: str, threads: int) -> None:
    layer = next(layer for layer in LAYERS if layer.name == name)
    machine = _core.machine(GUEST)
    plan = layer.plan(isa="avx512", threads=threads, machine=machine)
    assert plan["algorithm"] == FASTEST[name], plan["text"]


def test_weights_come_at_a_price() -> None:
    """However large the caches: of plans that are otherwise as fast the one with fewer is chosen,
    and Winograd's weights are at most those that pay for themselves."""
    layer = next(layer for layer in LAYERS if layer.name == "ebgan_4x4x2048")
    for isa in ISAS:
        for machine in ({"l3_bytes": 260 * MIB, "l3_sharers": 128}, {"l3_bytes": 0}):
            plan = layer.plan(isa=isa, threads=2, machine=machine)
            assert plan["packed_bytes"] <= 1.01 * 4 * math.prod(layer.w)


@pytest.mark.parametrize("threads", THREADS)
def test_computed_weights_are_transformed_where_many_tiles_use_them(threads: int) -> None:
    """Winograd's weights are several times as many, and all are made anew in each run."""
    if "avx2" not in ISAS:
        pytest.skip("avx2 is not built for this architecture")

    def algorithm(side: int, constant: bool) -> str:
        given = {"strides": [2, 2], "pads": [1] * 4, "isa": "avx2", "threads": threads}
        x, w = [1, 512, side, side], [512, 512, 3, 3]
        return _core.plan(x, w, constant_weights=constant, **given)["algorithm"]

    assert algorithm(8, constant=False) == "direct"
    assert algorithm(64, constant=False) == "winograd"
    assert algorithm(64, constant=True) == "winograd"


def narrow(x: list[int], w: list[int], *, isa: str = "baseline", **given: Any) -> dict[str, Any]:
    plans = _core.candidates(x, w, isa=isa, **given)
    return next(plan for plan in plans if plan["kind"] == "narrow")


@pytest.mark.parametrize(
    ("channels", "kernel", "block", "aligned"),
    [
        *[(1, 3, 1, True), (2, 3, 2, True), (3, 3, 3, False), (5, 3, 3, False), (8, 3, 4, False)],
        *[(1, 4, 1, True), (2, 4, 1, True), (3, 4, 3, False), (6, 4, 3, False)],
    ],
)
def test_rows_of_the_narrow_engine(channels: int, kernel: int, block: int, aligned: bool) -> None:
    """A row kernel takes four rows: those of a class's output channels, of as many in each block as
    there may be, or of one or two channels all classes that then read the same inputs."""
    given = {"strides": [2, 2], "pads": [1] * 4}
    plan = narrow([1, 16, 40, 40], [16, channels, kernel, kernel], **given)
    assert (plan["block"], plan["aligned"]) == (block, aligned)


@pytest.mark.parametrize(("channels", "block"), [(3, 3), (12, 12), (13, 7), (14, 7), (25, 9)])
def test_rows_of_a_larger_row_kernel(channels: int, block: int) -> None:
    if "avx512" not in _core.compiled_isas():
        pytest.skip("avx512 is not built for this architecture")
    given = {"strides": [2, 2], "pads": [1] * 4}
    plan = narrow([1, 16, 40, 40], [16, channels, 3, 3], isa="avx512", **given)
    assert plan["block"] == block


def test_each_task_copies_its_window() -> None:
    given = {"strides": [2, 2], "pads": [1] * 4}
    x, w = [1, 64, 8, 8], [64, 32, 3, 3]
    one, eight = (narrow(x, w, threads=threads, **given) for threads in (1, 8))
    assert (one["tiles"], one["tasks"]) == (eight["tiles"], 1)
    assert eight["tasks"] == 8
    assert eight["work"]["copies"] == 8 * one["work"]["copies"]


def test_windows_that_are_read_in_place_cost_no_copies() -> None:
    """Rows without a halo are read where they lie, but for channels so far apart that they push
    each other out of the first-level cache, and for types that are converted."""

    def copies(width: int, **given: Any) -> float:
        return narrow([1, 256, 16, width], [256, 32, 1, 1], **given)["work"]["copies"]

    assert copies(17) == 0
    assert copies(16) > 0
    assert copies(17, dtype="float16") > 0


@pytest.mark.parametrize("threads", (1, 2, 8))
def test_bytes_kept_have_a_price_for_every_thread(threads: int) -> None:
    """Costs count the work of all threads, each of which waits for a microsecond more."""
    x, w = [1, 1024, 8, 8], [1024, 512, 4, 4]
    given = {"strides": [2, 2], "pads": [1] * 4, "isa": "baseline", "threads": threads}
    costs = _core.CandidateCosts(x, w, **given)
    packed = [plan["packed_bytes"] for plan in _core.candidates(x, w, **given)]
    assert len(set(packed)) > 1
    for free, dear, kept in zip(costs({"kept_byte": 0}), costs({"kept_byte": 0.5}), packed):
        assert dear - free == pytest.approx(0.5 * threads * kept)
