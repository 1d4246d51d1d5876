"""The engines that are timed: stock ONNX Runtime, ort-tconv, and other runtimes for comparison.

An engine has a name, the Python package that it needs, __init__(threads) and

    prepare(layer, model, x, w) -> (run, output)

`run()` computes the layer once, `output()` returns the result in ONNX's layout. What an engine may
do ahead of the calls (choosing algorithms, reordering weights, putting x into its own layout), it
does in prepare, which is not timed. It raises Unsupported, with the reason, for a layer that it
cannot express.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable

# Idle threads that spin in the hope of more work hold the cores that the next engine in turn needs.
# PyTorch's are OpenMP's, whose habits are read when the library is loaded: they may spin for about
# half a millisecond (GNU's: a count; LLVM's: milliseconds), which spans the gaps within one call.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
os.environ.setdefault("KMP_BLOCKTIME", "1")

import numpy as np
from onnx import ModelProto

Prepared = tuple[Callable[[], object], Callable[[], np.ndarray]]


class Unsupported(Exception):
    """The engine has no way to express this layer; the message says what is missing."""


def refuse_computed(layer) -> None:
    """For engines that prepare their weights before the first call."""
    if layer.computed:
        raise Unsupported("weights that may change from call to call")


# ---- ONNX Runtime ------------------------------------------------------------------------------


class StockOrt:
    """ONNX Runtime's own ConvTranspose, CPU."""

    name = "stock"
    package = "onnxruntime"
    # Seconds for which the engine's threads may still spin after a call; here measured: 40 ms.
    settle = 0.06
    whole = True  # runs the model itself, whatever it is

    def __init__(self, threads: int):
        import onnxruntime as ort

        self.ort = ort
        self.threads = threads

    def options(self):
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        return options

    def file(self, model: ModelProto, shapes: dict | None = None) -> bytes:
        """What a session of this engine is made from; ``shapes`` of inputs whose sizes are open."""
        return model.SerializeToString()

    def session(self, file: bytes):
        return self.ort.InferenceSession(file, self.options(), providers=["CPUExecutionProvider"])

    def bind(self, session, feeds: dict[str, np.ndarray]) -> Prepared:
        """Inputs and outputs stay where they are: what is timed is the session, not numpy."""
        value = self.ort.OrtValue.ortvalue_from_numpy
        binding = session.io_binding()
        inputs = {name: value(array) for name, array in feeds.items()}
        outputs = [value(y) for y in session.run(None, feeds)]
        for name, tensor in inputs.items():
            binding.bind_ortvalue_input(name, tensor)
        for meta, tensor in zip(session.get_outputs(), outputs):
            binding.bind_ortvalue_output(meta.name, tensor)

        def run() -> None:
            session.run_with_iobinding(binding)

        run.alive = feeds, inputs, outputs  # ONNX Runtime 1.21 does not hold what is bound
        return run, lambda: outputs[0].numpy()

    def prepare(self, layer, model: ModelProto, x: np.ndarray, w: np.ndarray) -> Prepared:
        feeds = {"x": x, "w": w} if layer.computed else {"x": x}
        return self.bind(self.session(self.file(model)), feeds)


