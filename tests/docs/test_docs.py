"""The documentation says what the code does."""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
import subprocess
import sys
from fractions import Fraction
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel

from lgc.errors import UsageError
from lgc.lut.statistics.calibration import FORMS
from lgc.lut.table import schema
from lgc.models.space.space import Fusion, SearchSpace, Stem
from lgc.profiler.timing.contexts import CONTEXTS
from lgc.search import engine
from lgc.search.config import SearchConfig
from lgc.search.constraint import projection as fitting
from lgc.search.runtime import run_folder as runs
from lgc.search.selection import finalize as choosing
from lgc.search.selection import strategies as selection
from lgc.tools import search

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
METHOD, SEARCH, TRAINING, CLI = (
    (ROOT / "docs" / f"{page}.md").read_text() for page in ("method", "search", "training", "cli")
)


def blocks(kind: str, page: str = README) -> list[str]:
    """Code blocks of a page that are marked as `kind`; of `""`, the unmarked ones."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [block for mark, block in fenced if mark == kind]


def test_the_reference_is_current():
    spec = spec_from_file_location("reference", ROOT / "tests" / "docs" / "reference.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "cli.md").read_text() == module.reference(), "run `make docs`"


SMALLER = {
    "lgc-scenes": "--train 8 --val 2",
    "lgc-profile": "--rounds 4 --networks 4",
    "lgc-lut": "--networks 2 --rounds 2",
    "lgc-search": "--steps 4 --batch 2 --trials 0",
    "lgc-train": "--steps 2 --batch 2",
    "lgc-export": "--seconds 0.1",
    "lgc-bench": "--seconds 0.1s",
    "lgc-predict": "",
}
"""Options that follow those of the README's lines, so that each takes seconds."""


def test_readme_commands_and_python_run_small(tmp_path, call, monkeypatch, capfd):
    """In this process; each line reads the files of the lines before."""
    monkeypatch.chdir(tmp_path)
    (commands,) = blocks("sh")
    (python,) = blocks("python")
    for line in commands.strip().splitlines():
        program, *words = shlex.split(line)
        done = call(program, *words, *shlex.split(SMALLER[program]))
        assert done.code == 0, f"{line}\n{done.err}"
    exec(compile(python, "README.md", "exec"), {})
    assert re.match(r"\d+\.\d+ ms", capfd.readouterr().out)


@pytest.mark.slow
def test_readme_commands_and_python_run_as_printed(tmp_path):
    """Each in a process of its own."""
    (commands,) = blocks("sh")
    (python,) = blocks("python")
    bin_folder = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    for line in commands.strip().splitlines():
        done = subprocess.run(shlex.split(line), cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    done = subprocess.run([sys.executable, "-c", python], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.match(r"\d+\.\d+ ms", done.stdout)


def plain_commands(text: str) -> list[list[str]]:
    """Words of every lgc command in the plain code blocks of a page: what no test runs, for it needs a GPU."""
    lines = "\n".join(blocks("", text)).splitlines()
    return [shlex.split(line[line.index("lgc-") :]) for line in lines if re.match(r"(torchrun .*)?lgc-", line)]


def options(words: list[str]) -> dict[str, object]:
    """Options of a command as its own parser reads them; the command does not run."""
    app = import_module(f"lgc.tools.{words[0].removeprefix('lgc-')}").app
    return typer.main.get_command(app).make_context(words[0], words[1:]).params


@pytest.fixture
def recipe() -> dict[str, dict[str, object]]:
    """Options of the README's commands for a GPU, by command."""
    commands = plain_commands(README)
    assert [words[0] for words in commands] == ["lgc-profile", "lgc-search", "lgc-train", "lgc-export", "lgc-train"]
    return {words[0]: options(words) for words in commands[:4]}


def test_gpu_recipe_runs_on_the_gpu(recipe):
    devices = {name: given["device"] for name, given in recipe.items()}
    assert devices.pop("lgc-profile") == ["cuda:0"]
    assert set(devices.values()) == {"cuda:0"}
    for words in (words for page in (README, SEARCH, TRAINING) for words in plain_commands(page)):
        if "--device" in words:
            assert words[words.index("--device") + 1].startswith("cuda")
            assert options(words)["device"]


def test_gpu_recipe_hands_files_on(recipe):
    searched, trained, exported = (recipe[f"lgc-{name}"] for name in ("search", "train", "export"))
    assert searched["target_ms"] == [8.0]
    assert searched["out"] == trained["source"] == exported["source"]
    assert searched["data"] == trained["data"]
    assert exported["trt"] is True
    assert exported["tolerance"] == "5%"


def test_gpu_recipe_names_the_profiled_table(recipe, call, monkeypatch):
    def stop(space, target, path, **_):
        raise UsageError(str(path))

    monkeypatch.setattr("lgc.profiler.machine.devices.check_device", lambda name: name)
    monkeypatch.setattr("lgc.profiler.backends.default.default_backend", lambda device: "tensorrt")
    monkeypatch.setattr("lgc.profiler.profile.profile", stop)
    (words,) = (words for words in plain_commands(README) if words[0] == "lgc-profile")
    assert recipe["lgc-search"]["lut"] == [Path(call(*words).refusal("lgc-profile"))]


def test_the_readmes_other_commands_exist():
    commands = "\n".join(blocks("")) + "\n".join(blocks("sh"))
    for name in set(re.findall(r"\blgc-[a-z]+", commands)):
        assert (Path(sys.executable).parent / name).exists(), name
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\S+)", "\n".join(blocks("")), re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_the_tables_format_is_described_whole():
    """Every table and column of the schema, every status, form and context has its name in the description."""
    text = (ROOT / "docs" / "lut-format.md").read_text()
    with sqlite3.connect(":memory:") as connection:
        connection.executescript(schema.DDL)
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        names |= {row[1] for table in sorted(names) for row in connection.execute(f"PRAGMA table_info({table})")}
    connection.close()
    for name in {*names, *FORMS, *CONTEXTS, *schema.KNOWN, schema.PENDING, schema.FAILED} - {"id", "value"}:
        assert re.search(rf"\b{name}\b", text), f"docs/lut-format.md says nothing of {name}"
    assert f"`{schema.APPLICATION_ID:#X}`".replace("0X", "0x") in text
    assert f"now {schema.SCHEMA_VERSION}." in text


def test_every_link_of_the_readme_leads_somewhere():
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / link).exists(), link


