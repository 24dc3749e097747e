"""Imports of the user's files: modules of their own folder, apart from those of all other code."""

import importlib
import sys
from pathlib import Path

import pytest

from lgc.errors import PluginError
from lgc.models import OPERATORS
from lgc.models.nets.sources import load_source
from lgc.plugins import isolate_user_code, load_object, load_plugin

ADD_LIB = "import os, sys; sys.path.ADD(os.path.join(os.path.dirname(__file__), 'lib')); import deep"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Return an empty current folder; modules that a test imports are forgotten at its end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("lgc_plugin_") or str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def write(folder, **sources):
    """Write modules `a__b` as `a/b.py`, with text of the folder's name for OWN; return the folder."""
    for name, source in sources.items():
        path = Path(folder, *name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source.replace("OWN", repr(Path(folder).name)))
    return Path(folder)


def write_experiment(folder, body):
    """Write `net.py` with this body, and what it may import: a module, packages and a module of another place."""
    write(folder, net=body, blocks="NAMES = [OWN]\n", lib__deep="NAMES = [OWN]\n")
    write(
        folder,
        layers__block="from .inner import NAMES\nimport blocks\n\nNAMES = NAMES + blocks.NAMES\n",
        layers__inner="def name():\n    from blocks import NAMES\n\n    return NAMES\n\n\nNAMES = name()\n",
        layers__again="from layers import block\n\nNAMES = block.NAMES\n",
    )


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("has_init", [False, True])
@pytest.mark.parametrize(
    ("statement", "names"),
    [
        ("from blocks import NAMES", "NAMES"),
        ("from layers import block", "block.NAMES"),
        ("import layers.block", "layers.block.NAMES"),
        ("import layers.again as again", "again.NAMES"),
        ("import importlib", "importlib.import_module('layers.block').NAMES"),
        ("from importlib import import_module", "import_module('blocks').NAMES"),
        ("import importlib.util as util, importlib as i", "util and i.import_module('blocks').NAMES"),
        ("pass", "__import__('layers.block').block.NAMES"),
        ("import pydoc", "pydoc.locate('layers.block.NAMES')"),
        (ADD_LIB.replace("ADD(", "insert(0, "), "deep.NAMES"),
        (ADD_LIB.replace("ADD(", "append("), "deep.NAMES"),
    ],
)
def test_equal_names_in_two_folders(statement, names, has_init, lazy):
    function = f"def build():\n    {statement if lazy else 'pass'}\n    return set({names})\n"
    for experiment in ("exp1", "exp2"):
        write_experiment(experiment, function if lazy else f"{statement}\n\n\n{function}")
        if has_init:
            Path(experiment, "layers", "__init__.py").touch()
    places, names = list(sys.path), []
    for build, plugin in [load_object(f"{experiment}/net.py:build") for experiment in ("exp1", "exp2")]:
        with isolate_user_code("net.py", plugin.scope):
            names.append(build())
    assert names == [{"exp1"}, {"exp2"}]
    assert sys.path == places


@pytest.fixture
def installed(folder, monkeypatch):
    """Write modules into a place of installed ones, and others of these names into a folder `own`."""
    place = write("installed", blocks="NAME = OWN\n", images="NAME = OWN\n", unet="NAME = OWN\n", lists="NAME = OWN\n")
    write("own", blocks="NAME = OWN\n", images__photo="", unet="from unet import NAME\n", lib__lists="NAME = OWN\n")
    Path("own", "photos").mkdir()
    Path("own", "photos", "1.jpg").touch()
    Path("photos.py").write_text("NAME = 'current'\n")
    monkeypatch.syspath_prepend(str(place.resolve()))


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("from blocks import NAME", "own"),
        ("from importlib import import_module; NAME = import_module('blocks').NAME", "own"),
        ("from images import NAME", "installed"),
        ("from photos import NAME", "current"),
        ("from unet import NAME", "installed"),
        (ADD_LIB.replace("ADD(", "insert(0, ").replace("import deep", "from lists import NAME"), "own"),
        (ADD_LIB.replace("ADD(", "append(").replace("import deep", "from lists import NAME"), "installed"),
    ],
)
def test_own_modules_precede_installed_ones(installed, statement, name):
    write("own", net=f"{statement}\n")
    module = load_plugin("own/unet.py" if "unet" in statement else "own/net.py").module
    assert vars(module)["NAME"] == name
    assert importlib.import_module("blocks").NAME == "installed", "other code gets its own"


