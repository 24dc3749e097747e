"""Structure of the package: imports point down the floors and form no cycles, folders stay small."""

import ast
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import lgc

ROOT = Path(lgc.__file__).parent
FLOORS = {
    "cache_folder": -2,
    "control_groups": -2,
    "errors": -2,
    "precisions": -2,
    "version": -2,
    "device": -1,
    "files": -1,
    "plugin_imports": -1,
    "plugins": 0,
    "yaml_text": 0,
    "models": 1,
    "lut": 2,
    "profiler": 3,
    "search": 3,
    "report": 4,
    "tools": 5,
}
"""Floor of each top-level package or module; a new one has to be added."""
MAX_MODULES = 12
"""Modules per folder, `__init__` not counted."""
PACKAGES = [path.parent for path in ROOT.glob("*/__init__.py") if path.parent.name != "tests"]
MODULES = sorted([*ROOT.glob("*.py"), *(path for package in PACKAGES for path in package.rglob("*.py"))])


def module_name(path):
    """Return the dotted name without `lgc`, e.g. `lut.table`; a package has its folder's."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path): path for path in MODULES}


def imports(path):
    """Return the modules of the package that `path` imports anywhere: lazily and for type checkers too.

    Absolute imports of `lgc` are returned with their prefix.
    """
    package = path.relative_to(ROOT).parts[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.split(".")[0] == "lgc"}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "lgc":
            names.add(node.module)
        elif isinstance(node, ast.ImportFrom) and node.level > 0:
            home = ".".join([*package[: len(package) + 1 - node.level], *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                inner = f"{home}.{alias.name}".strip(".")
                names.add(inner if inner in NAMES else home)
    return names - {""}


IMPORTS = {name: imports(path) for name, path in NAMES.items()}


def top_level(name):
    return name.partition(".")[0]


def test_every_package_has_a_floor():
    assert {top_level(name) for name in NAMES} - {""} == set(FLOORS)
    assert "lut.table.table" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_imports_point_down(name):
    for imported in IMPORTS[name]:
        assert top_level(imported) != "lgc", f"{name} imports {imported}: use a relative import inside the package"
        assert imported in NAMES, f"{name} imports {imported}: no such module"
        if top_level(name) and top_level(imported) != top_level(name):
            below = FLOORS[top_level(imported)] < FLOORS[top_level(name)]
            assert below, f"{name} imports {imported} from the same floor or above"


def test_only_tools_import_report():
    importers = {name for name, imported in IMPORTS.items() if any(top_level(one) == "report" for one in imported)}
    assert {top_level(name) for name in importers} <= {"report", "tools"}
    assert "tools.bench" in importers


def test_no_import_cycles():
    try:
        TopologicalSorter({name: imported - {name} for name, imported in IMPORTS.items()}).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle, lazy and TYPE_CHECKING imports included: {' <- '.join(error.args[1])}")


def test_folders_have_at_most_12_modules():
    sizes = Counter(path.parent.relative_to(ROOT).as_posix() for path in MODULES if path.stem != "__init__")
    assert not {folder: size for folder, size in sizes.items() if size > MAX_MODULES}


@pytest.mark.parametrize(
    "statement",
    [
        "from ..files import describe",
        "from .. import files",
        "def lazily():\n    from ..files import describe",
        "if TYPE_CHECKING:\n    from ..files import describe",
    ],
)
def test_imports_of_every_form_count(statement, tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    module = tmp_path / "lut" / "module.py"
    module.parent.mkdir()
    module.write_text(statement)
    assert imports(module) == {"files"}


def test_relative_imports_resolve_to_modules():
    assert {"errors", "models.space.opspec", "lut.table.schema", "lut.target"} <= IMPORTS["lut.table.table"]
    assert "profiler.backends.base" in IMPORTS["profiler.backends"]