class OverlapAdd(StockOrt):
    """What an inverse STFT is without ConvTranspose: one MatMul, and frames that are added up where
    they overlap."""

    name = "overlap_add"
    whole = False

    def prepare(self, layer, model: ModelProto, x: np.ndarray, w: np.ndarray) -> Prepared:
        from measure import make_model
        from onnx import helper

        if layer.group_name != "istft":
            raise Unsupported("not an inverse STFT")
        (n, _, frames), a = layer.x, layer.attributes
        (k,), (s,), (begin, end) = a["kernel_shape"], a["strides"], a["pads"]
        parts, length = k // s, (frames - 1) * s + k
        nodes = [
            helper.make_node("MatMul", ["w", "x"], ["columns"]),
            helper.make_node("Reshape", ["columns", "parts"], ["by_part"]),
            helper.make_node("Transpose", ["by_part"], ["in_order"], perm=[1, 0, 3, 2]),
            helper.make_node("Split", ["in_order"], [f"p{i}" for i in range(parts)], axis=0),
        ]
        constants = {
            "w": np.ascontiguousarray(w[:, 0].T),
            "parts": np.array([n, parts, s, frames]),
            "row": np.array([n, 1, frames * s]),
        }
        for i in range(parts):
            constants[f"pads{i}"] = np.array([0, 0, i * s, 0, 0, (parts - 1 - i) * s])
            nodes += [
                helper.make_node("Reshape", [f"p{i}", "row"], [f"r{i}"]),
                helper.make_node("Pad", [f"r{i}", f"pads{i}"], [f"a{i}"]),
            ]
        nodes.append(helper.make_node("Sum", [f"a{i}" for i in range(parts)], ["whole"]))
        constants |= {"from": np.array([begin]), "to": np.array([length - end])}
        constants["axis"] = np.array([2])
        nodes.append(helper.make_node("Slice", ["whole", "from", "to", "axis"], ["y"]))
        model = make_model("overlap_add", nodes, layer.x, [None] * 3, constants)
        return self.bind(self.session(self.file(model)), {"x": x})


class OrtTconv(StockOrt):
    """The same session with the converted model and our library registered."""

    name = "ours"

    def options(self):
        import ort_tconv

        return ort_tconv.register(super().options())

    def file(self, model: ModelProto, shapes: dict | None = None) -> bytes:
        import ort_tconv

        converted = ort_tconv.convert(model)
        # A refusal would make this a comparison of stock with itself.
        assert not any(n.op_type == "ConvTranspose" for n in converted.graph.node)
        return converted.SerializeToString()


class OrtTconvProvider(StockOrt):
    """The same session with the model as it is, and the execution provider, which may have no node
    to take: benchmarks say how many it takes."""

    name = "provider"

    def session(self, file: bytes):
        import ort_tconv

        options = ort_tconv.add_provider(self.options())
        return self.ort.InferenceSession(file, options, enable_fallback=0)


class OrtTconvTuned(OrtTconv):
    """The same with a model that was tuned here."""

    name = "tuned"

    def file(self, model: ModelProto, shapes: dict | None = None) -> bytes:
        import ort_tconv

        tuned = ort_tconv.convert(model, tune=True, threads=self.threads, shapes=shapes)
        return tuned.SerializeToString()


# ---- PyTorch -----------------------------------------------------------------------------------


class Torch:
    """torch.nn.functional.conv_transpose{1,2,3}d on the CPU, which calls oneDNN."""

    name = "torch"
    package = "torch"
    settle = 0.003  # its threads come to rest within 1 ms, see GOMP_SPINCOUNT above

    def __init__(self, threads: int):
        import torch

        self.torch = torch
        torch.set_num_threads(threads)

    def arguments(self, layer) -> tuple:
        """stride, padding, output_padding, groups, dilation"""
        a, d = layer.attributes, len(layer.x) - 2
        pads = a.get("pads", [0] * 2 * d)
        if a.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in a:
            raise Unsupported("auto_pad, output_shape")
        if pads[:d] != pads[d:]:
            raise Unsupported("different pads at the two ends")
        ones = [1] * d
        output_padding = a.get("output_padding", [0] * d)
        return (
            a.get("strides", ones),
            pads[:d],
            output_padding,
            layer.group,
            a.get("dilations", ones),
        )

    def prepare(self, layer, model: ModelProto, x: np.ndarray, w: np.ndarray) -> Prepared:
        torch, arguments = self.torch, self.arguments(layer)
        d = len(layer.x) - 2
        if d > 3:
            raise Unsupported(f"{d} spatial axes")
        function = getattr(torch.nn.functional, f"conv_transpose{d}d")
        tensor, weight = torch.from_numpy(x), torch.from_numpy(w)
        return self.inference(lambda: function(tensor, weight, None, *arguments))

    def inference(self, function: Callable) -> Prepared:
        result = None

        def run():
            nonlocal result
            with self.torch.inference_mode():
                result = function()

        return run, lambda: result.numpy()


