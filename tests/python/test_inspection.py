"""inspect(): its numbers against what a naive program counts, and its reports."""

import itertools
import json
import re
from html.parser import HTMLParser

import numpy as np
import onnx
import pytest
from cases import (
    CORNERS,
    Case,
    chain_model,
    conv_transpose_model,
    function_model,
    if_model,
    loop_model,
    model,
    tensor,
    value,
)
from contrast import MARK, contrast
from onnx import AttributeProto, helper
from qdq import Layer
from quantities import Quantized
from sessions import run_stock

import ort_tconv
from ort_tconv import _core
from ort_tconv.inspection import page
from ort_tconv.inspection.formulas import (
    column_buffer_bytes,
    conventional_macs,
    enlarged_input_bytes,
)

CASE = Case((5, 4), (4, 4), group_in=8, strides=(2, 2), pads=(1, 1, 1, 1))
SMALL = {name: case for name, case in CORNERS.items() if 0 not in case.x_shape}


def the_site(source: onnx.ModelProto, **options):
    (site,) = ort_tconv.inspect(source, **options).sites
    return site


def zero_inserted(case: Case, x: np.ndarray, y_shape) -> np.ndarray:
    """The enlarged, padded input, built element by element."""
    _, pads = _core.output_shape(case.x_shape, case.w_shape, **case.attributes)
    axes = len(case.spatial)
    strides, dilations = case.strides or (1,) * axes, case.dilations or (1,) * axes
    reach = [d * (k - 1) for d, k in zip(dilations, case.kernel, strict=True)]
    sides = [o + r for o, r in zip(y_shape[2:], reach, strict=True)]
    result = np.zeros((*x.shape[:2], *sides), x.dtype)
    for at in itertools.product(*map(range, case.spatial)):
        place = [i * s + r - p for i, s, r, p in zip(at, strides, reach, pads[:axes], strict=True)]
        if all(0 <= i < side for i, side in zip(place, sides, strict=True)):
            result[(slice(None), slice(None), *place)] = x[(slice(None), slice(None), *at)]
    return result


@pytest.mark.parametrize("name", SMALL)
def test_conventional_method(name):
    """Convolving an input of the size it names, with the multiply-adds it names, gives Y."""
    case = SMALL[name]
    y_shape, _ = _core.output_shape(case.x_shape, case.w_shape, **case.attributes)
    arrays = case.arrays()
    x, w = (arrays[n].astype(np.float64) for n in "xw")
    padded = zero_inserted(case, x, y_shape)
    assert padded.size * 4 == enlarged_input_bytes(
        case.x_shape, case.w_shape, y_shape, case.dilations or None, 4
    )
    axes = len(case.spatial)
    dilations = case.dilations or (1,) * axes
    y = np.zeros(y_shape)
    macs = 0
    for g in range(case.group):
        inputs = slice(g * case.group_in, (g + 1) * case.group_in)
        outputs = slice(g * case.group_out, (g + 1) * case.group_out)
        for tap in itertools.product(*map(range, case.kernel)):
            window = tuple(
                slice((k - 1 - t) * d, (k - 1 - t) * d + o)
                for t, k, d, o in zip(tap, case.kernel, dilations, y_shape[2:], strict=True)
            )
            seen = padded[(slice(None), inputs, *window)]
            weights = w[(inputs, slice(None), *tap)]
            y[:, outputs] += np.einsum("nc...,cm->nm...", seen, weights)
            macs += seen.size * case.group_out
    assert macs == conventional_macs(case.x_shape, case.w_shape, y_shape)
    without_bias = {n: v.astype(np.float64) for n, v in arrays.items() if n != "b"}
    expected = _core.reference(*without_bias.values(), **case.attributes)
    np.testing.assert_allclose(y, expected, atol=1e-12)


def test_size_of_the_paper():
    """(2N - 1 + 2P)^2 C values for stride 2, N = 224, P = 2 on the enlarged map, kernel 5."""
    x, w = (1, 3, 224, 224), (3, 1, 5, 5)
    y, _ = _core.output_shape(x, w, strides=[2, 2], pads=[2] * 4)
    assert enlarged_input_bytes(x, w, y) == (2 * 224 - 1 + 2 * 2) ** 2 * 3 * 4


