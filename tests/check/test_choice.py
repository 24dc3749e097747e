"""Choice of the GPU check's parts, merging with earlier results, and exit code."""

import importlib
import json
import sys

import pytest


@pytest.fixture
def call(checks, tmp_path, monkeypatch):
    """Return a function that runs check.py with simulated parts: `call(*options, committed=(), status="passed")`.

    It returns the exit code and the numbers of the parts that ran.
    """
    monkeypatch.syspath_prepend(str(importlib.import_module("checks").__path__[0] + "/.."))
    check = importlib.import_module("check")
    monkeypatch.setattr(check, "warm_imports", lambda: None)
    monkeypatch.setattr(check, "make_importable", lambda scratch: None)

    def run(*options, committed=(), status="passed"):
        ran = []

        def run_part(part, settings, limit_s, log):
            if part.number:
                ran.append(part.number)
            return check.PartResult(status if part.number else "passed", "", 1.0, {}, {"device_name": "H100"})

        done = {
            (part.number, check.compute_digest(check.ROOT, part)): "gpu-check-h100.jsonl"
            for part in checks.PARTS
            if part.number in committed
        }
        monkeypatch.setattr(check, "run_part", run_part)
        monkeypatch.setattr(check, "read_committed", lambda folder, name: done if name == "H100" else {})
        monkeypatch.setattr(sys, "argv", ["check.py", "--out", str(tmp_path), *options])
        with pytest.raises(SystemExit) as left:
            check.main()
        return int(left.value.code), ran

    return run


def statuses(folder):
    lines = map(json.loads, (folder / "results.jsonl").read_text().splitlines())
    return {line["part"]: line["status"] for line in lines}


def test_committed_parts_are_not_run(call, tmp_path):
    assert call(committed=range(1, 10)) == (0, [5, 10])  # part 10 needs the table of part 5
    assert statuses(tmp_path)[2] == "committed"
    assert call(committed=range(1, 11)) == (0, [])


def test_named_parts_run_despite_committed_results(call):
    assert call("--parts", "2,3", committed=range(1, 11)) == (0, [2, 3])


def test_a_second_call_keeps_other_results(call, tmp_path):
    call("--parts", "1,2")
    call("--parts", "2,4", status="failed")
    assert statuses(tmp_path) == {1: "passed", 2: "failed", 4: "failed"}
    call("--parts", "1,2", status="skipped")
    assert statuses(tmp_path) == {1: "passed", 2: "failed", 4: "failed"}


@pytest.mark.parametrize(
    ("status", "code"), [("passed", 0), ("failed", 1), ("error", 1), ("timed out", 1), ("skipped", 1)]
)
def test_exit_code_reports_failure(call, status, code):
    assert call(status=status) == (code, list(range(1, 11)))