class TorchPacked(Torch):
    """oneDNN with weights in its own layout, reordered beforehand: the call into which
    torch.compile turns the layer when weights are frozen."""

    name = "torch_packed"

    def prepare(self, layer, model: ModelProto, x: np.ndarray, w: np.ndarray) -> Prepared:
        refuse_computed(layer)
        stride, padding, output_padding, groups, dilation = self.arguments(layer)
        d = len(layer.x) - 2
        if d == 1:  # oneDNN's packed form starts with two axes
            x, w = x[:, :, None], w[:, :, None]
            stride, dilation = [1, *stride], [1, *dilation]
            padding, output_padding = [0, *padding], [0, *output_padding]
        ops = self.torch.ops.mkldnn
        tensor = self.torch.from_numpy(x)
        geometry = padding, output_padding, stride, dilation, groups
        try:
            with self.torch.inference_mode():
                weight = ops._reorder_convolution_transpose_weight(
                    self.torch.from_numpy(w), *geometry, list(x.shape)
                )
        except (AttributeError, RuntimeError) as error:
            raise Unsupported(str(error).splitlines()[0]) from error
        run, output = self.inference(
            lambda: ops._convolution_transpose_pointwise(
                tensor, weight, None, *geometry, "none", [], ""
            )
        )
        return run, (lambda: output()[:, :, 0]) if d == 1 else output


# ---- OpenVINO ----------------------------------------------------------------------------------


class OpenVino:
    """The same ONNX model, compiled by OpenVINO for the CPU for low latency. What it has in float
    is computed in float32."""

    name = "openvino"
    package = "openvino"
    settle = 0.003  # measured: TBB's workers use about 1 ms of CPU time after a call

    def __init__(self, threads: int):
        import openvino

        self.openvino = openvino
        self.core = openvino.Core()
        self.settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            # Otherwise it may bind this process's main thread to one core, for all engines.
            "ENABLE_CPU_PINNING": False,
        }

    def prepare(self, layer, model: ModelProto, x: np.ndarray, w: np.ndarray) -> Prepared:
        refuse_computed(layer)
        try:
            network = self.core.read_model(model.SerializeToString())
            compiled = self.core.compile_model(network, "CPU", self.settings)
        except RuntimeError as error:
            raise Unsupported(str(error).strip().splitlines()[-1]) from error
        request = compiled.create_infer_request()
        request.set_input_tensor(self.openvino.Tensor(x, shared_memory=True))
        # share_outputs: without it every call copies the result once more.
        return (
            lambda: request.infer(share_outputs=True),
            lambda: request.get_output_tensor().data,
        )


# ---- LiteRT ------------------------------------------------------------------------------------


