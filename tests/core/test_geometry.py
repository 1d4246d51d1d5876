"""Residue classes (custom_op/core/geometry.h) against the definition of the operator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ort_tconv import _core


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a transposed convolution."""

    size: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    begin: int = 0
    end: int = 0
    output_padding: int = 0

    @property
    def full(self) -> int:
        """Outputs without pads."""
        reach = (self.kernel - 1) * self.dilation + 1
        return (self.size - 1) * self.stride + self.output_padding + reach

    @property
    def out(self) -> int:
        return self.full - self.begin - self.end

    def taps_of(self, output: int) -> set[tuple[int, int]]:
        """Every (tap, input index) the definition sums into ``output``, borders not clipped."""
        found = set()
        for tap in range(self.kernel):
            index, remainder = divmod(output + self.begin - tap * self.dilation, self.stride)
            if remainder == 0:
                found.add((tap, index))
        return found

    def classes(self, aligned: bool = False) -> dict[str, Any]:
        return classes([self], aligned)[0]


def classes(axes: list[Axis], aligned: bool) -> list[dict[str, Any]]:
    return _core.residue_classes(
        [1, 1, *(axis.size for axis in axes)],
        [1, 1, *(axis.kernel for axis in axes)],
        aligned=aligned,
        strides=[axis.stride for axis in axes],
        dilations=[axis.dilation for axis in axes],
        pads=[axis.begin for axis in axes] + [axis.end for axis in axes],
        output_padding=[axis.output_padding for axis in axes],
    )


def output(geometry: dict[str, Any], one: dict[str, Any], domain_index: int) -> int:
    """Where class ``one`` writes at a domain index, inside Y or not."""
    return geometry["stride"] * (domain_index - one["shift"]) + one["residue"]


@st.composite
def drawn_axes(draw) -> Axis:
    stride, dilation = draw(st.integers(1, 7)), draw(st.integers(1, 6))
    axis = Axis(
        size=draw(st.integers(1, 12)),
        kernel=draw(st.integers(1, 12)),
        stride=stride,
        dilation=dilation,
        output_padding=draw(st.integers(0, max(stride, dilation) - 1)),
    )
    begin = draw(st.integers(0, axis.full - 1))
    end = draw(st.integers(0, axis.full - 1 - begin))
    return Axis(**vars(axis) | {"begin": begin, "end": end})


CORNERS = {
    "4 taps, stride 2": Axis(5, 4, 2, begin=1, end=1),
    "sub-kernels of 3 and 2 taps": Axis(5, 5, 2, begin=2, end=2),
    "sub-kernels of 2 and 1 taps": Axis(5, 3, 2, begin=1, end=1, output_padding=1),
    "stride 1": Axis(6, 3, begin=1, end=1),
    "kernel equals stride": Axis(4, 3, 3),
    "kernel smaller than stride": Axis(4, 2, 5),
    "one tap": Axis(4, 1, 3),
    "gcd(dilation, stride) = 2": Axis(5, 3, 4, 2),
    "dilation a multiple of stride": Axis(5, 3, 2, 4),
    "dilation coprime to stride": Axis(5, 3, 3, 2, begin=2),
    "classes with different counts": Axis(5, 4, 3, begin=1, end=1),
    "fewer outputs than the stride": Axis(1, 3, 7, begin=0, end=1),
    "one output": Axis(3, 3, 2, begin=3, end=3),
    "pads beyond the kernel": Axis(9, 2, 3, begin=7, end=5),
    "output padding beyond the kernel": Axis(3, 2, 5, output_padding=4),
    "long kernel, short input": Axis(2, 40, 3, begin=5),
    "large stride": Axis(3, 64, 32, begin=16, end=16),
}
corners = pytest.mark.parametrize("axis", CORNERS.values(), ids=CORNERS.keys())
modes = pytest.mark.parametrize("aligned", [False, True], ids=["exact", "aligned"])


# ---- what holds for every axis -------------------------------------------------------------------


def check_partition(axis: Axis, geometry: dict[str, Any]) -> None:
    """Each output belongs to one class, whose taps are those of the definition."""
    seen: dict[int, int] = {}
    for number, one in enumerate(geometry["classes"]):
        assert one["count"] > 0, "a class that owns no output is not listed"
        for j in range(one["count"]):
            q = j + one["shift"]
            o = output(geometry, one, q)
            assert 0 <= o < axis.out
            assert o not in seen, f"classes {seen[o]} and {number} both own output {o}"
            seen[o] = number
            taps = [(tap, q + offset) for tap, offset in one["taps"]]
            assert len(set(taps)) == len(taps)
            assert set(taps) == axis.taps_of(o)
    assert sorted(seen) == list(range(axis.out))


