"""`--help` of every command imports no slow modules."""

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
HEAVY = {"torch", "pandas", "onnxruntime", "onnx", "scipy", "numpy", "torchmetrics", "PIL"}


def command_module(script):
    return SCRIPTS[script].partition(":")[0]


def verbs(script):
    """Return the names of the script's sub-commands; empty for a single command."""
    command = typer.main.get_command(import_module(command_module(script)).app)
    return list(getattr(command, "commands", ()))


COMMANDS = [(script, *verb) for script in SCRIPTS for verb in [(), *((name,) for name in verbs(script))]]


@pytest.mark.parametrize("command_line", COMMANDS, ids=" ".join)
def test_help_imports_little_and_shows_example(command_line):
    program = (
        "import sys\n"
        f"sys.argv = {[*command_line, '--help']!r}\n"
        f"from {command_module(command_line[0])} import main\n"
        "try: main()\n"
        "finally: print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)\n"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "Usage" in process.stdout
    imported = set(process.stderr.split())
    assert "lgc" in imported
    assert not imported & HEAVY
    if len(command_line) == 2 or not verbs(command_line[0]):
        assert "Example" in process.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_installed_command_shows_usage(script, command):
    process = command(script, "--help")
    assert (process.code, process.err) == (0, "")
    assert f"Usage: {script}" in process.out


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_command_has_json_option(script):
    command = typer.main.get_command(import_module(command_module(script)).app)
    for leaf in getattr(command, "commands", {script: command}).values():
        assert "--json" in {option for parameter in leaf.params for option in parameter.opts}, leaf.name
