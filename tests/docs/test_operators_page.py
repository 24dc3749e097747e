"""The examples of docs/operators.md run as printed."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from lgc.lut import LatencyTable
from lgc.models import OPERATORS
from lgc.models.recipe import ACTIVATIONS

from .pages import code_blocks, read_page

PAGE = read_page("operators")
SETTINGS = {
    "lgc-scenes": "--train 4 --val 2 --size 32x32",
    "lgc-profile": "--input 32x32 --rounds 4 --networks 4 --backend torch --context isolated",
    "lgc-lut": "",
    "lgc-search": "--steps 2 --batch 2 --trials 0",
    "lgc-train": "--steps 2 --batch 2",
    "lgc-export": "--seconds 0.1s",
    "lgc-predict": "",
}


def test_page_lists_all_activations():
    listed = PAGE.split("Activations: ")[1].split(". No layers")[0]
    assert tuple(re.findall(r"`(\w+)`", listed)) == ACTIVATIONS


@pytest.mark.slow
def test_examples_run_as_printed(own_operators, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for code in code_blocks("python", PAGE):
        Path(re.match(r"# (\S+)\n", code)[1]).write_text(code)
    (space,) = code_blocks("yaml", PAGE)
    Path("operators.yaml").write_text(space)
    for line in code_blocks("sh", PAGE)[0].splitlines():
        program, *words = shlex.split(line)
        for name in ("se_conv", "cross_conv", "attention"):
            own_operators.pop(name, None)
        for name in [name for name in sys.modules if name.startswith("lgc_plugin_my_")]:
            del sys.modules[name]
        done = call(program, *words, *shlex.split(SETTINGS[program]))
        assert done.code == 0, f"{line}\n{done.err}"
    with LatencyTable.open("operators.lut", inspect=True) as table:
        assert {entry.key.split("/")[0] for entry in table.entries()} >= {"se_conv", "cross_conv", "attention"}
    assert "se_conv" not in OPERATORS
