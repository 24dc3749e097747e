"""`--help` of every command answers without importing what takes long."""

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import typer

import lgc

ROOT = Path(lgc.__file__).parent
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
HEAVY = {"torch", "pandas", "onnxruntime", "onnx", "pydantic", "scipy", "numpy", "torchmetrics", "PIL", "yaml"}


def module_of(script):
    return SCRIPTS[script].partition(":")[0]


def verbs(script):
    """Names of the script's sub-commands; none where it is a command by itself."""
    command = typer.main.get_command(import_module(module_of(script)).app)
    return list(getattr(command, "commands", ()))


WORDS = [(script, *verb) for script in SCRIPTS for verb in [(), *((name,) for name in verbs(script))]]


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_help_is_light_and_shows_an_example(words):
    program = (
        "import sys\n"
        f"sys.argv = {[*words, '--help']!r}\n"
        f"from {module_of(words[0])} import main\n"
        "try: main()\n"
        "finally: print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    imported = set(done.stderr.split())
    assert "lgc" in imported
    typers_own = {"pydantic"} if len(words) == 2 else set()  # it reads a sub-command's arguments with it
    assert not imported & (HEAVY - typers_own)
    if len(words) == 2 or not verbs(words[0]):
        assert "Example" in done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_command_is_installed_and_names_itself(script, command):
    done = command(script, "--help")
    assert (done.code, done.err) == (0, "")
    assert f"Usage: {script}" in done.out


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_leaf_command_offers_json(script):
    command = typer.main.get_command(import_module(module_of(script)).app)
    for leaf in getattr(command, "commands", {script: command}).values():
        assert "--json" in {option for parameter in leaf.params for option in parameter.opts}, leaf.name
