"""The recipes of CONTRIBUTING.md run as printed and pass the conformance tests."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from .pages import ROOT, code_blocks

RECIPES = {
    text.split("\n", 1)[0]: text
    for text in re.split(
        r"^### ",
        (ROOT / "CONTRIBUTING.md").read_text().split("\n## Recipes\n")[1].split("\n## ")[0],
        flags=re.MULTILINE,
    )[1:]
}
MIN_PASSED = {
    "Operator": 10,
    "Backend": 12,
    "Dataset layout": 7,
    "Search strategy": 5,
    "Search objective": 4,
    "Search space": 50,
    "Network for comparison": 12,
}
"""Minimum number of conformance tests per recipe."""


def test_all_recipes_are_listed():
    assert set(RECIPES) == set(MIN_PASSED)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_passes_its_conformance_tests(recipe, tmp_path):
    codes = [*code_blocks("yaml", RECIPES[recipe]), *code_blocks("python", RECIPES[recipe])]
    blocks = [(re.match(r"# (\S+\.(py|yaml))\n", code)[1], code) for code in codes]
    (command,) = code_blocks("sh", RECIPES[recipe])
    (tmp_path / "recipe.json").write_text(json.dumps(blocks))
    options = ["-p", "recipe_plugin", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "pytest")]
    program, *arguments = shlex.split(command)
    assert program == "pytest"
    paths = [str(ROOT / "tests" / "docs"), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *arguments],
        cwd=ROOT,
        env={**os.environ, "LGC_RECIPE": str(tmp_path / "recipe.json"), "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= MIN_PASSED[recipe], done.stdout


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_is_well_formed(recipe, tmp_path):
    for number, code in enumerate(code_blocks("python", RECIPES[recipe])):
        path = tmp_path / f"block{number}.py"
        path.write_text(code)
        subprocess.run([sys.executable, "-m", "ruff", "format", "--check", "--line-length", "120", path], check=True)
        assert len([line for line in code.splitlines() if line.strip()]) < 40


def test_citation_file_is_valid():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "type", "authors", "license", "version", "abstract"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert citation["license"] == "Apache-2.0"
    assert all("name" in author or "family-names" in author for author in citation["authors"])
    import lgc

    assert citation["version"] == lgc.__version__


def test_workflow_tests_every_supported_python():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    classifiers = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    assert versions == ["3.11", "3.12", "3.13", "3.14"]
    assert set(classifiers) <= set(versions)
    makefile = (ROOT / "Makefile").read_text()
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    targets = re.findall(r"make (\w+)", "\n".join(steps))
    assert {"lint", "test"} <= set(targets)
    assert all(f"\n{target}:" in makefile for target in targets)


@pytest.mark.parametrize(
    "template", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.name
)
def test_issue_templates_are_valid(template):
    content = yaml.safe_load(template.read_text())
    if template.name == "config.yml":
        assert set(content) == {"blank_issues_enabled"}
        return
    assert {"name", "description", "body"} <= set(content)
    fields = [field for field in content["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields) > 1
    assert all(field["attributes"]["label"] for field in fields)
