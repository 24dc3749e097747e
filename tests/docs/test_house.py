"""`tests/bench/house.py` counts the violations of a small checkout."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "bench" / "house.py"
SOURCES = {
    "lut/__init__.py": "",
    "lut/table.py": '''"""Table."""
from typing import Any
from ..search import engine
LEVEL = 1
class Row:
    def read(self, a, b, c, d, e, f, g, h, i) -> dict[str, Any]:
        """Read."""
def undocumented(device):
    return device == "cpu" or device in ("cpu", "cuda") or device.startswith("cuda") or device.partition(":")
''',
    "search/__init__.py": "",
    "search/engine.py": '''"""Engine."""
LEVEL = 2
def run() -> None:
    """Run it anew."""
    from ..lut import table
''',
    "tests/test_table.py": "def test_one_two_three_four_five_six_seven(): ...\ndef test_a_b_c_d_e_f_g_h(): ...\n",
    "README.md": "A page, beside others.\n",
}


@pytest.fixture
def checkout(tmp_path):
    """Return a checkout with one violation of most kinds."""
    for file, text in SOURCES.items():
        path = tmp_path / "checkout" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "checkout"


def house(*arguments) -> str:
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_counts_of_a_small_checkout(checkout, tmp_path):
    house(checkout, "--save", tmp_path / "counts.json")
    result = json.loads((tmp_path / "counts.json").read_text())
    assert result["modules_per_folder"] == {"lut": 1, "search": 1}
    assert result["homonyms"] == ["LEVEL: lut.table, search.engine"]
    counts = result["counts"]
    ones = {
        "functions with over 8 parameters",
        "dict[str, Any] or dict[str, object]",
        "functions that return one",
        "imports upward, at import",
        "circles of modules, lazy imports included",
        "names of tests over 7 words",
        "banned phrases and names in sources",
        "banned phrases in pages",
    }
    assert {title: counts[title] for title in ones} == dict.fromkeys(ones, 1)
    assert counts["circles of modules, at import"] == 0
    assert counts["functions over 60 lines"] == 0
    assert [counts[title] for title in ('comparisons with "cpu"', "device strings taken apart")] == [2, 2]
    assert counts["public functions and classes without docstring"] == 2


def test_page_compares_with_the_earlier_result(checkout, tmp_path):
    house(checkout, "--save", tmp_path / "before.json")
    (checkout / "README.md").write_text("A page.\n")
    printed = house(checkout, "--before", tmp_path / "before.json", "--out", tmp_path / "out")
    assert "| banned phrases in pages | 1 | 0 |" in (tmp_path / "out" / "house.md").read_text()
    assert "before (" in printed
