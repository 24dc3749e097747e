"""Exports of `lgc` and its packages, and the cost of importing them."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import lgc

ROOT = Path(lgc.__file__).parent
PACKAGES = ["models", "lut", "profiler", "search", "tools", "report"]


def imported_by(statement):
    """Return the top-level modules that a new Python process has imported after `statement`."""
    program = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    process = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return set(process.stdout.split())


def test_exported_names():
    assert sorted(lgc.__all__) == [
        "Architecture",
        "ExpectedCost",
        "LGCNet",
        "LatencyTable",
        "LgcError",
        "OpSpec",
        "Predictor",
        "SearchSpace",
        "Slot",
        "SlotSpace",
        "Target",
        "profile",
        "verify",
    ]


@pytest.mark.parametrize("package", ["lgc", "lgc.lut", "lgc.models"])
def test_exported_names_exist_with_docstrings(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name).__doc__, name


def test_names_are_the_packages_own():
    from lgc import errors, lut, models
    from lgc.profiler import slots
    from lgc.search.constraint import expected

    homes = {
        name: home for home in (expected, slots, errors, lut, models) for name in lgc.__all__ if hasattr(home, name)
    }
    assert set(homes) == set(lgc.__all__)
    for name, home in homes.items():
        assert getattr(lgc, name) is getattr(home, name)


def test_type_checkers_see_lazy_names():
    tree = ast.parse((ROOT / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert {alias.asname for node in block.body for alias in node.names} == set(lgc.__all__)


def test_unknown_name_raises_attribute_error():
    for module in (lgc, importlib.import_module("lgc.models")):
        with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'LatencyTabel'"):
            module.LatencyTabel  # noqa: B018


def test_version_matches_installed_distribution():
    assert importlib.import_module("importlib.metadata").version("lgc") == lgc.__version__


def test_importing_lgc_imports_no_dependencies():
    assert not imported_by("import lgc") & {"torch", "numpy", "pandas", "pydantic", "yaml", "onnxruntime", "scipy"}


@pytest.mark.parametrize(
    "statement",
    [
        "import lgc.lut",
        "import lgc.models",
        "from lgc import SearchSpace; space = SearchSpace.load('tiny'); space.sample(0).specs()",
        "import lgc.profiler.profile",
        "import lgc.profiler.verification",
    ],
)
def test_tables_and_spaces_import_no_torch(statement):
    modules = imported_by(statement)
    assert "lgc" in modules
    assert not modules & {"torch", "onnxruntime", "onnx", "pandas", "scipy"}


def test_every_package_is_checked():
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_bare_import_names_the_package(package):
    """A user in the repository root who writes `import models` is pointed to `lgc.models`."""
    process = subprocess.run([sys.executable, "-c", f"import {package}"], cwd=ROOT, capture_output=True, text=True)
    expected = f"ImportError: import lgc.{package}, not {package}: the repository root is the package lgc"
    assert process.stderr.splitlines()[-1] == expected
