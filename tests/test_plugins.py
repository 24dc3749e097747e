"""Loading of the user's Python files and modules."""

import sys

import pytest

from lgc.errors import PluginError
from lgc.models.nets.sources import load_source
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
    names = ("mine", "broken", "helper")
    for name in [name for name in sys.modules if name.split(".")[0] in names or "lgc_plugin" in name]:
        del sys.modules[name]


@pytest.mark.parametrize("reference", ["mine.models", "mine/models.py"])
def test_object_is_loaded_once(package, reference):
    build, plugin = load_object(f"{reference}:build")
    again, _ = load_object(f"{reference}:build")
    assert build(3) == 3
    assert again is build
    assert plugin.module.COUNT == [1]
    assert (plugin.reference, plugin.path) == (reference, package / "models.py")


def test_digest_follows_the_source(package):
    before = load_plugin("mine/models.py").digest
    (package / "models.py").write_text(SOURCE + "\n")
    assert load_plugin("mine/models.py").digest != before


def test_places_of_modules_keep_their_order(package, monkeypatch):
    places = [str(package.parent), *sys.path]
    monkeypatch.setattr(sys, "path", places.copy())
    load_plugin("mine.models")
    assert sys.path == places


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


def write_network(folder, body):
    """Write `net.py` and a module `helper.py` next to it."""
    folder.mkdir(exist_ok=True)
    (folder / "helper.py").write_text(f"from torch import nn\n\nFOLDER = {folder.name!r}\nbuild = nn.Identity\n")
    (folder / "net.py").write_text(body)
    return f"{folder.name}/net.py:make"


@pytest.mark.parametrize(
    "body",
    [
        "from helper import build\n\n\ndef make(classes):\n    return build()\n",
        "def make(classes):\n    from helper import build\n\n    return build()\n",
    ],
)
def test_file_imports_modules_of_its_folder(package, body):
    reference = write_network(package.parent / "sub", body)
    assert load_source(reference).build(3) is not None


def test_installed_modules_precede_those_of_a_folder(package):
    first = list(sys.path)
    (package / "random.py").write_text("seed = 7\n")
    (package / "net.py").write_text("import random\n\nfrom random import nothing\n")
    with pytest.raises(PluginError, match=r"mine/random.py has the name of a module that is installed: rename it$"):
        load_plugin("mine/net.py")
    assert sys.path == first


def test_relative_import_names_the_mend(package):
    (package / "net.py").write_text("from .models import build\n")
    with pytest.raises(PluginError, match=r"pass package.module instead of FILE.py, .* PYTHONPATH$"):
        load_plugin("mine/net.py")
    (package / "net.py").write_text("from .models import build\n")
    assert load_object("mine.net:build")[0](3) == 3