class LiteRt:
    """TRANSPOSE_CONV of LiteRT, which runs on XNNPACK. Channels are last: x is given and y is left
    in that layout. A layer with one axis is one with two, the first of length 1."""

    name = "litert"
    package = "ai_edge_litert"
    settle = 0.0

    def __init__(self, threads: int):
        import flatbuffers  # noqa: F401
        from ai_edge_litert import interpreter, schema_py_generated

        self.interpreter = interpreter
        self.schema = schema_py_generated
        self.threads = threads

    def padding(self, layer, y: tuple[int, ...]) -> str:
        """SAME or VALID, whichever means the layer's pads."""
        a, d = layer.attributes, len(layer.x) - 2
        if d > 2:
            raise Unsupported(f"{d} spatial axes")
        if layer.group != 1:
            raise Unsupported("groups")
        if any(n != 1 for n in a.get("dilations", [])):
            raise Unsupported("dilations")
        strides = a.get("strides", [1] * d)
        pads = a.get("pads", [0] * 2 * d)[:d]
        sides = list(zip(layer.x[2:], a["kernel_shape"], strides, y[2:]))
        if all(o == (i - 1) * s + k for i, k, s, o in sides) and not any(pads):
            return "VALID"
        same = [max((i - 1) * s + k - o, 0) // 2 for i, k, s, o in sides]
        if all(i == math.ceil(o / s) for i, _, s, o in sides) and same == list(pads):
            return "SAME"
        raise Unsupported("pads that are neither SAME nor VALID")

    def prepare(self, layer, model: ModelProto, x: np.ndarray, w: np.ndarray) -> Prepared:
        refuse_computed(layer)
        y = layer.y
        padding = self.padding(layer, y)
        strides = list(layer.attributes.get("strides", [1] * (len(y) - 2)))
        one_axis = len(y) == 3
        if one_axis:
            x, w, strides = x[:, :, None], w[:, :, None], [1, *strides]
            y = (*y[:2], 1, *y[2:])
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        w = np.ascontiguousarray(w.transpose(1, 2, 3, 0))
        content = self.flatbuffer(x, w, [y[0], *y[2:], y[1]], strides, padding)
        interpreter = self.interpreter.Interpreter(model_content=content, num_threads=self.threads)
        interpreter.allocate_tensors()
        # What XNNPACK declines would run in LiteRT's own, much slower kernel.
        if all(op["op_name"] != "DELEGATE" for op in interpreter._get_ops_details()):
            raise Unsupported("declined by XNNPACK")
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
        index = interpreter.get_output_details()[0]["index"]

        def output() -> np.ndarray:
            result = interpreter.get_tensor(index).transpose(0, 3, 1, 2)
            return result[:, :, 0] if one_axis else result

        return interpreter.invoke, output

    def flatbuffer(self, x, w, y_shape, strides, padding) -> bytes:
        """A .tflite file of one TRANSPOSE_CONV."""
        import flatbuffers

        s = self.schema
        arrays = [None, np.array(y_shape, np.int32), w]
        model = s.ModelT(version=3, description="one layer")
        model.buffers = [s.BufferT() for _ in arrays]
        for buffer, array in zip(model.buffers[1:], arrays[1:]):
            buffer.data = np.frombuffer(array.tobytes(), np.uint8)

        def tensor(name, shape, type_, buffer):
            return s.TensorT(name=name, shape=list(shape), type=type_, buffer=buffer)

        float32, int32 = s.TensorType.FLOAT32, s.TensorType.INT32
        options = s.TransposeConvOptionsT(
            padding=getattr(s.Padding, padding), strideH=strides[0], strideW=strides[1]
        )
        transpose_conv = s.OperatorT(
            inputs=[0, 1, 2],
            outputs=[3],
            builtinOptionsType=s.BuiltinOptions.TransposeConvOptions,
            builtinOptions=options,
        )
        graph = s.SubGraphT(
            name="graph",
            tensors=[
                tensor("shape", [4], int32, 1),
                tensor("w", w.shape, float32, 2),
                tensor("x", x.shape, float32, 0),
                tensor("y", y_shape, float32, 0),
            ],
            inputs=[2],
            outputs=[3],
            operators=[transpose_conv],
        )
        code = s.BuiltinOperator.TRANSPOSE_CONV
        model.operatorCodes = [
            s.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=code, version=1)
        ]
        model.subgraphs = [graph]
        builder = flatbuffers.Builder(0)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


# Another engine is one more class. The first is the reference for both results and ratios.
ENGINES = (StockOrt, OrtTconv, OverlapAdd, Torch, TorchPacked, OpenVino, LiteRt)


def start(names: list[str], threads: int) -> tuple[list, dict[str, str]]:
    """The engines of these names that can be had here, and why others cannot."""
    engines, missing = [], {}
    for engine in ENGINES:
        if engine.name not in names:
            continue
        try:
            engines.append(engine(threads))
        except ImportError as error:
            missing[engine.name] = f"not installed ({error})"
    return engines, missing


def versions(engines) -> dict[str, str]:
    packages = dict.fromkeys(engine.package for engine in engines)
    return {name: importlib.import_module(name).__version__ for name in packages}
