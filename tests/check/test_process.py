"""Parts that fail, lack a package, crash or hang give a line with the reason and leave no process."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

FIX = "install it, or collect it with `make gpu-wheels`"
MODULES = {
    "measures": """
def run(record, settings):
    record.add_value("x", 3)
    record.add_check("y", 1.0, min_value=0.5, max_value=2)
""",
    "misses": """
def run(record, settings):
    record.add_check("y", 3.0, max_value=2)
    record.add_check("z", float("nan"), max_value=2)
""",
    "skips": """
from checks.record import SkipPartError
def run(record, settings):
    raise SkipPartError("no GPU")
""",
    "fails": """
def run(record, settings):
    record.add_value("x", 1)
    raise ValueError("bad\\nnews")
""",
    "lacks": """
def run(record, settings):
    import no_such_package
""",
    "dies": """
import os
def run(record, settings):
    record.enter("the edge")
    os.kill(os.getpid(), 9)
""",
    "hangs": """
import subprocess, time
def run(record, settings):
    record.add_value("child", subprocess.Popen(["sleep", "600"]).pid)
    record.enter("waiting")
    time.sleep(600)
""",
    "groups": """
import os
def run(record, settings):
    record.add_value("group", os.getpgrp())
""",
    "prints": """
import subprocess
def run(record, settings):
    print("seen")
    subprocess.run(["echo", "heard"])
""",
}


@pytest.fixture
def run_simulated(checks, tmp_path, monkeypatch):
    """Return a function that runs a simulated part: `run_simulated(name, limit_s)`."""
    package = tmp_path / "simulated"
    package.mkdir()
    for name, text in MODULES.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.setattr(checks, "__path__", [*checks.__path__, str(package)])
    settings = checks.settings.Settings("cpu", tmp_path, tmp_path, part=3)

    def run(name, limit_s=20.0):
        return checks.process.run_part(checks.Part(3, name, name, 1, 1, ()), settings, limit_s, tmp_path / "log")

    yield run
    for name in MODULES:
        sys.modules.pop(f"checks.{name}", None)


def test_record_returns_to_parent(run_simulated):
    part = run_simulated("measures")
    assert (part.status, part.words, part.values) == ("passed", "", {"x": 3})
    assert part.checks == {"y": {"value": 1.0, "bound": ">= 0.5 and <= 2", "holds": True}}


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("misses", "failed", "y, z"),
        ("skips", "skipped", "no GPU"),
        ("fails", "error", "ValueError: bad"),
        (
            "lacks",
            "error",
            f"missing package: No module named 'no_such_package'; {FIX}",
        ),
        ("dies", "error", "killed by signal SIGKILL in stage: the edge; see the log"),
    ],
)
def test_failures_are_recorded_with_reason(run_simulated, name, status, words):
    part = run_simulated(name)
    assert (part.status, part.words) == (status, words)


def test_a_failed_part_keeps_its_values(run_simulated):
    assert run_simulated("fails").values == {"x": 1}


def test_timed_out_part_ends_with_children(run_simulated):
    part = run_simulated("hangs", 1.0)
    assert part.status == "timed out"
    assert part.words == "killed at its limit of 1 s, in stage: waiting"
    deadline = time.monotonic() + 10  # the kernel reparents the orphan before it ends
    while is_alive(part.values["child"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(part.values["child"])


def is_alive(pid):
    """Return True if a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_output_goes_to_log(run_simulated, tmp_path):
    run_simulated("prints")
    assert (tmp_path / "log").read_text().splitlines() == ["--- part 3: prints", "seen", "heard"]


def test_part_has_own_process_group(run_simulated):
    assert run_simulated("groups").values["group"] != os.getpgrp()


@pytest.fixture
def tree(checks, tmp_path):
    """Return a small repository, a part of the check, and the folder of committed results."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.py").write_text("a = 1\n")
    (tmp_path / "tests" / "gpu" / "checks").mkdir(parents=True)
    (tmp_path / "tests" / "gpu" / "checks" / "clock.py").write_text("pass\n")
    return tmp_path, checks.Part(2, "clock", "clock", 1, 1, ("models",))


def test_only_passes_of_current_code_count(checks, tree):
    root, part = tree
    code = checks.committed.compute_digest(root, part)
    lines = [
        {"part": 2, "status": "passed", "device_name": "H100", "code": code},
        {"part": 3, "status": "failed", "device_name": "H100", "code": code},
        {"part": 4, "status": "passed", "device_name": "other", "code": code},
    ]
    (root / "gpu-check-h100.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert checks.committed.read_committed(root, "H100") == {(2, code): "gpu-check-h100.jsonl"}


@pytest.mark.parametrize("file", ["models/a.py", "tests/gpu/checks/clock.py", "models/new.yaml"])
def test_changed_code_changes_digest(checks, tree, file):
    root, part = tree
    before = checks.committed.compute_digest(root, part)
    (root / "models" / "notes.md").write_text("no code")
    assert checks.committed.compute_digest(root, part) == before
    (root / file).write_text("changed = 1\n")
    assert checks.committed.compute_digest(root, part) != before


def test_every_source_of_a_part_exists(checks):
    root = Path(checks.__file__).parents[3]
    for part in checks.PARTS:
        assert [source for source in part.sources if not (root / source).exists()] == []
    assert sum(part.limit_s for part in checks.PARTS[:9]) <= 520  # the last part gets the remaining time


@pytest.fixture
def publish(checks, tmp_path):
    """Return a function that publishes lines of a device: `publish(device, name, **statuses)` gives page and lines."""

    def run(device, name, **statuses):
        head = {"device": device, "device_name": name, "commit": "c", "date": "2026-11-28", "words": ""}
        lines = [{"part": int(key[1:]), "name": key, "status": status, **head} for key, status in statuses.items()]
        results = tmp_path / "results.jsonl"
        results.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        page = checks.page.publish(results, tmp_path)
        merged = checks.page.read_lines(page.with_suffix(".jsonl"))
        return page, {line["part"]: line["status"] for line in merged}

    return run


def test_published_parts_replace_earlier_ones(publish):
    page, first = publish("cuda:0", "NVIDIA H100 80GB", p1="failed", p2="passed")
    assert page.name == "gpu-check-nvidia-h100-80gb.md"
    assert first == {1: "failed", 2: "passed"}
    page, second = publish("cuda:0", "NVIDIA H100 80GB", p1="passed", p2="committed", p3="not begun", p10="timed out")
    assert second == {1: "passed", 2: "passed", 10: "timed out"}
    assert "| 2 | p2 | passed |" in page.read_text()


def test_skip_keeps_published_pass(publish):
    publish("cuda:0", "H100", p6="passed")
    _, lines = publish("cuda:0", "H100", p6="skipped", p4="skipped")
    assert lines == {4: "skipped", 6: "passed"}


def test_rehearsal_cannot_be_published(publish):
    with pytest.raises(SystemExit, match="is from a rehearsal on a CPU"):
        publish("cpu", "AMD EPYC", p1="passed")


@pytest.mark.parametrize("text", ["", None])
def test_empty_results_cannot_be_published(checks, tmp_path, text):
    results = tmp_path / "results.jsonl"
    if text is not None:
        results.write_text(text)
    with pytest.raises(SystemExit, match=r"results\.jsonl is missing or empty: pass the results\.jsonl of"):
        checks.page.publish(results, tmp_path)
