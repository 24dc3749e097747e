"""README and docs agree with the code."""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
import subprocess
import sys
from contextlib import closing
from fractions import Fraction
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel

from lgc.device import Device
from lgc.errors import UsageError
from lgc.lut.predictor import Predictor
from lgc.lut.statistics.calibration import FORMS
from lgc.lut.table import schema
from lgc.lut.table.rows import Entry, columns
from lgc.lut.table.table import LatencyTable
from lgc.models.space.settings import Fusion, SpaceSettings, Stem
from lgc.profiler.timing.contexts import CONTEXTS
from lgc.search import engine
from lgc.search.config import SearchConfig
from lgc.search.constraint import projection
from lgc.search.runtime import run_folder
from lgc.search.selection import finalize, strategies
from lgc.tools import search

from .pages import README, ROOT, code_blocks, read_page

METHOD, SEARCH, TRAINING, CLI = map(read_page, ("method", "search", "training", "cli"))


def test_cli_reference_is_current():
    spec = spec_from_file_location("reference", ROOT / "tests" / "docs" / "reference.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "cli.md").read_text() == module.reference(), "run `make docs`"


SMALL_SETTINGS = {
    "lgc-scenes": "--train 8 --val 2",
    "lgc-profile": "--rounds 4 --networks 4",
    "lgc-lut": "--networks 2 --rounds 4",
    "lgc-search": "--steps 4 --batch 2 --trials 0",
    "lgc-train": "--steps 2 --batch 2",
    "lgc-export": "--seconds 0.1",
    "lgc-bench": "--seconds 0.1s",
    "lgc-predict": "",
}
"""Options appended to the README's commands, so that each takes seconds."""


def fit_target(line: str, folder: Path) -> str:
    """Return a command with its latency target, if any, moved into the range of this machine's table."""
    if "--target-ms" not in line:
        return line
    with LatencyTable.open(folder / "tiny.lut") as table:
        predictor = Predictor(table.space, table)
    middle_ms = (predictor.predict(predictor.fastest) + predictor.predict(predictor.slowest)) / 2
    return re.sub(r"--target-ms \S+", f"--target-ms {middle_ms:.3f}", line)


def test_readme_commands_and_python_run(tmp_path, call, monkeypatch, capfd):
    """In this process; each command reads the files of those before."""
    monkeypatch.chdir(tmp_path)
    (commands,) = code_blocks("sh", README)
    (python,) = code_blocks("python", README)
    for line in commands.strip().splitlines():
        program, *arguments = shlex.split(fit_target(line, tmp_path))
        done = call(program, *arguments, *shlex.split(SMALL_SETTINGS[program]))
        assert done.code == 0, f"{line}\n{done.err}"
    exec(compile(python, "README.md", "exec"), {})
    assert re.match(r"\d+\.\d+ ms", capfd.readouterr().out)


@pytest.mark.slow
def test_readme_runs_as_printed(tmp_path):
    """Each command in its own process; only the latency target depends on the machine."""
    (commands,) = code_blocks("sh", README)
    (python,) = code_blocks("python", README)
    bin_folder = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    for line in commands.strip().splitlines():
        done = subprocess.run(
            shlex.split(fit_target(line, tmp_path)), cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    done = subprocess.run([sys.executable, "-c", python], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.match(r"\d+\.\d+ ms", done.stdout)


def plain_commands(text: str) -> list[list[str]]:
    """Return the arguments of every lgc command in blocks without a language, which tests do not run."""
    lines = "\n".join(code_blocks("", text)).splitlines()
    return [shlex.split(line[line.index("lgc-") :]) for line in lines if re.match(r"(torchrun .*)?lgc-", line)]


def parse_options(command: list[str]) -> dict[str, object]:
    """Return the options of a command as its own parser reads them, without running it."""
    app = import_module(f"lgc.tools.{command[0].removeprefix('lgc-')}").app
    return typer.main.get_command(app).make_context(command[0], command[1:]).params


@pytest.fixture
def recipe() -> dict[str, dict[str, object]]:
    """Return the options of the README's GPU commands, by command."""
    commands = plain_commands(README)
    assert [name for name, *_ in commands] == ["lgc-profile", "lgc-search", "lgc-train", "lgc-export", "lgc-train"]
    return {command[0]: parse_options(command) for command in commands[:4]}


def test_gpu_recipe_runs_on_the_gpu(recipe):
    devices = {name: options["device"] for name, options in recipe.items()}
    assert devices.pop("lgc-profile") == ["cuda:0"]
    assert set(devices.values()) == {"cuda:0"}
    for command in (command for page in (README, SEARCH, TRAINING) for command in plain_commands(page)):
        if "--device" in command:
            assert command[command.index("--device") + 1].startswith("cuda")
            assert parse_options(command)["device"]


def test_gpu_recipe_passes_files_between_commands(recipe):
    searched, trained, exported = (recipe[f"lgc-{name}"] for name in ("search", "train", "export"))
    assert searched["target_ms"] == [8.0]
    assert searched["out"] == trained["source"] == exported["source"]
    assert searched["data"] == trained["data"]
    assert exported["trt"] is True
    assert exported["tolerance"] == "5%"


def test_gpu_recipe_names_the_profiled_table(recipe, call, monkeypatch):
    def stop(space, target, path, **_):
        raise UsageError(str(path))

    monkeypatch.setattr("lgc.profiler.machine.devices.check_device", Device)
    monkeypatch.setattr("lgc.profiler.backends.default.default_backend", lambda device: "tensorrt")
    monkeypatch.setattr("lgc.profiler.profile.profile", stop)
    (command,) = (command for command in plain_commands(README) if command[0] == "lgc-profile")
    assert recipe["lgc-search"]["lut"] == [Path(call(*command).refusal("lgc-profile"))]


def test_commands_for_own_data_are_valid():
    (console,) = code_blocks("console", README)
    commands = [shlex.split(line[2:]) for line in console.splitlines() if line.startswith("$ ")]
    names = ("data", "profile", "search", "train", "export", "predict", "bench")
    assert [name for name, *_ in commands] == [f"lgc-{name}" for name in names]
    options = {name: parse_options([name, *rest]) for name, *rest in commands[1:]}
    assert options["lgc-search"]["lut"] == [options["lgc-profile"]["out"]]
    run = options["lgc-search"]["out"]
    assert {options[f"lgc-{name}"]["source"] for name in ("train", "export", "predict")} == {run}
    assert options["lgc-bench"]["sources"] == [run]


def test_readme_commands_and_make_targets_exist():
    commands = "\n".join(code_blocks("", README)) + "\n".join(code_blocks("sh", README))
    for name in set(re.findall(r"\blgc-[a-z]+", commands)):
        assert (Path(sys.executable).parent / name).exists(), name
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\S+)", "\n".join(code_blocks("", README)), re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_table_format_page_is_complete():
    """docs/lut-format.md has every table, with its columns, and every status, form and context."""
    text = (ROOT / "docs" / "lut-format.md").read_text()
    _, *parts = re.split(r"^\*\*`?(\w+)`?\*\*", text, flags=re.MULTILINE)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(schema.DDL)
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE sql IS NOT NULL")]
        for table in tables:
            for _, column, *_ in connection.execute(f"PRAGMA table_info({table})"):
                assert re.search(rf"[`|] ?{column}\b", sections[table]), f"docs/lut-format.md: {table} lacks {column}"
    assert set(sections) == set(tables)
    assert re.findall(r"^\| (\w+) \|", sections["entries"], re.MULTILINE) == ["column", *columns(Entry)]
    for name in (*FORMS, *CONTEXTS, *schema.WITH_LATENCY, schema.PENDING, schema.FAILED):
        assert re.search(rf"\b{name}\b", text), f"docs/lut-format.md lacks {name}"
    assert f"`{schema.APPLICATION_ID:#X}`".replace("0X", "0x") in text
    assert f"now {schema.TABLE_SCHEMA_VERSION}." in text


def headings(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub writes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")], ids=lambda page: page.name)
def test_links_have_targets(page):
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


def test_search_settings_are_listed_with_defaults():
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]*?) ?\|$", SEARCH.split("## Settings")[1], re.MULTILINE)
    assert [name for name, _, _ in rows] == list(SearchConfig.model_fields)
    for name, documented, options in rows:
        default = SearchConfig.model_fields[name].get_default()
        if isinstance(default, bool | str):
            assert documented == str(default).lower(), name
        elif isinstance(default, int | float):
            assert float(Fraction(documented)) == default, name
        else:
            assert not re.match(r"\d+\.?\d*$", documented), name
        for option in re.findall(r"--[a-z-]+", options):
            assert re.search(rf"{option}\b", CLI.split("## lgc-search")[1].split("\n## ")[0]), option


def test_search_page_names_existing_modules():
    for module in re.findall(r"`([\w/]+\.py)`", SEARCH):
        assert (ROOT / "search" / module).exists() or (ROOT / module).exists(), module


def test_search_page_has_the_constants():
    text = " ".join(SEARCH.split())
    for constant, sentence in (
        (strategies.PASSES_PER_STEP, "counts as {} passes"),
        (strategies.POPULATION, "keeps a population of {}"),
        (strategies.TOURNAMENT, "The best of {} sampled members"),
        (strategies.MUTATIONS, "mutated in {} decisions"),
        (finalize.MAX_SCORING_IMAGES, "all images, at most {}"),
        (finalize.NUM_SAMPLED_PATHS, "mean loss of {} paths"),
        (engine.SEARCH_EPOCHS, "{} epochs of half the images"),
        (round(run_folder.CHECKPOINT_S), "written every {} seconds"),
        (round(100 * projection.FREE_SLACK, 9), "unused beyond {} % of the target"),
        (round(projection.SLACK_COST / 100), "adds a penalty of {} nats per percent"),
        (round(1 - projection.TARGET_TOLERANCE, 9), "Below {}: swap to slower"),
        (round(100 * search.MAX_IDLE_SHARE), "more than {} % of the edges"),
    ):
        assert sentence.format(constant) in text, sentence.format(constant)


@pytest.mark.parametrize("model", [SpaceSettings, Stem, Fusion, SearchConfig])
def test_method_lists_every_assumed_field(model: type[BaseModel]):
    name_on_page = "LGCNetSpace" if model is SpaceSettings else model.__name__
    source = Path(sys.modules[model.__module__].__file__).read_text()
    body = source.split(f"class {model.__name__}(", 1)[1].split("\nclass ", 1)[0]
    assumed = [
        name
        for name, doc in re.findall(r'^    (\w+): ([^\n]+\n(?:    """.*?""")?)', body, re.MULTILINE | re.DOTALL)
        if "ssumption" in doc or "Ours" in doc
    ]
    assert assumed
    for name in assumed:
        assert f"{name_on_page}.{name}`" in METHOD, f"docs/method.md lacks {name_on_page}.{name}"


def test_method_names_existing_code():
    for cell in re.findall(r"^\|.*\| ([^|]+) \|$", METHOD, re.MULTILINE):
        for part in cell.split(";"):
            name, *inside = re.findall(r"`([^`]+)`", part) or [""]
            if "/" in name:
                assert (ROOT / name).exists(), name
            if name.endswith(".py"):
                text = (ROOT / name).read_text()
                assert all(re.search(rf"\b{word}\b", text) for word in inside if "." not in word), part
