"""The networks of examples/architectures, small, through both of PyTorch's exporters."""

import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

import ort_tconv
from ort_tconv.converters import convert_with_report

torch = pytest.importorskip(
    "torch", reason="PyTorch, which exports the networks, comes with the extra 'models'"
)
pytest.importorskip("onnxscript", reason="one of PyTorch's exporters needs onnxscript")

from architectures import ARCHITECTURES, export  # noqa: E402

EXPORTERS = {
    "torchscript": {},
    "torchscript_open_sizes": {"dynamic": True},
    "torchscript_opset_9": {"opset": 9},
    "torchscript_float16": {"dtype": torch.float16},
    "dynamo": {"dynamo": True},
    "dynamo_opset_23": {"dynamo": True, "opset": 23},
}

#: How many sites each pass rewrites; ``epilogue`` counts nodes that are folded into one.
SITES = {
    "dcgan": {"conv_transpose": 5, "epilogue": 9},
    "ebgan": {"conv_transpose": 5, "epilogue": 10},
    "pix2pix": {"conv_transpose": 5, "epilogue": 5},
    "stylegan2": {"conv_transpose": 3, "zero_insertion": 3, "epilogue": 3},
    "vae_decoder": {"upsample_conv": 3},
    "espcn": {"subpixel_conv": 1},
    "rrdb": {"upsample_conv": 2, "epilogue": 2},
    "rrdb_shuffle": {"subpixel_conv": 2, "epilogue": 2},
    "hifigan": {"conv_transpose": 4},
    "demucs": {"conv_transpose": 3, "epilogue": 2},
    "nnunet3d": {"conv_transpose": 2},
    "unet": {"conv_transpose": 3},
    "deeplab": {},
}
#: Passes whose gain depends on the machine: these are the most sites.
ESTIMATED = {
    "vae_decoder": ("upsample_conv",),
    "espcn": ("subpixel_conv",),
    "rrdb": ("upsample_conv", "epilogue"),
    "rrdb_shuffle": ("subpixel_conv", "epilogue"),
}
#: What differs in models of PyTorch's newer exporter: it has folded BatchNormalization already.
DYNAMO = {
    "dcgan": {"epilogue": 5},
    "ebgan": {"epilogue": 5},
    "pix2pix": {"epilogue": 1},
}
#: With open sizes, a residual is not known to have the output's shape.
OPEN_SIZES = {"stylegan2": {"epilogue": 0}}


@pytest.mark.filterwarnings("ignore")  # the exporters' own
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture(name, exporter):
    architecture = ARCHITECTURES[name]
    model = export(architecture, small=True, **EXPORTERS[exporter])
    result = convert_with_report(model)
    options = EXPORTERS[exporter]
    special = DYNAMO if "dynamo" in options else OPEN_SIZES if "dynamic" in options else {}
    sites = SITES[name] | special.get(name, {})  # a copy
    plain = {change.node for change in result.changes if change.rewrite == "unit_stride_conv"}
    found = Counter(
        change.rewrite
        for change in result.changes
        if change.rewrite != "unit_stride_conv" and change.nodes[0] not in plain
    )
    for rewrite in ESTIMATED.get(name, ()):
        assert found.pop(rewrite, 0) <= sites.pop(rewrite)
    assert found == Counter(sites), result.report
    report = ort_tconv.validate(model, result.model, shapes={"x": architecture.small_input})
    assert report.ok, report
    (y,) = report.outputs
    assert np.isfinite(y.max_abs)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_signal_is_alive(name):
    """Otherwise nothing that a converted layer does wrong would show in the output."""
    architecture = ARCHITECTURES[name]
    module = architecture.build(small=True)
    with torch.inference_mode():
        first, second = (module(torch.randn(*architecture.small_input)) for _ in range(2))
    assert 0.05 < first.std() < 10
    assert (first - second).abs().mean() > 0.05 * first.std()


def test_ocr_detector():
    """PP-OCR's text detector, which RapidOCR ships; examples/demo.py runs it."""
    package = importlib.util.find_spec("rapidocr_onnxruntime")
    if package is None:
        pytest.skip("rapidocr_onnxruntime, which holds the model, comes with the extra 'demo'")
    path = Path(package.origin).parent / "models" / "ch_PP-OCRv4_det_infer.onnx"
    result = convert_with_report(path)
    found = Counter(change.rewrite for change in result.changes)
    assert found == {"conv_transpose": 2, "epilogue": 5}, result.report
    (x,) = onnx.load(path).graph.input
    # On noise it finds no text: of values next to 0, stock's Sigmoid has no relative accuracy.
    report = ort_tconv.validate(path, result.model, shapes={x.name: (1, 3, 64, 96)})
    assert report.ok, report