def test_column_buffer():
    """M/group k^d values for each input position, of one image and group."""
    assert column_buffer_bytes((2, 6, 5, 7), (6, 3, 4, 2), 4) == 3 * 4 * 2 * 5 * 7 * 4


@pytest.mark.parametrize("converted", [False, True])
@pytest.mark.parametrize("isa", [None, *_core.compiled_isas()])
def test_quantized_site(isa, converted):
    original = Layer(CASE, Quantized(activation="Relu")).model()
    source = ort_tconv.convert(original) if converted else original
    site = the_site(source, threads=2, isa=isa)
    assert (site.node, site.reason) == ("up", None)
    assert site.state == ("converted" if converted else "rewritable")
    assert (site.dtype, site.x_shape, site.w_shape) == ("uint8", CASE.x_shape, CASE.w_shape)
    plan = _core.quantized_plan(
        CASE.x_shape, CASE.w_shape, isa=isa or "", threads=2, strides=[2, 2], pads=[1] * 4
    )
    assert site.plan == plan and plan["tile"] == [1, 5, 4]
    names = {"avx512": "avx512vnni"}
    assert plan["isa"] == (_core.quantized_isa() if isa is None else names.get(isa, isa))
    text = str(ort_tconv.inspect(source, isa=isa))
    assert f"{plan['algorithm']}, 8 bits: {plan['isa']}" in text
    assert site.bytes.column_buffer == site.w_shape[1] * 16 * 20 * 4  # stock's is of float32


def test_shapes_behind_quantized_nodes():
    """They are inferred: a second layer behind each has a plan, whatever the types between them."""
    first, second = (Layer(CASE, Quantized(x=x, y="int8")) for x in ("uint8", "int8"))
    nodes = list(first.model().graph.node)
    constants = list(first.model().graph.initializer)
    follow = second.model().graph
    for tensor_ in follow.initializer:
        tensor_.name += "2"
        constants.append(tensor_)
    for node in follow.node:
        node.name += "2"
        node.input[:] = [f"{n}2" if n != "x" else "y" for n in node.input]
        node.output[:] = [f"{n}2" for n in node.output]
        nodes.append(node)
    channels = {"w2": (CASE.out_channels, 3, 4, 4), "w_scale2": (3,), "w_zero_point2": (3,)}
    for tensor_ in constants:
        if tensor_.name in channels | {"b2": 0, "b_scale2": 0}:
            shape = channels.get(tensor_.name, (3,))
            array = np.ones(shape, onnx.numpy_helper.to_array(tensor_).dtype)
            tensor_.CopyFrom(onnx.numpy_helper.from_array(array, tensor_.name))
    inputs = list(first.model().graph.input)
    result = helper.make_tensor_value_info("y2", onnx.TensorProto.INT8, None)
    source = model(helper.make_graph(nodes, "two", inputs, [result], constants), 17)
    for each in (source, ort_tconv.convert(source)):
        one, two = ort_tconv.inspect(each).sites
        assert one.y_shape == two.x_shape and (one.dtype, two.dtype) == ("uint8", "int8")
        assert one.plan and two.plan


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_site(dtype):
    case = Case((20, 20), (4, 4), group_in=64, group_out=64, strides=(2, 2), pads=(1,) * 4)
    case = Case(**vars(case) | {"dtype": dtype})
    site = the_site(conv_transpose_model(case, dynamic=True), shapes={"x": case.x_shape}, threads=2)
    assert (site.node, site.where, site.op_type) == ("up", "graph", "ConvTranspose")
    assert (site.state, site.rewrites, site.reason) == ("rewritable", ("conv_transpose",), None)
    assert (site.x_shape, site.w_shape) == (case.x_shape, case.w_shape)
    assert site.y_shape == (1, 64, 40, 40) and site.dtype == dtype
    assert site.attributes["strides"] == [2, 2]
    plan = _core.plan(
        case.x_shape, case.w_shape, dtype=dtype, threads=2, strides=[2, 2], pads=[1] * 4
    )
    assert site.plan == plan
    assert site.macs.direct == 64 * 64 * 16 * 400
    assert site.macs.conventional == 4 * site.macs.direct
    size = {"float32": 4, "float64": 8}.get(dtype, 2)
    assert site.bytes.column_buffer == 64 * 16 * 400 * size
    assert site.bytes.intermediate == 64 * 43 * 43 * size
    assert site.share == 1


