"""The page of the suite's times and coverage."""

from .suite import BEFORE, format_page


def test_page_compares_runs_and_coverage():
    counts = {"tests": 100, "passed": 90, "skipped": 10}
    result = {
        "commit": "abc1234",
        "date": "2026-11-28",
        "cores": 2,
        "workers": 2,
        "python": "3.11.7",
        "make test": {"seconds": 400.4, **counts},
        "make test-all": {"seconds": 700.0, **counts},
        "coverage, %": {"make test": {"lut": 97.1, "all": 95.0}, "make test-all": {"lut": 98.0, "all": 96.25}},
        "before": BEFORE,
    }
    lines = format_page(result).splitlines()
    assert "| before (99bd0e6, 1 process) | 821 | 3627 | 3556 | 71 |" in lines
    assert "| `make test` | 400 | 100 | 90 | 10 |" in lines
    assert "| all | 95.0 | 96.2 |" in lines