def check_taps_belong_to_one_class(axis: Axis, geometry: dict[str, Any]) -> None:
    listed = [tap for one in geometry["classes"] for tap, _ in one["taps"]]
    assert len(set(listed)) == len(listed)
    met = {tap for o in range(axis.out) for tap, _ in axis.taps_of(o)}
    # With at least `stride` outputs every residue exists, so no tap may be missing.
    assert met == set(range(axis.kernel)) or axis.out < axis.stride
    assert set(listed) == met


def check_domain(axis: Axis, geometry: dict[str, Any]) -> None:
    """The domain covers every class, and a class's outputs outside its count lie outside Y."""
    found = geometry["classes"]
    assert geometry["stride"] == axis.stride
    assert geometry["out"] == axis.out
    assert geometry["domain"] == max((one["shift"] + one["count"] for one in found), default=0)
    assert sum(one["count"] for one in found) == axis.out
    for one in found:
        assert 0 <= one["residue"] < axis.stride
        assert one["shift"] >= 0
        for q in range(geometry["domain"]):
            owned = one["shift"] <= q < one["shift"] + one["count"]
            assert (0 <= output(geometry, one, q) < axis.out) == owned


def check_order(geometry: dict[str, Any]) -> None:
    """At one domain index the classes write consecutive outputs, from the origin on."""
    first = [output(geometry, one, 0) for one in geometry["classes"]]
    assert first == list(range(geometry["origin"], geometry["origin"] + len(first)))
    assert geometry["origin"] <= 0
    for one in geometry["classes"]:
        offsets = [offset for _, offset in one["taps"]]
        assert offsets == sorted(offsets, reverse=True)
    offsets = {offset for one in geometry["classes"] for _, offset in one["taps"]}
    assert geometry["offsets"] == sorted(offsets)


def check_alignment(axis: Axis, geometry: dict[str, Any], wanted: bool) -> None:
    found = geometry["classes"]
    spaced_alike = axis.dilation == 1 or axis.stride == 1
    possible = spaced_alike and len(found) == axis.stride and all(one["taps"] for one in found)
    assert geometry["aligned"] == (wanted and possible)
    if geometry["aligned"]:
        # All classes read the same window: they agree on the greatest offset, and the window is
        # as long as the longest sub-kernel.
        assert {one["taps"][0][1] for one in found} == {geometry["offsets"][-1]}
        longest = max(len(one["taps"]) for one in found)
        assert len(geometry["offsets"]) == longest == math.ceil(axis.kernel / axis.stride)
    else:
        assert all(one["shift"] == 0 for one in found)
        assert geometry["origin"] == 0


def check_gather_equals_scatter(axis: Axis, geometry: dict[str, Any], x: list[int]) -> None:
    w = [7 * tap + 1 for tap in range(axis.kernel)]
    scattered = [0] * axis.out
    for i in range(axis.size):
        for tap in range(axis.kernel):
            o = axis.stride * i + axis.dilation * tap - axis.begin
            if 0 <= o < axis.out:
                scattered[o] += x[i] * w[tap]
    gathered: list[int | None] = [None] * axis.out
    for one in geometry["classes"]:
        for q in range(one["shift"], one["shift"] + one["count"]):
            inside = [(t, q + d) for t, d in one["taps"] if 0 <= q + d < axis.size]
            gathered[output(geometry, one, q)] = sum(x[i] * w[t] for t, i in inside)
    assert gathered == scattered


def check(axis: Axis, aligned: bool) -> None:
    geometry = axis.classes(aligned)
    check_partition(axis, geometry)
    check_taps_belong_to_one_class(axis, geometry)
    check_domain(axis, geometry)
    check_order(geometry)
    check_alignment(axis, geometry, aligned)
    check_gather_equals_scatter(axis, geometry, [i * i + 3 for i in range(axis.size)])


@corners
@modes
def test_corner(axis: Axis, aligned: bool) -> None:
    check(axis, aligned)


@settings(max_examples=400)
@given(axis=drawn_axes(), aligned=st.booleans())
def test_any_axis(axis: Axis, aligned: bool) -> None:
    check(axis, aligned)


