"""The operator is the same to those who read its nodes, describe it and document it: all are
compared with the table in converters/schema.py.

The nodes themselves that the converter writes are compared with it in every test of the
converter, by ``written_nodes``.
"""

import ast
import inspect
import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import ort_tconv
from ort_tconv import _core
from ort_tconv.converters.nodes import DOMAIN, FLOATS, OP_TYPE, OP_VERSION, QUANTIZED_OP_TYPE
from ort_tconv.converters.schema import (
    ACTIVATIONS,
    ALGORITHMS,
    ATTRIBUTES,
    INPUTS,
    QUANTIZED_ACTIVATIONS,
    QUANTIZED_INPUTS,
    WEIGHTS,
)

ROOT = Path(__file__).parents[2]
X, W = (1, 4, 5, 5), (4, 6, 3, 3)
CPP_READERS = {
    "integer": "INT",
    "integers": "INTS",
    "list": "INTS",
    "text": "STRING",
    "floats": "FLOATS",
}
CPP_FIELDS = {
    "int64_t": "INT",
    "Dims": "INTS",
    "std::string": "STRING",
    "std::vector<float>": "FLOATS",
}
STUBS = {"int": "INT", "Sequence[int]": "INTS", "str": "STRING", "Sequence[float]": "FLOATS"}


def source(path: str) -> str:
    return (ROOT / path).read_text()


def types() -> dict[str, str]:
    return {name: attribute.type.name for name, attribute in ATTRIBUTES.items()}


# ---- C++ ---------------------------------------------------------------------------------------


def reads(text: str) -> dict[str, tuple[str, str]]:
    """Of each attribute that is read in C++: its type, and the value where it is missing."""
    found = re.findall(r'a\.(\w+) = read\.(\w+)\("(\w+)"(?:, ([^)]+))?\);', text)
    assert all(field == name for field, _, name, _ in found)
    return {name: (CPP_READERS[reader], missing) for _, reader, name, missing in found}


def test_kernels_read_these_attributes():
    read = reads(source("custom_op/ort/support.cc"))
    assert {name: kind for name, (kind, _) in read.items()} == types()
    for name, (_, missing) in read.items():
        default = ATTRIBUTES[name].default
        # An empty string is what the core takes for the default of every string.
        empty = missing == '""' and ATTRIBUTES[name].type == ir.AttributeType.STRING
        written = (
            "" if default is None else f'"{default}"' if isinstance(default, str) else str(default)
        )
        assert empty or missing == written, name


def test_shape_inference_reads_them_as_the_kernels_do():
    read = {name: kind for name, (kind, _) in reads(source("custom_op/ort/op.cc")).items()}
    assert len(read) == sum(attribute.conv_transpose for attribute in ATTRIBUTES.values())
    assert read.items() <= types().items()


def test_the_core_has_a_field_for_each_attribute():
    (struct,) = re.findall(
        r"struct Attributes \{(.*?)\n\};", source("custom_op/core/problem.h"), re.S
    )
    fields = {}
    for kind, names in re.findall(r"^  ([\w:<>]+) ([^;]+);", struct, re.M):
        fields |= {
            name: CPP_FIELDS[kind] for name in re.findall(r"(\w+)(?: = [^,]+)?(?:,|$)", names)
        }
    assert fields == types()


def test_activations_of_the_core():
    rules = re.findall(
        r'\{"(\w+)", ActivationKind::k\w+, (\d+), (-?\d+), ([\d.]+)f, ([\d.]+)f\}',
        source("custom_op/core/problem.cc"),
    )
    found = {}
    for name, least, most, *defaults in rules:
        count = max(0, int(most) - int(least))
        most = None if int(most) < 0 else int(most)
        found[name] = (int(least), most, tuple(map(float, defaults[:count])))
    assert found == {name: (r.least, r.most, r.defaults) for name, r in ACTIVATIONS.items()}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_numbers_of_parameters(name):
    rule, channels = ACTIVATIONS[name], W[1]
    allowed = set(range(rule.least, rule.least + 1 if rule.most is None else rule.most + 1))
    allowed |= {channels} if rule.most is None else set()
    for count in range(channels + 2):
        options = {"activation": name, "activation_params": [0.5] * count}
        if count in allowed:
            _core.output_shape(X, W, **options)
        else:
            with pytest.raises(_core.Error, match="activation_params has"):
                _core.output_shape(X, W, **options)


def test_parameters_that_are_left_out():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(X), rng.standard_normal(W)
    for name, rule in ACTIVATIONS.items():
        if rule.defaults:
            given = _core.reference(x, w, activation=name, activation_params=rule.defaults)
            np.testing.assert_array_equal(_core.reference(x, w, activation=name), given)


def test_activations_of_the_quantised_operator():
    (function,) = re.findall(
        r"void check_quantized_activation.*?\n\}", source("custom_op/core/quantized.cc"), re.S
    )
    kinds = set(re.findall(r"a\.kind == ActivationKind::k(\w+)", function)) - {"None"}
    assert kinds == set(QUANTIZED_ACTIVATIONS) and kinds <= ACTIVATIONS.keys()


def test_values_of_attributes():
    assert set(ALGORITHMS) == {"auto", *_core.algorithms()}
    for name in WEIGHTS:
        _core.output_shape(X, W, weights=name)
    for options, known in (({"weights": "?"}, WEIGHTS), ({"activation": "?"}, ACTIVATIONS)):
        with pytest.raises(_core.Error) as error:
            _core.output_shape(X, W, **options)
        listed = str(error.value).partition("must be ")[2].removeprefix("one of ")
        assert set(re.split(", | or ", listed)) == set(known)


