"""What `make gpu-wheels` gathers: with what an offline GPU machine has, it is all that lgc imports."""

import ast
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

import lgc

ROOT = Path(lgc.__file__).parent
SPEC = spec_from_file_location("wheels", ROOT / "tests" / "gpu" / "wheels.py")
wheels = module_from_spec(SPEC)
SPEC.loader.exec_module(wheels)

OPTIONAL = {"kornia", "av", "plotly", "tensorrt", "matplotlib"}
"""Absent there: lgc says what is missing where an option needs one of them."""
FINDERS = {"import_module", "find_spec", "importorskip"}


def imported(path):
    """Top-level names of the absolute imports in a file, of modules looked up by name, too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in FINDERS and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and not name.value.startswith("."):
                yield name.value.split(".")[0]


@pytest.fixture
def site(tmp_path):
    """A folder as the gathered one, empty; constraints.txt is beside it."""
    (tmp_path / "constraints.txt").write_text("first==1.0\n")
    return tmp_path / "site"


def add(site, name, version, *requirements):
    """Write the metadata of a distribution."""
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir(parents=True)
    needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requirements)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")


def gather(site):
    return wheels.main(["--site", str(site), "--constraints", str(site.parent / "constraints.txt")])


@pytest.fixture
def installed(monkeypatch):
    """Two packages to gather from an index that lacks `broken`; the list is of what was asked of it."""
    asked = []

    def install(requirements, target, constraints):
        asked.extend(requirements)
        if requirements == ["broken"]:
            raise RuntimeError("the index has no such package")
        add(target, requirements[0], constraints.read_text().split("==")[1].strip())

    monkeypatch.setattr(wheels, "install", install)
    monkeypatch.setattr(wheels, "COLLECTED", ("broken", "first"))
    return asked


def test_every_import_is_present_or_gathered():
    folders = [path.parent for path in ROOT.glob("*/__init__.py")] + [ROOT / "tests" / "gpu", ROOT / "tests" / "bench"]
    files = [
        ROOT / "tests" / "conftest.py",
        *ROOT.glob("*.py"),
        *(path for room in folders for path in room.rglob("*.py")),
    ]
    own = {"lgc", "checks", "docs", *(path.stem for path in (ROOT / "tests").rglob("*.py"))}
    present = {module for _, module in wheels.machine_packages().values()}
    present |= {name.replace("-", "_") for name in wheels.COLLECTED}
    unknown = {
        name: str(path.relative_to(ROOT))
        for path in files
        for name in set(imported(path)) - sys.stdlib_module_names - own - present - OPTIONAL
    }
    assert unknown == {}, "add to COLLECTED in tests/gpu/wheels.py, or to machine-packages.txt if the machine has it"


def test_failed_package_spares_the_others(site, installed, capsys):
    assert gather(site) == 1
    assert list(wheels.versions(site)) == ["first"]
    assert "cannot collect broken: the index has no such package" in capsys.readouterr().err


def test_second_call_keeps_gathered_packages(site, installed, monkeypatch):
    gather(site)
    installed.clear()
    gather(site)
    assert installed == ["broken"]


def test_changed_pin_replaces_a_package(site, installed):
    gather(site)
    (site.parent / "constraints.txt").write_text("first==2.0\n")
    gather(site)
    assert [path.name for path in site.iterdir()] == ["first-2.0.dist-info"]


def test_unmet_requirements_are_named(site):
    add(
        site, "first", "1.0", "missing>=1", "numpy<2", "onnx>=1.17", "tomli; python_version < '3.11'", "x; extra == 'y'"
    )
    lines = wheels.find_unmet(site)
    assert lines == [
        "first needs missing>=1: add missing to COLLECTED",
        "first needs numpy<2, and numpy is 2.5.2",
    ]


def test_other_python_is_refused(monkeypatch, tmp_path):
    python = tmp_path / "python"
    older = "import sys; sys.version_info = (3, 11, 7); exec(sys.argv[1])"
    python.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{older}' \"$2\"\n")
    python.chmod(0o755)
    monkeypatch.setenv("GPU_PYTHON", str(python))
    with pytest.raises(RuntimeError, match=r"its version is .*set GPU_PYTHON"):
        wheels.find_python312()
