"""The examples of docs/datasets.md run, in order, and print what the page shows."""

from __future__ import annotations

import re
from pathlib import Path

from lgc.search.data.description import read_dataset
from lgc.search.data.layouts import LAYOUTS, load_layout
from lgc.search.data.schema import DatasetSettings

PAGE = (Path(__file__).resolve().parents[2] / "docs/datasets.md").read_text()


def test_examples_print_what_the_page_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    printed, variables, kinds = "", {}, []
    for kind, block in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        kinds.append(kind)
        if kind == "python":
            exec(compile(block, "datasets.md", "exec"), variables)
            printed = capsys.readouterr().out
        elif kind == "yaml":
            path = Path(block.splitlines()[0].removeprefix("# "))
            path.write_text(block)
            assert read_dataset(path).classes
        else:
            assert printed.strip() == block.strip()
    assert kinds.count("text") == 6


def test_page_lists_all_fields_and_layouts():
    fields = re.findall(r"^\| `(\w+)` \|", PAGE.split("## dataset.yaml")[1].split("###")[0], re.MULTILINE)
    assert {*fields} == {*DatasetSettings.model_fields, "extends"} - {"frames", "meaning"}
    rows = re.findall(r"^\| `([\w-]+)` \| .* \| (\d+) \| .* \|$", PAGE.split("## Known layouts")[1], re.MULTILINE)
    layouts = map(load_layout, LAYOUTS)
    assert dict(rows) == {layout.name: str(len(layout.classes)) for layout in layouts}