@settings(max_examples=200)
@given(axis=drawn_axes().filter(lambda axis: axis.kernel >= axis.stride), data=st.data())
def test_aligned_axes_are_not_rare(axis: Axis, data: st.DataObject) -> None:
    """Axes that can be aligned, drawn on purpose: dilation 1, a tap and an output a class."""
    plain = Axis(axis.size, axis.kernel, axis.stride)
    begin = data.draw(st.integers(0, plain.full - axis.stride))
    end = data.draw(st.integers(0, plain.full - axis.stride - begin))
    aligned = Axis(axis.size, axis.kernel, axis.stride, begin=begin, end=end)
    assert aligned.classes(aligned=True)["aligned"]
    check(aligned, True)


@settings(max_examples=100)
@given(axes=st.lists(drawn_axes(), min_size=2, max_size=4), aligned=st.booleans())
def test_axes_are_independent(axes: list[Axis], aligned: bool) -> None:
    assert classes(axes, aligned) == [axis.classes(aligned) for axis in axes]


# ---- worked by hand ------------------------------------------------------------------------------


def test_four_taps_stride_two_exact() -> None:
    """y[2j] = w1 x[j] + w3 x[j-1] and y[2j+1] = w0 x[j+1] + w2 x[j]."""
    geometry = Axis(5, 4, 2, begin=1, end=1).classes()
    assert geometry["classes"] == [
        {"residue": 0, "count": 5, "shift": 0, "taps": [(1, 0), (3, -1)]},
        {"residue": 1, "count": 5, "shift": 0, "taps": [(0, 1), (2, 0)]},
    ]
    assert (geometry["offsets"], geometry["domain"], geometry["origin"]) == ([-1, 0, 1], 5, 0)


def test_four_taps_stride_two_aligned() -> None:
    """Class 1 one step later: y[2q-1] = w0 x[q] + w2 x[q-1] reads what y[2q] reads."""
    geometry = Axis(5, 4, 2, begin=1, end=1).classes(aligned=True)
    assert geometry["classes"] == [
        {"residue": 1, "count": 5, "shift": 1, "taps": [(0, 0), (2, -1)]},
        {"residue": 0, "count": 5, "shift": 0, "taps": [(1, 0), (3, -1)]},
    ]
    assert (geometry["offsets"], geometry["domain"], geometry["origin"]) == ([-1, 0], 6, -1)


def test_kernel_smaller_than_stride_leaves_classes_without_taps() -> None:
    geometry = Axis(4, 2, 5).classes()
    assert [len(one["taps"]) for one in geometry["classes"]] == [1, 1, 0, 0, 0]
    # 17 outputs: the classes without a tap own 3 + 3 + 3 of them, which are the bias alone.
    assert [one["count"] for one in geometry["classes"]] == [4, 4, 3, 3, 3]


def test_common_divisor_of_dilation_and_stride_leaves_classes_without_taps() -> None:
    geometry = Axis(5, 3, 4, 2).classes()
    assert [one["taps"] for one in geometry["classes"]] == [[(0, 0), (2, -1)], [], [(1, 0)], []]
    assert not Axis(5, 3, 4, 2).classes(aligned=True)["aligned"]


def test_odd_output_gives_classes_different_counts() -> None:
    geometry = Axis(4, 5, 2, begin=2, end=2).classes()
    assert geometry["out"] == 7
    assert [(len(c["taps"]), c["count"]) for c in geometry["classes"]] == [(3, 4), (2, 3)]


def test_fewer_outputs_than_the_stride() -> None:
    """Residues 2 .. 6 own no output; tap 2 meets residue 2 only and is not listed."""
    geometry = Axis(1, 3, 7, begin=0, end=1).classes()
    assert [(c["residue"], c["count"], c["taps"]) for c in geometry["classes"]] == [
        (0, 1, [(0, 0)]),
        (1, 1, [(1, 0)]),
    ]
    assert geometry["domain"] == 1


def test_output_larger_than_the_full_size_ends_in_outputs_without_input() -> None:
    """output_shape may exceed what the input reaches; the classes still own every output."""
    (geometry,) = _core.residue_classes([1, 1, 2], [1, 1, 2], strides=[2], output_shape=[11])
    assert [one["count"] for one in geometry["classes"]] == [6, 5]
    assert geometry["domain"] == 6
