"""Part 8: the tests in tests/gpu, run by pytest in this process, which has already imported the packages."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from .record import Record, SkipPartError
from .settings import Settings

ROOT = Path(__file__).resolve().parents[3]
LAST_FILE = "test_search.py"
"""Run last: it is the least important test if the time limit is reached."""


class Results:
    """Plugin of pytest that records each test at its end."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self.outcomes: dict[str, str] = {}
        self.reasons: Counter[str] = Counter()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._record.enter(_shorten(nodeid))

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.skipped:
            self.reasons[str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)] += 1
            self._record.add_value("reasons of skips", dict(self.reasons))
        elif report.when == "call" or report.failed:
            self.outcomes[_shorten(report.nodeid)] = report.outcome
            self._record.add_value("outcomes", self.outcomes)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.outcomes[_shorten(report.nodeid)] = "not collected"
            self._record.add_value("outcomes", self.outcomes)
        elif report.skipped:
            self.reasons[str(report.longrepr[2])] += 1


def run(record: Record, settings: Settings) -> None:
    import pytest

    os.chdir(ROOT)
    plugin = Results(record)
    files = sorted(map(str, (ROOT / "tests" / "gpu").glob("test_*.py")), key=lambda name: name.endswith(LAST_FILE))
    code = pytest.main([*files, "-v", "--tb=short", "-p", "no:cacheprovider"], plugins=[plugin])
    counts = Counter(plugin.outcomes.values())
    counts["skipped"] = plugin.reasons.total()
    record.add_value("counts", dict(counts))
    if not plugin.outcomes:
        reason = plugin.reasons.most_common(1)
        raise SkipPartError(
            f"all tests are skipped: {reason[0][0] if reason else f'pytest collected none, exit code {code}'}"
        )
    record.add_check("tests that did not pass", len(plugin.outcomes) - counts["passed"], max_value=0)
    record.add_check("exit code of pytest", int(code), max_value=0)


def _shorten(nodeid: str) -> str:
    return nodeid.removeprefix("tests/gpu/")
