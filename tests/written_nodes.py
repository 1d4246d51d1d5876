"""A fixture: every node of the operator that the converter makes in a test fits the operator's
table, converters/schema.py."""

import onnx_ir as ir
import pytest

from ort_tconv.converters import pipeline
from ort_tconv.converters.nodes import DOMAIN, OP_TYPE, QUANTIZED_OP_TYPE, attribute
from ort_tconv.converters.schema import (
    ACTIVATIONS,
    ALGORITHMS,
    ATTRIBUTES,
    INPUTS,
    QUANTIZED_ACTIVATIONS,
    QUANTIZED_INPUTS,
    WEIGHTS,
)

_INPUTS = {OP_TYPE: INPUTS, QUANTIZED_OP_TYPE: QUANTIZED_INPUTS}
_VALUES = {"algorithm": ALGORITHMS, "weights": WEIGHTS}


@pytest.fixture(autouse=True)
def written_nodes(monkeypatch):
    rewrite = pipeline._rewrite

    def checked(source, selection, passes):
        known = {
            node.name for node in source.proto.graph.node if node.domain == DOMAIN
        }  # the test's own, which may be wrong on purpose
        result = rewrite(source, selection, passes)
        for owner in (result.model.graph, *result.model.functions.values()):
            for node in ir.traversal.RecursiveGraphIterator(owner):
                if node.domain == DOMAIN and node.name not in known:
                    check(node)
        return result

    monkeypatch.setattr(pipeline, "_rewrite", checked)


def check(node: ir.Node) -> None:
    inputs = list(_INPUTS[node.op_type].values())
    assert len(node.inputs) <= len(inputs), node
    for index, expected in enumerate(inputs):
        given = node.inputs[index] if index < len(node.inputs) else None
        assert given is not None or expected.optional, node
        if given is not None and given.dtype is not None:
            assert given.dtype in expected.types, node
    for name, value in node.attributes.items():
        assert name in ATTRIBUTES and value.type == ATTRIBUTES[name].type, node
        if name in _VALUES and not value.is_ref():
            assert value.as_string() in _VALUES[name], node
    activation = attribute(node, "activation")
    params = attribute(node, "activation_params", ())
    if activation is None:
        assert not params, node
        return
    rule = ACTIVATIONS[activation]
    assert rule.least <= len(params) and (rule.most is None or len(params) <= rule.most), node
    assert node.op_type == OP_TYPE or activation in QUANTIZED_ACTIVATIONS, node
