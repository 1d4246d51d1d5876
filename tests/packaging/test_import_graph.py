"""The modules of the package import downwards only: without circles, and from where a name is
defined; and what a verb finds knows nothing of how it is shown."""

import ast
import graphlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "ort_tconv"
EXTENSION = f"{PACKAGE}._core"
#: Packages that have names for users, which are looked up when they are used.
FACADES = (PACKAGE, f"{PACKAGE}.converters", f"{PACKAGE}.tuning")
#: Modules by the last part of their names: data, and what reads it.
RESULTS = ("results", "report", "comparison")
RENDERERS = ("table", "report_table", "page", "plot")


@cache
def modules() -> dict[str, ast.Module]:
    """The modules as they are installed, by name."""
    found = {EXTENSION: parsed(ROOT / "python/ort_tconv/_core.pyi")}
    for folder, place in (("python/ort_tconv", PACKAGE), ("converters", f"{PACKAGE}.converters")):
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if "_pyinstaller" not in parts:  # a hook that PyInstaller runs
                found[".".join((place, *parts)).removesuffix(".__init__")] = parsed(path)
    return found


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


@cache
def layers() -> list[list[str]]:
    """From the top down, as CONTRIBUTING.md lists them."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    (table,) = re.findall(r"^\| layer \|.*\n\|.*\n((?:\|.*\n)+)", page, re.M)
    rows = [re.findall(r"`([\w.]+)`", row.split("|")[1]) for row in table.splitlines()]
    return [[name.removesuffix(".py") for name in row] for row in rows]


def layer(module: str) -> int:
    part = module.split(".")[1]
    (index,) = (i for i, names in enumerate(layers()) if part in names)
    return index


def is_package(module: str) -> bool:
    return any(other.startswith(f"{module}.") for other in modules())


def statements(module: str) -> Iterator[ast.Import | ast.ImportFrom]:
    """All imports, those in functions too, and those for types but in facades, where nothing else
    says what the names are."""
    tree = modules()[module]
    for node in tree.body:
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not (for_types and module in FACADES):
            yield from (n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom))


def imports(module: str) -> Iterator[tuple[str, str, str]]:
    """Of each name that is imported from the package: the module that is named, the name, and the
    module that this leads to."""
    here = module.split(".")[: None if is_package(module) else -1]
    for node in statements(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == PACKAGE:
                    yield alias.name, "", alias.name
            continue
        base = here[: len(here) + 1 - node.level] if node.level else []
        origin = ".".join((*base, *filter(None, [node.module])))
        if origin.split(".")[0] == PACKAGE:
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                yield origin, alias.name, inner if inner in modules() else origin


@cache
def needs(module: str) -> set[str]:
    """The modules that run before this one can use what it imports: the packages around them as
    well, unless they are around this one, and run already."""
    result = set()
    for _, _, target in imports(module):
        parts = target.split(".")
        around = {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
        result |= {name for name in around if not f"{module}.".startswith(f"{name}.")}
    return result


def reached(module: str) -> set[str]:
    found, queue = set(), [module]
    while queue:
        new = needs(queue.pop()) - found
        found |= new
        queue += new
    return found


def defined(module: str) -> set[str]:
    """Names that a module makes, as against those that it imports."""
    names = set()
    for node in modules()[module].body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return names


def named(*last_parts: str) -> list[str]:
    return [name for name in modules() if name.rpartition(".")[2] in last_parts]


def test_there_is_no_circle():
    graph = {module: needs(module) for module in modules()}
    assert sum(map(len, graph.values())) > 200
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_no_module_imports_from_a_layer_above():
    assert {module.split(".")[1] for module in modules() if module != PACKAGE} == {
        name for names in layers() for name in names
    }
    upwards = [
        f"{module} -> {target}"
        for module in modules()
        for _, _, target in imports(module)
        if module != PACKAGE and target != PACKAGE and layer(target) < layer(module)
    ]
    assert not upwards


def test_names_come_from_the_module_that_defines_them():
    """Never through a package: that would run whatever else it brings in."""
    detours = [
        f"{module}: {name} from {origin}"
        for module in modules()
        for origin, name, target in imports(module)
        if (origin in FACADES and module not in FACADES)
        or (target == origin and name not in defined(origin))
    ]
    assert not detours


@pytest.mark.parametrize("facade", FACADES)
def test_facades_say_the_same_to_users_and_to_type_checkers(facade):
    tree = modules()[facade]
    (tables,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES"
    )
    (types,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {}
    for node in types.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                module = node.module or alias.name
                seen[alias.name] = "." * node.level + module
    assert seen == tables
    (public,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    assert sorted(public) == sorted(tables)


def test_results_are_data_and_renderers_read_them():
    results, renderers = named(*RESULTS), named(*RENDERERS)
    assert len(results) == 8 and len(renderers) == 9
    for module in results:
        assert not reached(module).intersection(renderers), module
        others = {
            name.split(".")[0]
            for node in ast.walk(modules()[module])
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
            )
        }
        assert not others & {"rich", "matplotlib", "html"}, module
    for module in renderers:
        assert reached(module).intersection(results), module