def test_inputs_of_the_operators():
    for header, table, count in (("op", INPUTS, 2), ("qlinear_op", QUANTIZED_INPUTS, 8)):
        text = source(f"custom_op/ort/{header}.h")
        assert f"GetInputTypeCount() const {{ return {len(table)}; }}" in text
        assert f"return i < {count} ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL" in text
        assert [value.optional for value in table.values()] == [
            index >= count for index in range(len(table))
        ]
    everything = "".join(path.read_text() for path in (ROOT / "custom_op/ort").rglob("*.*"))
    (names,) = re.findall(r'\{\s*("x", "x_scale".*?)\}', everything, re.S)
    assert re.findall(r'"(\w+)"', names) == list(QUANTIZED_INPUTS)
    for name in (DOMAIN, OP_TYPE, QUANTIZED_OP_TYPE):
        assert f'= "{name}";' in everything


# ---- Python ------------------------------------------------------------------------------------


def test_stubs_and_the_module_itself():
    """``algorithm`` is an argument of its own there."""
    tree = ast.parse(source("python/ort_tconv/_core.pyi"))
    (attributes,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Attributes")
    stubs = {
        field.target.id: STUBS[ast.unparse(field.annotation).removesuffix(" | None")]
        for field in attributes.body
    }
    expected = {name: kind for name, kind in types().items() if name != "algorithm"}
    assert stubs == expected
    for name in stubs:
        _core.output_shape(X, W, **{name: None})
    with pytest.raises(TypeError, match="unknown attribute 'stride'"):
        _core.output_shape(X, W, stride=[2, 2])


@pytest.mark.parametrize("function", [ort_tconv.convert, ort_tconv.add_provider])
def test_docstrings_name_all_values(function):
    text = inspect.getdoc(function)
    for option, values in (("algorithm", ALGORITHMS), ("weights", WEIGHTS)):
        (described,) = re.findall(
            rf"^    {option}: (.*?)^    \w+:", text + "\n    end:", re.S | re.M
        )
        shown = set(re.findall(r'``"(\w+)"``', described))
        assert shown | ({"float32"} if option == "weights" else set()) == set(values)


# ---- docs/operator.md --------------------------------------------------------------------------


def tables() -> dict[str, list[list[str]]]:
    """Rows of the tables of each section, cell by cell."""
    sections = re.split(r"^## (.*)\n", source("docs/operator.md"), flags=re.M)
    return {
        title: [
            [cell.strip() for cell in row.strip("|").split("|")]
            for row in re.findall(r"^\|.*\|$", text, re.M)[2:]
        ]
        for title, text in zip(sections[1::2], sections[2::2])
    }


def ticked(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_documented_attributes():
    kinds = {"INT": "int", "INTS": "ints", "STRING": "string", "FLOATS": "floats"}
    rows = tables()["Attributes"]
    assert [ticked(name) for name, *_ in rows] == [[name] for name in ATTRIBUTES]
    for (name, kind, default, text), attribute in zip(rows, ATTRIBUTES.values()):
        assert kind == kinds[attribute.type.name], name
        if attribute.default is not None:
            assert default.strip("`") == str(attribute.default), name
        if name == "`weights`":
            assert set(ticked(text)) == set(WEIGHTS)


def test_documented_inputs_and_types():
    rows = tables()["Inputs and output"]
    assert [ticked(name) for name, *_ in rows] == [[name] for name in [*INPUTS, "Y"]]
    assert ["optional" in text for *_, text in rows[:-1]] == [v.optional for v in INPUTS.values()]
    text = source("docs/operator.md")
    (sentence,) = re.findall(r"Inputs and output have the same type: ([^.]+)\.", text)
    numpy_names = [dtype.numpy().name for dtype in FLOATS]
    assert re.split(", | or ", sentence) == numpy_names
    assert all(value.types == FLOATS for value in INPUTS.values())
    assert f"Domain `{DOMAIN}`, operator `{OP_TYPE}`, version {OP_VERSION}" in text
    assert f"`{QUANTIZED_OP_TYPE}`, version {OP_VERSION}" in text


def test_documented_activations():
    found = {}
    for names, parameters in tables()["Activations"]:
        for name in ticked(names):
            defaults = tuple(map(float, re.findall(r"\(([\d.]+)\)", parameters)))
            several = parameters.startswith("one ")
            count = 0 if parameters == "none" else None if several else parameters.count(",") + 1
            found[name] = (count, defaults)
    assert found == {name: (rule.most, rule.defaults) for name, rule in ACTIVATIONS.items()}
    (sentence,) = re.findall(r"`activation` is (`\w+` or `\w+`)", source("docs/operator.md"))
    assert ticked(sentence) == list(QUANTIZED_ACTIVATIONS)


def test_documented_inputs_of_the_quantised_operator():
    rows = tables()["In 8 bits"]
    assert [name for names, *_ in rows for name in ticked(names)] == list(QUANTIZED_INPUTS)
    named = dict(re.findall(r"(T\d)[^|]*? is ((?:\w+(?:, | or ))+\w+)", source("docs/operator.md")))
    for names, kinds, *_ in rows:
        kinds = re.split(" or |, ", kinds) if len(ticked(names)) > 1 else [kinds]
        for name, kind in zip(ticked(names), kinds):
            documented = re.split(", | or ", named.get(kind, kind))
            expected = {dtype.numpy().name for dtype in QUANTIZED_INPUTS[name].types}
            assert set(documented) == expected, name
