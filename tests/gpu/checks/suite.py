"""Part 8: the tests in tests/gpu, by this Python's pytest, in this process: what is imported need not be so again."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from .record import Record, SkipPartError
from .settings import Settings

ROOT = Path(__file__).resolve().parents[3]
SLOWEST = "test_search.py"
"""Run last: what is ended by the limit is the least of the suite."""


class Results:
    """A plugin of pytest that records each test as it ends."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self.outcomes: dict[str, str] = {}
        self.reasons: Counter[str] = Counter()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._record.at(_short(nodeid))

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.skipped:
            self.reasons[str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)] += 1
            self._record.value("reasons of skips", dict(self.reasons))
        elif report.when == "call" or report.failed:
            self.outcomes[_short(report.nodeid)] = report.outcome
            self._record.value("outcomes", self.outcomes)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.outcomes[_short(report.nodeid)] = "not collected"
            self._record.value("outcomes", self.outcomes)
        elif report.skipped:
            self.reasons[str(report.longrepr[2])] += 1


def run(record: Record, settings: Settings) -> None:
    import pytest

    os.chdir(ROOT)
    plugin = Results(record)
    files = sorted(map(str, (ROOT / "tests" / "gpu").glob("test_*.py")), key=lambda name: name.endswith(SLOWEST))
    code = pytest.main([*files, "-v", "--tb=short", "-p", "no:cacheprovider"], plugins=[plugin])
    counts = Counter(plugin.outcomes.values())
    counts["skipped"] = plugin.reasons.total()
    record.value("counts", dict(counts))
    if not plugin.outcomes:
        reason = plugin.reasons.most_common(1)
        raise SkipPartError(
            f"every test is skipped: {reason[0][0] if reason else f'pytest found none, exit code {code}'}"
        )
    record.check("tests that did not pass", len(plugin.outcomes) - counts["passed"], most=0)
    record.check("exit code of pytest", int(code), most=0)


def _short(nodeid: str) -> str:
    return nodeid.removeprefix("tests/gpu/")
