"""docs/networks.md: its commands and Python code run as printed, at a small size."""

from __future__ import annotations

import re
import shlex
import sys

from lgc.models.nets.definition import NetworkRecord

from .pages import code_blocks, read_page
from .test_docs import SMALL_SETTINGS

PAGE = read_page("networks")


def test_commands_and_python_run(tmp_path, call, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    factory, python = code_blocks("python", PAGE)
    (tmp_path / "small.py").write_text(factory)
    (commands,) = code_blocks("sh", PAGE)
    for line in commands.strip().splitlines():
        program, *arguments = shlex.split(line)
        small = [] if "--evaluate" in arguments else shlex.split(SMALL_SETTINGS[program])
        done = call(program, *arguments, *small)
        assert done.code == 0, f"{line}\n{done.err}"
    exec(compile(python, "networks.md", "exec"), {})
    assert re.search(r"^mIoU \d+\.\d %$", capfd.readouterr().out, re.MULTILINE)
    for name in [name for name in sys.modules if name.startswith("lgc_plugin_small")]:
        del sys.modules[name]


def test_every_key_of_the_definition_is_listed():
    table = PAGE.split("| key | content |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) >= set(NetworkRecord.model_fields) - {"schema_version"}