@pytest.mark.parametrize("name", ["random", "torch", "lgc", "numpy"])
def test_common_modules_are_not_replaced(name):
    write("own", net=f"import {name} as common\n", **{name: "1 / 0\n"})
    assert load_plugin("own/net.py").module.common is importlib.import_module(name)


def test_modules_of_the_python_path_are_shared(monkeypatch):
    write("own", net="import blocks\n", blocks="")
    monkeypatch.syspath_prepend(str(Path("own").resolve()))
    assert load_plugin("own/net.py").module.blocks is importlib.import_module("blocks")


UNPICKLE = r"""
import pickle
from parts.block import Block


def build():
    block = pickle.loads(b"cparts.block\nBlock\n.")
    return block is Block, block.name
"""


def test_pickles_get_classes_of_their_folder():
    for name in ("exp1", "exp2"):
        write(name, net=UNPICKLE, parts__block="class Block:\n    name = OWN\n")
    for name in ("exp1", "exp2"):
        build, plugin = load_object(f"{name}/net.py:build")
        with isolate_user_code("net.py", plugin.scope):
            assert build() == (True, name)


def test_errors_have_the_names_of_the_code():
    write("own", net="from blocks import nothing\n", other="import blocks.nothing\n", blocks="")
    with pytest.raises(PluginError, match=r"cannot import name 'nothing' from 'blocks' \(.*own/blocks.py\)"):
        load_plugin("own/net.py")
    with pytest.raises(PluginError, match=r"No module named 'blocks.nothing'"):
        load_plugin("own/other.py")


COMMON = """
from lgc.models import Conv, register_operator


@register_operator("mine")
def mine(spec):
    return (Conv(spec.c_in, spec.c_out),)
"""


def test_module_of_two_files_registers_once(own_operators):
    write("own", common=COMMON, first="import common\n", second="import common\n")
    modules = [load_plugin(f"own/{name}.py").module.common for name in ("first", "second", "common")[:2]]
    load_plugin("own/common.py")
    assert modules[0] is not modules[1]
    assert OPERATORS["mine"].recipe is modules[0].mine


def test_name_of_another_file_is_taken(own_operators):
    write("own", first=COMMON, second=COMMON, twice=COMMON.replace("mine", "twice").replace("@", "for _ in 1, 2:\n  @"))
    load_plugin("own/first.py")
    with pytest.raises(PluginError, match="'mine' is already registered"):
        load_plugin("own/second.py")


def test_package_may_import_itself():
    """An absolute import of a package in its own `__init__.py` is that package, not a second one."""
    body = "from config.base import SIZE\n\nimport config\n\nSIZE[0] = 2\n\n\ndef read():\n    return config.SIZE\n"
    for folder in (".", "sub"):
        write(folder, net=body, config__base="SIZE = [1]\n")
        Path(folder, "config", "__init__.py").write_text("from config.base import SIZE\n")
    for file in ("net.py", "sub/net.py"):
        assert load_object(f"{file}:read")[0]() == [2]


def test_files_of_a_folder_have_own_places():
    """Wrappers of two repositories, whose modules have one name, get each its own."""
    for name in ("a", "b"):
        write(f"third/{name}", model="NAME = OWN\n")
        body = f"import sys\n\nsys.path.insert(0, 'third/{name}')\n\nfrom model import NAME\n"
        write(".", **{f"wrap_{name}": body})
    assert [load_plugin(f"wrap_{name}.py").module.NAME for name in ("a", "b")] == ["a", "b"]


def test_current_folder_is_for_files_below_it():
    write("exp1", nets__unet="from nets.blocks import NAME\n", nets__blocks="NAME = OWN\n")
    write("exp2", nets__unet="from nets.blocks import NAME\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir("exp1")
        assert load_plugin("nets/unet.py").module.NAME == "exp1"
        with pytest.raises(PluginError, match="No module named 'nets'"):
            load_plugin("../exp2/nets/unet.py")


@pytest.mark.parametrize("times", [1, 2])
def test_functions_import_from_their_file_later(times):
    body = "def build(classes):\n    return classes\n\n\ndef later():\n    import blocks\n    import math, pytest\n\n"
    for name in ("exp1", "exp2"):
        write(name, net=f"{body}    return blocks.NAME\n", blocks="NAME = OWN\n")
    functions = [load_object(f"{name}/net.py:later")[0] for name in ("exp1", "exp2")]
    assert [function() for _ in range(times) for function in functions] == ["exp1", "exp2"] * times
    assert load_source("exp1/net.py:build") is not None