def test_multiplications_that_plans_execute():
    """Direct: taps for each output. Winograd F(4,2) of 2x2 taps: 25 products for 16 outputs."""
    case = Case((48, 48), (4, 4), group_in=64, group_out=64, strides=(2, 2), pads=(1,) * 4)

    def executed(algorithm: str) -> float:
        plan = _core.plan(
            case.x_shape, case.w_shape, algorithm=algorithm, strides=[2, 2], pads=[1] * 4
        )
        assert plan["algorithm"] == algorithm
        return plan["executed_macs"]

    outputs = 64 * 64 * 96 * 96
    assert executed("direct") == outputs * 4
    # Each sub-kernel's tiles begin at its own first output: 48 are 12 tiles.
    assert executed("winograd") == 12**2 * 4 * 25 * 64 * 64
    assert executed("winograd") < executed("direct") / 1.9


def test_options():
    source = conv_transpose_model(CASE)
    inspection = ort_tconv.inspect(source, isa="baseline", threads=7)
    assert (inspection.isa, inspection.threads) == ("baseline", 7)
    assert inspection.sites[0].plan == _core.plan(
        CASE.x_shape, CASE.w_shape, isa="baseline", threads=7, **CASE.attributes
    )
    forced = ort_tconv.convert(source, algorithm="direct")
    assert the_site(forced).plan["algorithm"] == "direct"


@pytest.mark.parametrize(
    ("source", "nodes"),
    [
        (chain_model(), ["up_y0", "up_y1", "up_y2"]),
        (if_model(), ["up_else_y", "up_then_y"]),
        (function_model(), ["call/inner"]),
    ],
    ids=["chain", "If", "function"],
)
def test_original_and_converted_models_show_the_same(source, nodes):
    before, after = ort_tconv.inspect(source), ort_tconv.inspect(ort_tconv.convert(source))
    assert sorted(site.node for site in before.sites) == nodes
    for one, other in zip(before.sites, after.sites, strict=True):
        assert (one.state, other.state) == ("rewritable", "converted")
        assert one.op_type.startswith("ConvTranspose")
        assert other.op_type == "SegregatedConvTranspose"
        assert one.plan == other.plan and one.macs == other.macs and one.bytes == other.bytes
    assert before.totals == after.totals


def test_what_becomes_the_epilogue_belongs_to_the_site():
    first, _ = ort_tconv.inspect(chain_model(2)).sites
    assert first.op_type == "ConvTranspose + LeakyRelu"
    assert first.rewrites == ("conv_transpose", "epilogue")
    alone = ort_tconv.inspect(ort_tconv.convert(chain_model(2), disable="epilogue")).sites[0]
    assert (first.macs, first.bytes) == (alone.macs, alone.bytes)


def test_sites_that_the_converter_leaves_alone():
    source = function_model({"strides": ("s", AttributeProto.INT)}, declared=["s"], given={"s": 2})
    site = the_site(source)
    assert site.state == "kept" and "type INT" in site.reason


def test_site_without_a_shape():
    inspection = ort_tconv.inspect(loop_model())
    (site,) = inspection.sites
    assert site.plan is None and site.macs is None and site.share is None
    assert site.reason.startswith("the shape of X is not known")
    assert inspection.notes == ["1 site(s) have no plan: see their reasons"]
    assert "not known" in str(inspection)


def test_site_that_the_operator_refuses():
    bad = conv_transpose_model(CASE, attributes=CASE.attributes | {"pads": [99] * 4})
    site = the_site(bad)
    assert site.plan is None and "pads" in site.reason


