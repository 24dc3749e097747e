"""Loading of the user's Python files and modules."""

import sys

import pytest

from lgc.errors import PluginError
from lgc.plugins import load_object, load_plugin

SOURCE = "COUNT = [0]\nCOUNT[0] += 1\n\n\ndef build(classes):\n    return classes\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return the folder of a package `mine` with a module `models`, which is the current folder."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "models.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] in ("mine", "broken") or "lgc_plugin" in name]:
        del sys.modules[name]


@pytest.mark.parametrize("reference", ["mine.models", "mine/models.py"])
def test_object_is_loaded_once(package, reference):
    path = list(sys.path)
    build, plugin = load_object(f"{reference}:build")
    again, _ = load_object(f"{reference}:build")
    assert build(3) == 3
    assert again is build
    assert plugin.module.COUNT == [1]
    assert (plugin.reference, plugin.path) == (reference, package / "models.py")
    assert sys.path == path


def test_digest_follows_the_source(package):
    before = load_plugin("mine/models.py").digest
    (package / "models.py").write_text(SOURCE + "\n")
    assert load_plugin("mine/models.py").digest != before


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("mine/missing.py:build", "no such file: mine/missing.py"),
        ("mine.missing:build", "no module 'mine.missing'"),
        ("nowhere:build", "no module 'nowhere'"),
        ("mine.models:make", "mine.models has no 'make'; it has COUNT, build"),
        ("mine.models", "names no object"),
        ("mine-models:build", "neither a Python file"),
    ],
)
def test_missing_objects(package, reference, message):
    with pytest.raises(PluginError, match=message):
        load_object(reference)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\n1 / 0\n", r"ZeroDivisionError: division by zero \(.*broken.py, line 2\)"),
        ("def f(:\n", r"SyntaxError: .*broken.py, line 1\)"),
        ("import nowhere\n", "No module named 'nowhere'"),
    ],
)
@pytest.mark.parametrize("reference", ["broken.py", "broken"])
def test_errors_name_their_line(package, reference, source, message):
    (package.parent / "broken.py").write_text(source)
    with pytest.raises(PluginError, match=f"cannot load .*broken.*{message}"):
        load_plugin(reference)
