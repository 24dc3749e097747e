"""The house's floors: an import points down, never up and never sideways between profiler and search."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lgc

ROOT = Path(lgc.__file__).parent
FLOORS = {
    "errors": -2,
    "device": -1,
    "files": 0,
    "models": 1,
    "lut": 2,
    "profiler": 3,
    "search": 3,
    "report": 4,
    "tools": 5,
}
"""Room -> floor; whoever adds a room to the package decides its floor here."""
PACKAGES = [path.parent for path in ROOT.glob("*/__init__.py") if path.parent.name != "tests"]
MODULES = sorted([*ROOT.glob("*.py"), *(path for package in PACKAGES for path in package.rglob("*.py"))])


def name_of(path):
    """Dotted name without `lgc`: `lut.table`; a package's is its folder's."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in MODULES}


def imports(path, *, at_import_only=False):
    """Modules of the package that `path` imports, and absolute imports of `lgc` as they stand.

    Args:
        path: a module.
        at_import_only: leave out what is imported inside functions and for type checkers.
    """
    package = path.relative_to(ROOT).parts[:-1]
    found = set()
    for node in nodes(ast.parse(path.read_text()), at_import_only):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "lgc"}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "lgc":
            found.add(node.module)
        elif isinstance(node, ast.ImportFrom) and node.level > 0:
            home = ".".join([*package[: len(package) + 1 - node.level], *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                inner = f"{home}.{alias.name}".strip(".")
                found.add(inner if inner in NAMES else home)
    return found - {""}


def nodes(tree, at_import_only):
    pending = [tree]
    while pending:
        node = pending.pop()
        yield node
        if at_import_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if at_import_only and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending.extend(node.orelse)
            continue
        pending.extend(ast.iter_child_nodes(node))


def room(name):
    return name.partition(".")[0]


def test_there_are_modules_in_every_room():
    assert {room(name) for name in NAMES} - {""} == set(FLOORS)
    assert "lut.table.table" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_imports_point_down(name):
    for imported in imports(NAMES[name]):
        assert room(imported) != "lgc", f"{name} imports {imported} absolutely; inside the package imports are relative"
        assert imported in NAMES, f"{name} imports {imported}, which is not there"
        if room(name) and room(imported) != room(name):
            assert FLOORS[room(imported)] < FLOORS[room(name)], f"{name} imports {imported} from its floor or above"


def test_no_module_imports_itself_through_others():
    TopologicalSorter({name: imports(path, at_import_only=True) - {name} for name, path in NAMES.items()}).prepare()


def test_the_check_sees_imports_of_every_form():
    found = imports(NAMES["lut.table.table"])
    assert {"errors", "models.space.opspec", "lut.table.schema", "lut.target"} <= found
    assert "profiler.backends.base" in imports(NAMES["profiler.backends"])
    assert imports(NAMES["models.space.space"], at_import_only=True) < imports(NAMES["models.space.space"])
