"""The GPU check from the command line, on this machine's CPU."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECK = ROOT / "tests" / "gpu" / "check.py"


def call(*arguments, **environment):
    command = [sys.executable, str(CHECK), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | environment)


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    """Run a rehearsal of all parts; on a busy machine it may take twice its 30 seconds."""
    out = tmp_path_factory.mktemp("check") / "results"
    done = call("--device", "cpu", "--out", out, "--seconds", 90, LGC_COMMIT="abc1234")
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    return done, out, {line["part"]: line for line in lines}


@pytest.mark.slow
def test_rehearsal_writes_ten_lines(rehearsal):
    done, _, lines = rehearsal
    assert list(lines) == list(range(1, 11))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("10 parts on ")
    assert {line["commit"] for line in lines.values()} == {"abc1234"}


@pytest.mark.slow
def test_rehearsal_runs_all_cpu_parts(rehearsal):
    _, _, lines = rehearsal
    skipped = {number for number, line in lines.items() if line["status"] == "skipped"}
    assert skipped == {4}
    assert {line["status"] for number, line in lines.items() if number not in skipped} == {"passed"}, lines
    assert lines[5]["values"]["entries"] == lines[5]["values"]["measured"]
    assert lines[10]["values"]["search"]["steps a second"] > 0


@pytest.mark.slow
def test_rehearsal_leaves_five_files(rehearsal):
    _, out, _ = rehearsal
    names = sorted(path.name for path in out.iterdir())
    assert names == ["check.log", "check.md", "results.jsonl", "table-fp16.lut", "table-fp32.lut"]


@pytest.mark.slow
def test_page_lists_every_part(rehearsal):
    _, out, lines = rehearsal
    text = (out / "check.md").read_text()
    for number, line in lines.items():
        assert f"\n| {number} | {line['name']} | {line['status']} |" in text
    assert "| unseen / mape_pct |" in text


@pytest.mark.slow
def test_only_chosen_parts_run(tmp_path):
    done = call("--device", "cpu", "--out", tmp_path, "--parts", "4,1", "--seconds", 60)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(line["part"], line["status"]) for line in lines] == [(1, "passed"), (4, "skipped")], done.stderr


@pytest.mark.slow
def test_parts_without_time_are_not_started(tmp_path):
    done = call("--device", "cpu", "--out", tmp_path, "--seconds", 1)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {line["status"] for line in lines} == {"not begun"}, done.stderr
    assert len(lines) == 10
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--parts", "11", "no part 11: choose from 1 to 10"),
        ("--parts", "two", "'two' is not a list of part numbers such as 5,10"),
        ("--seconds", "0", "'0' is not a positive number of seconds"),
        ("--seconds", "nan", "'nan' is not a positive number of seconds"),
        ("--out", "/dev/null", "cannot write to /dev/null: File exists; name another folder with --out"),
    ],
)
def test_bad_options_are_rejected(tmp_path, option, value, message):
    done = call("--out", tmp_path, option, value)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(message)


@pytest.mark.parametrize(
    "sent",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_interrupted_check_leaves_no_process(tmp_path, sent):
    marker = f"lgc-check-test-{os.getpid()}-{sent}"
    command = [
        sys.executable,
        str(CHECK),
        "--device",
        "cpu",
        "--out",
        str(tmp_path),
        "--parts",
        "5",
        "--seconds",
        "300",
    ]
    check = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"LGC_MARKER": marker})
    wait_for(lambda: "--- part 5" in read(tmp_path / "check.log"))
    check.send_signal(sent)
    _, stderr = check.communicate(timeout=60)
    assert check.returncode == 128 + sent
    assert stderr.splitlines()[-1].startswith("check.py: interrupted; finished parts are in ")
    assert "Traceback" not in stderr
    wait_for(lambda: not processes_with(marker), 3)  # an orphan would run for a minute


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.05)


def read(path):
    return path.read_text() if path.exists() else ""


def processes_with(marker):
    """Return the ids of running processes with a marker in their environment."""
    numbers = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if marker.encode() in (folder / "environ").read_bytes():
                numbers.append(folder.name)
    return numbers


def test_unknown_device_is_rejected(tmp_path):
    done = call("--device", "cuda:99", "--out", tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("check.py: no device 'cuda:99' on this machine")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results.jsonl").exists()
