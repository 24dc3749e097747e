"""Pytest plugin that applies a recipe of CONTRIBUTING.md: `LGC_RECIPE` names a JSON list of [path, code].

Code for a module of lgc runs before collection, code for a test module when it is collected. The files stay unchanged.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import lgc
from lgc.search.data.layouts import LAYOUTS

ROOT = Path(lgc.__file__).resolve().parent
BLOCKS: list[tuple[str, str]] = [tuple(block) for block in json.loads(Path(os.environ["LGC_RECIPE"]).read_text())]


def apply(path: str, code: str) -> None:
    """Run code as an addition to an existing module of lgc, or as a new module; register the YAML of a layout."""
    if path.endswith(".yaml"):
        file = Path(os.environ["LGC_RECIPE"]).with_name(Path(path).name)
        file.write_text(code)
        LAYOUTS[file.stem] = file
        return
    name = "lgc." + path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    if (ROOT / path).exists():
        module = import_module(name)
    else:
        module = sys.modules[name] = ModuleType(name)
        module.__package__ = name.rpartition(".")[0]
    exec(compile(code, path, "exec"), vars(module))


for _path, _code in BLOCKS:
    if not _path.startswith("tests/"):
        apply(_path, _code)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Run code for a test module in its namespace, before its tests are collected."""
    if isinstance(collector, pytest.Module):
        for path, code in BLOCKS:
            if collector.path.resolve() == ROOT / path:
                exec(compile(code, path, "exec"), vars(collector.obj))
