"""`--plugin` and entry points: where code is loaded, and that no file makes lgc load it."""

import json
import subprocess
import sys

import pytest
import yaml

from lgc.lut import LatencyTable
from lgc.models import SearchSpace
from lgc.plugins import list_plugins, load_plugins

PLUGIN = """
from lgc.models import Conv, register_operator

@register_operator("mine", searchable=True)
def mine(spec):
    return (Conv(spec.c_in, spec.c_out, (1, 3), spec.stride, activation="silu"),)
"""
NEEDS = r"unknown operator 'mine': it may come from a plugin: name it with --plugin FILE|MODULE"


@pytest.fixture
def plugin(own_operators, tmp_path, monkeypatch):
    """Return a plugin's path, in the current folder; it is not loaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = tmp_path / "plugin.py"
    path.write_text(PLUGIN)
    return path


@pytest.fixture
def space(plugin, mini_space):
    """Return the path of a space with the plugin's operator."""
    path = plugin.with_name("mine.yaml")
    path.write_text(yaml.safe_dump({**json.loads(json.dumps(mini_space.to_dict())), "operators": ["zero", "mine"]}))
    return path


@pytest.fixture
def table(space, plugin, make_table, own_operators):
    """Return the path of a table with the plugin's operator, which is not registered any more."""
    load_plugins([str(plugin)])
    with make_table(SearchSpace.load(space)) as made:
        path = made.path
    own_operators.pop("mine")
    del sys.modules[next(name for name in sys.modules if name.startswith("lgc_plugin_plugin_"))]
    return path


@pytest.fixture
def installed(plugin, monkeypatch):
    """Return a function that installs a package with an entry point, whose module has this source."""

    def install(name, source):
        folder = plugin.with_name(f"{name}-1.dist-info")
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (folder / "entry_points.txt").write_text(f"[lgc.operators]\nall = {name}\n")
        plugin.with_name(f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(str(plugin.parent))

    yield install
    for name in ("lgc_good", "lgc_broken"):
        sys.modules.pop(name, None)


def test_space_needs_its_plugin(call, space, plugin):
    words = ("lgc-profile", "--device", "cpu", "--space", space, "--networks", "0", "--budget", "0.001s", "--out")
    refusal = call(*words, "a.lut").refusal("lgc-profile")
    assert refusal.startswith(f"{space}: invalid search space: {NEEDS}")
    assert "budget ran out" in call(*words, "a.lut", "--plugin", plugin).refusal("lgc-profile")
    with LatencyTable.open("a.lut") as table:
        assert any(entry.key.startswith("mine/") for entry in table.entries())
        assert f"--plugin {plugin} " in table.profile_command()


def test_table_is_shown_without_its_plugin(call, table):
    shown = call("lgc-lut", "show", table, "--operator", "mine", "--json")
    assert shown.code == 0, shown.err
    assert all(entry["key"].startswith("mine/") for entry in json.loads(shown.out)["entries"])
    assert "operators of a plugin that is not loaded: mine" in call("lgc-lut", "show", table).out
    assert call("lgc-lut", "diff", table, table).code == 0
    assert call("lgc-lut", "export", table, "--out", "t.csv").code == 0
    assert call("lgc-lut", "upgrade", table).code == 0


def test_commands_that_compute_need_the_plugin(call, table, plugin):
    refusal = call("lgc-lut", "calibrate", table).refusal("lgc-lut")
    assert refusal.startswith(f"{table}: {NEEDS}")
    assert "too few measured networks" in call("lgc-lut", "calibrate", table, "--plugin", plugin).refusal("lgc-lut")


def test_architecture_needs_its_plugin(call, space, plugin, own_operators):
    load_plugins([str(plugin)])
    SearchSpace.load(space).sample(0).save("a.json")
    operator = own_operators.pop("mine")
    for words in (["lgc-export", "a.json", "--onnx", "--out", "o"], ["lgc-bench", "a.json", "--seconds", "0.01s"]):
        assert f"a.json: invalid architecture: {NEEDS}" in call(*words).refusal(words[0])
    own_operators["mine"] = operator
    assert call("lgc-export", "a.json", "--onnx", "--out", "o", "--plugin", plugin).code == 0
    del own_operators["mine"]
    (file,) = plugin.parent.glob("o/*.onnx")
    assert call("lgc-bench", file, "--seconds", "0.01s").code == 0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("1 / 0\n", "ZeroDivisionError"),
        (PLUGIN.replace("mine", "conv_3x3"), "operator 'conv_3x3' is already registered: choose another name"),
        (PLUGIN.replace('"mine"', '"Mine"'), ": invalid operator name 'Mine'"),
        (None, "no such file"),
    ],
)
def test_broken_plugin_is_refused(call, space, plugin, source, message):
    plugin.unlink() if source is None else plugin.write_text(source)
    words = ("lgc-profile", "--device", "cpu", "--space", space, "--out", "a.lut", "--plugin", plugin)
    refusal = call(*words).refusal("lgc-profile")
    assert message in refusal
    assert str(plugin) in refusal
    assert not plugin.with_name("a.lut").exists()


def test_entry_point_is_loaded_where_needed(call, space, table, installed):
    installed("lgc_good", PLUGIN)
    for words in (["--help"], ["show", table]):
        call("lgc-lut", *words)
        assert "lgc_good" not in sys.modules
    assert "too few measured networks" in call("lgc-lut", "calibrate", table).refusal("lgc-lut")
    assert "lgc_good" in sys.modules


def test_broken_entry_point_is_named(call, space, installed):
    installed("lgc_broken", "1 / 0\n")
    refusal = call("lgc-profile", "--device", "cpu", "--space", space, "--out", "a.lut").refusal("lgc-profile")
    assert "cannot load entry point lgc_broken of package lgc_broken: ZeroDivisionError" in refusal


def test_other_processes_load_the_plugins(plugin):
    load_plugins(["plugin.py"])
    assert list_plugins() == (str(plugin),)
    code = "import sys; from lgc.models import OPERATORS; from lgc.plugins import load_plugins; "
    code += "load_plugins(sys.argv[1:]); print('mine' in OPERATORS)"
    words = [sys.executable, "-c", code, *list_plugins()]
    assert subprocess.run(words, capture_output=True, text=True, check=True, cwd="/").stdout == "True\n"
