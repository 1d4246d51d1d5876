"""The converted model against stock onnxruntime: the same shapes, and values within rounding."""

import pytest
from cases import Case, assert_within, conv_transpose_model, drawn_cases
from hypothesis import given
from sessions import run_converted, run_stock

from ort_tconv import _core


def stock_is_right(case: Case) -> bool:
    """Whether stock onnxruntime can compute the case.

    It scatters columns of ``(out + pads - reach) // stride + 1`` positions an axis.  Where that is
    not the input's size, old releases (1.21) return wrong numbers and new ones (1.31) refuse the
    valid node.
    """
    y_shape, pads = _core.output_shape(case.x_shape, case.w_shape, **case.attributes)
    axes = len(case.spatial)
    return all(
        (out + pads[i] + pads[axes + i] - (k - 1) * dilation - 1) // stride + 1 == size
        for i, (out, k, size, stride, dilation) in enumerate(
            zip(
                y_shape[2:],
                case.kernel,
                case.spatial,
                case.strides or (1,) * axes,
                case.dilations or (1,) * axes,
                strict=True,
            )
        )
    )


@given(case=drawn_cases().filter(stock_is_right))
def test_same_as_stock(case):
    arrays = case.arrays()
    original = conv_transpose_model(case, arrays)
    feeds = {"x": arrays["x"]}
    (expected,) = run_stock(original, feeds)
    (actual,) = run_converted(original, feeds)
    assert actual.dtype == expected.dtype
    assert_within(actual, expected, 2 * case.bound(arrays))


# Where stock onnxruntime refuses or errs, the operator follows the definition.
BEYOND_STOCK = [
    Case((4, 3), (3, 2), strides=(1, 2), dilations=(3, 2), output_padding=(2, 1)),
    Case((3,), (2,), strides=(2,), output_shape=(9,)),
]


@pytest.mark.parametrize("case", BEYOND_STOCK)
def test_right_where_stock_is_not(case):
    assert not stock_is_right(case)
    arrays = case.arrays()
    (actual,) = run_converted(conv_transpose_model(case, arrays), {"x": arrays["x"]})
    assert_within(actual, case.expected(arrays), case.bound(arrays))
