"""`lgc-scenes` writes, resumes and rejects."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lgc.search.data.datasets import load_dataset

COMMAND = (sys.executable, "-c", "from lgc.tools.scenes import main; main()")


def _call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=120)


def test_json_output_and_loader(tmp_path: Path) -> None:
    words = ["--layout", "cityscapes", "--train", "2", "--val", "1", "--test", "0"]
    words += ["--size", "32x48", "--seed", "3", "--json", "--out"]
    first, again = _call(*words, str(tmp_path / "d")), _call(*words, str(tmp_path / "d"))
    assert first.returncode == again.returncode == 0
    assert json.loads(first.stdout) == {
        "directory": str(tmp_path / "d"),
        "layout": "cityscapes",
        "size": "32x48",
        "seed": 3,
        "counts": {"train": 2, "val": 1, "test": 0},
        "written": 3,
        "kept": 0,
    }
    assert (json.loads(again.stdout)["written"], json.loads(again.stdout)["kept"]) == (0, 3)
    assert first.stderr == ""
    assert len(load_dataset(tmp_path / "d", "train")) == 2


def test_table_is_printed_without_json(tmp_path: Path) -> None:
    done = _call(*["--train", "1", "--val", "2", "--test", "0", "--size", "32x48", "--out"], str(tmp_path))
    assert done.returncode == 0
    assert "3 scenes written, 0 already existed" in done.stdout
    assert [line.split() for line in done.stdout.splitlines() if "val" in line] == [["val", "2"]]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--size", "32by48"), "invalid size '32by48'"),
        (("--size", "8x8"), "too small"),
        (("--size", "32x16385"), "too large: use at most 16384x16384"),
        (("--layout", "camvit"), "'camvit' is not one of 'camvid-segnet'"),
        (("--train", "-3"), "train images"),
        (("--seed", "-1"), "seed"),
    ],
)
def test_invalid_use_is_one_line(tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    done = _call("--out", str(tmp_path / "d"), *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert not (tmp_path / "d").exists()


def test_help_imports_neither_numpy_nor_torch() -> None:
    code = (
        "import sys\nfrom lgc.tools.scenes import app\n"
        "app(['--help'], standalone_mode=False)\nprint({'numpy', 'torch', 'PIL'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Example: lgc-scenes" in done.stdout
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT and SIGKILL")
@pytest.mark.parametrize(("sent", "code"), [("SIGINT", 130), ("SIGKILL", -9)])
def test_interrupted_command_resumes(tmp_path: Path, sent: str, code: int) -> None:
    words = ["--train", "60", "--val", "0", "--test", "0", "--size", "128x128", "--out", str(tmp_path)]
    with subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        annotations = tmp_path / "CamVid" / "trainannot"
        while running.poll() is None and len(list(annotations.glob("*.png"))) < 3:
            time.sleep(0.01)
        running.send_signal(getattr(signal, sent))
        _, errors = running.communicate(timeout=60)
        assert running.returncode == code
        assert "Traceback" not in errors
    existing = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png") if not path.name.startswith(".")}
    done = _call(*words, "--json")
    assert 0 < json.loads(done.stdout)["kept"] < 60
    assert {path: path.stat().st_mtime_ns for path in existing} == existing
    assert len(load_dataset(tmp_path, "train")) == 60
