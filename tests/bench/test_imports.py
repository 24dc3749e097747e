"""Benchmarks are run by hand: this catches one that a change of the sources has broken."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

BENCH = Path(__file__).parent
MODULES = sorted(
    path.relative_to(BENCH.parent).with_suffix("").as_posix().replace("/", ".")
    for path in BENCH.rglob("*.py")
    if path.parent != BENCH and not path.name.startswith("test_")
)


@pytest.mark.parametrize("module", MODULES)
def test_benchmark_imports(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH.parent))
    assert importlib.import_module(module).__doc__
