"""docs/spaces.md: its example prints what the page shows; its tables have all fields, operators and presets."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from lgc.lut.table.table import LatencyTable
from lgc.models import SearchSpace
from lgc.models.space.operators import OPERATORS
from lgc.models.space.presets import PRESETS, VARIANTS
from lgc.models.space.settings import Fusion, SpaceSettings, Stem

from .pages import code_blocks, read_page
from .test_docs import parse_options, plain_commands

PAGE = read_page("spaces")
SHORT = {"lgc-profile": "--rounds 4 --networks 0 --backend torch --context isolated", "lgc-lut": ""}


def test_example_runs_and_prints_what_is_shown(tmp_path, monkeypatch, call, capfd):
    monkeypatch.chdir(tmp_path)
    (space,), (python,), (printed,), (commands,) = (
        code_blocks(kind, PAGE) for kind in ("yaml", "python", "text", "sh")
    )
    Path("mine.yaml").write_text(space)
    exec(compile(python, "spaces.md", "exec"), {})
    assert capfd.readouterr().out == printed
    for line in commands.splitlines():
        program, *arguments = shlex.split(line)
        done = call(program, *arguments, *shlex.split(SHORT[program]))
        assert done.code == 0, f"{line}\n{done.err}"
    with LatencyTable.open("mine.lut", inspect=True) as table:
        assert (table.space.classes, table.space.input) == (4, (64, 96))


def test_page_lists_all_fields_with_defaults():
    rows = dict(re.findall(r"^\| `([\w.]+)` \| [^|]+ \| ([^|]+) \|", PAGE.split("## Fields")[1], re.MULTILINE))
    fields = {name: field for name, field in SpaceSettings.model_fields.items() if name not in ("stem", "fusion")}
    for section, model in (("stem", Stem), ("fusion", Fusion)):
        fields |= {f"{section}.{name}": field for name, field in model.model_fields.items()}
    assert set(rows) == set(fields)
    for name, field in fields.items():
        if field.is_required():
            assert rows[name].startswith("required"), name
        else:
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            assert rows[name].strip("`") == (str(default) if default else "none"), name


def test_page_lists_presets_with_sizes():
    rows = re.findall(r"^\| `([\w-]+)` \| (\d+)x(\d+) \| (\d+) \| 1/(\d+) \|", PAGE, re.MULTILINE)
    assert tuple(name for name, *_ in rows) == PRESETS
    for name, height, width, cells, stride in rows:
        space = SearchSpace.load(name)
        assert (space.input, space.cells) == ((int(height), int(width)), int(cells))
        assert space.stride == int(stride)


def test_page_lists_variants():
    rows = re.findall(r"^\| `([\w-]+)` \| (\d+)x(\d+) \| (\d+) \|$", PAGE, re.MULTILINE)
    listed = {name: ((int(height), int(width)), int(classes)) for name, height, width, classes in rows}
    assert listed == {name: (size, classes) for name, (_, size, classes) in VARIANTS.items()}


def test_page_lists_built_in_operators():
    listed = re.findall(r"`(\w+)`", PAGE.split("Built-in operators: ")[1].split("[operators.md]")[0])
    assert [*listed] == [
        "zero",
        "skip",
        "max_pool_3x3",
        *(f"sep_conv_3x3{end}" for end in ("", "_d2", "_d4", "_d8")),
        "conv_3x3",
        "res_conv_3x3",
        *(f"res_sep_conv_3x3{end}" for end in ("", "_d2", "_d4")),
        *("inv_res_3x3_e2", "inv_res_3x3_e4", "fused_res_3x3_e2", "pool_gate", "pool_pyramid"),
    ]
    assert all(OPERATORS[name].searchable for name in listed)


def test_commands_of_the_page_are_valid():
    assert [parse_options(command)["space"] for command in plain_commands(PAGE)] == ["tiny"]
