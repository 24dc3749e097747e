"""Progress of loops: the remaining time."""

from __future__ import annotations

import pytest

from lgc.tools.cli import progress


@pytest.fixture
def clock(monkeypatch):
    """Time in seconds, in a list of one item."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_repeated_loop_has_its_own_pace(clock):
    reports = []
    on_step = progress.make_repeated_progress("evaluating", reports.append)
    for start, step_s in ((100.0, 1.0), (500.0, 3.0)):
        for step in (1, 2, 3, 4):
            clock[0] = start + (step - 1) * step_s
            on_step(step, 4)
    assert [report.done for report in reports] == [0.25, 0.5, 0.75, 1.0] * 2
    assert [report.left_s for report in reports[4:]] == [0.0, 3.0 / 2 * 2, 6.0 / 3, 0.0]
