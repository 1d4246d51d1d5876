"""Numbers and shapes as reports print them."""

import pytest

from ort_tconv.base import text


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (999.6, "1.00 k"),
        (1234, "1.23 k"),
        (45678, "45.7 k"),
        (999_499, "999 k"),
        (999_500, "1.00 M"),
        (5e9, "5.00 G"),
        (3.2e15, "3.20 P"),
        (4e18, "4000 P"),
        (None, "?"),
    ],
)
def test_count(number, shown):
    assert text.count(number) == shown


def test_size():
    assert [text.size(n) for n in (0, 12, 1500, 2.5e6, None)] == [
        "0 B",
        "12 B",
        "1.50 kB",
        "2.50 MB",
        "?",
    ]


def test_percent():
    assert [text.percent(s) for s in (None, 0.0, 0.031, 0.1, 1.0)] == [
        "",
        "0.0 %",
        "3.1 %",
        "10 %",
        "100 %",
    ]


def test_dims():
    assert [text.dims(s) for s in (None, (), (1, 3))] == ["not known", "scalar", "1×3"]


def test_kernel():
    assert text.kernel({}, (8, 4, 3, 3)) == "k3×3"
    everything = {
        "strides": [2, 3],
        "dilations": [1, 2],
        "pads": [1, 0, 1, 0],
        "output_padding": [1, 1],
        "auto_pad": "SAME_UPPER",
        "group": 4,
    }
    shown = text.kernel(everything, (8, 4, 3, 5))
    assert shown == "k3×5 s2×3 d1×2 p1,0,1,0 op1,1 SAME_UPPER g4"
