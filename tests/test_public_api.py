"""What `lgc` and its packages export, and what importing them costs."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import lgc

ROOT = Path(lgc.__file__).parent


def imported_by(statement):
    """Top-level modules that a fresh Python has imported after `statement`."""
    program = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    )


def test_the_exported_names():
    assert sorted(lgc.__all__) == [
        "Architecture",
        "LGCNet",
        "LatencyTable",
        "LgcError",
        "OpSpec",
        "Predictor",
        "SearchSpace",
        "Target",
    ]


@pytest.mark.parametrize("package", ["lgc", "lgc.lut", "lgc.models"])
def test_every_exported_name_is_there(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name).__doc__, name


def test_the_names_are_those_of_their_homes():
    from lgc import errors, lut, models

    homes = {name: home for home in (errors, lut, models) for name in lgc.__all__ if hasattr(home, name)}
    assert set(homes) == set(lgc.__all__)
    for name, home in homes.items():
        assert getattr(lgc, name) is getattr(home, name)


def test_type_checkers_see_the_names_too():
    """The imports under TYPE_CHECKING are the lazy ones, so that editors know what `lgc.` offers."""
    tree = ast.parse((ROOT / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert {alias.asname for node in block.body for alias in node.names} == set(lgc.__all__)


def test_an_unknown_name_is_an_attribute_error():
    for module in (lgc, importlib.import_module("lgc.models")):
        with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'LatencyTabel'"):
            module.LatencyTabel  # noqa: B018


def test_the_version_is_the_installed_one():
    assert importlib.import_module("importlib.metadata").version("lgc") == lgc.__version__


def test_importing_lgc_imports_nothing_else():
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
def test_tables_and_spaces_need_no_torch(statement):
    found = imported_by(statement)
    assert "lgc" in found
    assert not found & {"torch", "onnxruntime", "onnx", "pandas", "scipy"}