def test_every_link_of_a_page_leads_somewhere():
    for page in (ROOT / "docs").glob("*.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists() or "://" in link, f"{page.name}: {link}"


def test_the_searchs_settings_are_listed_with_their_defaults():
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]*?) ?\|$", SEARCH.split("## Settings")[1], re.MULTILINE)
    assert [name for name, _, _ in rows] == list(SearchConfig.model_fields)
    for name, said, options in rows:
        default = SearchConfig.model_fields[name].get_default()
        if isinstance(default, bool | str):
            assert said == str(default).lower(), name
        elif isinstance(default, int | float):
            assert float(Fraction(said)) == default, name
        else:
            assert not re.match(r"\d+\.?\d*$", said), name
        for option in re.findall(r"--[a-z-]+", options):
            assert re.search(rf"{option}\b", CLI.split("## lgc-search")[1].split("\n## ")[0]), option


def test_the_searchs_page_names_what_there_is():
    for module, name in re.findall(r"`([a-z]+)\.([A-Za-z_]+)`", SEARCH):
        path = ROOT / "search" / f"{module}.py"
        if path.exists():
            assert re.search(rf"\b{name}\b", path.read_text()), f"{module}.{name}"
    for constant, said in (
        (selection.PASSES_OF_A_STEP, "`selection.PASSES_OF_A_STEP` = {}"),
        (selection.POPULATION, "keeps {} alive"),
        (selection.TOURNAMENT, "the best of {} has a child"),
        (selection.MUTATIONS, "in which {} decisions are drawn"),
        (choosing.JUDGE_IMAGES, "up to {} images"),
        (choosing.DRAWS, "mean loss of {} paths"),
        (engine.EPOCHS, "{} epochs of half the images"),
        (round(runs.CHECKPOINT_S), "written every {} seconds"),
        (round(100 * fitting.LANDING, 9), "unused beyond {} % of the target"),
        (round(fitting.MISS_COST / 100), "costs {} nats a percent"),
        (round(1 - fitting.ROOM, 9), "Below {}: the dearer"),
        (round(100 * search.COLLAPSED), "more than {} % of the edges"),
    ):
        assert said.format(constant) in SEARCH, said.format(constant)


@pytest.mark.parametrize("model", [SearchSpace, Stem, Fusion, SearchConfig])
def test_method_lists_every_assumed_field(model: type[BaseModel]):
    source = Path(sys.modules[model.__module__].__file__).read_text()
    body = source.split(f"class {model.__name__}(", 1)[1].split("\nclass ", 1)[0]
    assumed = [
        name
        for name, doc in re.findall(r'^    (\w+): [^\n]+\n    """(.*?)"""', body, re.MULTILINE | re.DOTALL)
        if "ssumption" in doc or "Ours" in doc
    ]
    assert assumed
    for name in assumed:
        assert f"{model.__name__}.{name}`" in METHOD, f"docs/method.md lacks {model.__name__}.{name}"


def test_method_points_at_what_there_is():
    for cell in re.findall(r"^\|.*\| ([^|]+) \|$", METHOD, re.MULTILINE):
        for part in cell.split(";"):
            name, *inside = re.findall(r"`([^`]+)`", part) or [""]
            if "/" in name:
                assert (ROOT / name).exists(), name
            if name.endswith(".py"):
                text = (ROOT / name).read_text()
                assert all(re.search(rf"\b{word}\b", text) for word in inside if "." not in word), part