def test_share():
    """Of two equal sums, one a plain convolution, each takes about half of the time."""
    w = np.zeros((64, 64, 1, 1), np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["y"]),
            helper.make_node("ConvTranspose", ["y", "w"], ["z"]),
            helper.make_node("Relu", ["z"], ["r"]),
        ],
        "g",
        [value("x", "float32", [1, 64, 32, 32])],
        [value("r", "float32", [1, 64, 32, 32])],
        [tensor(w, "w")],
    )
    two = model(graph)
    assert the_site(ort_tconv.convert(two, algorithm="direct")).share == pytest.approx(0.5)
    assert 0.2 < the_site(two).share <= 0.5  # Winograd may be faster
    product = model(
        helper.make_graph(
            [
                helper.make_node("ConvTranspose", ["x", "w"], ["y"]),
                helper.make_node("Flatten", ["y"], ["f"]),
                helper.make_node("Gemm", ["f", "m"], ["r"]),
            ],
            "g",
            [value("x", "float32", [1, 64, 8, 8])],
            [value("r", "float32", [1, 512])],
            [tensor(w, "w"), tensor(np.zeros((4096, 512), np.float32), "m")],
        )
    )
    # The product has eight times the sums, and all of its weights come from memory.
    assert 0.02 < the_site(product).share < 0.9


def test_wrong_use():
    source = conv_transpose_model(CASE)
    with pytest.raises(ValueError, match="isa is 'mmx'; there are"):
        ort_tconv.inspect(source, isa="mmx")
    with pytest.raises(ValueError, match="threads is 0"):
        ort_tconv.inspect(source, threads=0)
    with pytest.raises(ValueError, match="no input 'z'"):
        ort_tconv.inspect(source, shapes={"z": (1,)})


def test_nothing_to_show():
    source = chain_model(0)
    inspection = ort_tconv.inspect(source)
    assert inspection.sites == [] and "0 transposed" in str(inspection)
    assert "No transposed convolution" in inspection.to_html()


def test_json():
    inspection = ort_tconv.inspect(chain_model())
    content = json.loads(json.dumps(inspection.to_dict(), allow_nan=False))
    assert content["sites"][1]["macs"]["direct"] == inspection.sites[1].macs.direct
    assert content["inputs"] == {"x0": [1, 4, 64, 64]}
    assert {"processor", "isa", "onnxruntime"} <= content["machine"].keys()


class _Page(HTMLParser):
    """What a page holds: elements that are open at the end, and what it would load."""

    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open, self.loaded, self.scripts, self.text = [], [], 0, ""

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        self.scripts += tag == "script"
        self.loaded += [v for name, v in attributes if name in ("src", "href", "onerror")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_html():
    source = chain_model()
    name = "<script>alert('1')</script>&\"<img src=x onerror=y>"
    source.graph.node[0].name = name
    source.graph.name = name
    page = _Page()
    html = ort_tconv.inspect(source).to_html()
    page.feed(html)
    assert page.open == [] and page.scripts == 0 and page.loaded == []
    assert page.text.count(name) >= 2  # as it stands in the model, and harmless
    assert "http" not in html and "url(" not in html and "@import" not in html
    assert "narrow" in page.text and "1.05 MB" in page.text


def test_every_value_of_the_page_names_its_column():
    """On a narrow screen the head of the table is not shown."""
    html = ort_tconv.inspect(chain_model()).to_html()
    cells = re.findall(r"<td[^>]*>", html)
    assert cells and all("data-column=" in cell for cell in cells)


def test_bars_stand_out_on_light_and_dark_pages():
    for light, dark in page._BARS.values():
        assert contrast(light, "#ffffff") >= MARK and contrast(dark, "#202020") >= MARK


def test_the_numbers_hold_for_what_runs():
    """The shapes that inspect names are those of a run."""
    source = conv_transpose_model(CASE, dynamic=True)
    (y,) = run_stock(source, {"x": CASE.arrays()["x"]})
    assert the_site(source, shapes={"x": CASE.x_shape}).y_shape == y.shape
