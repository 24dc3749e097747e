"""A disk that fills up while two processes write a table: both raise, and no committed row is lost."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from lgc.errors import OutputError
from lgc.lut import LatencyTable
from lgc.lut.statistics.measurement import SampleBatch
from lgc.lut.table.recorder import Recorder


def batches(number, session):
    return [SampleBatch(f"benchmark {session}", 100 + number, float(number), [0.5] * 200, session)]


def limit(table, pages):
    table.store.rows(f"PRAGMA max_page_count = {pages}")


def fill(recorder):
    """Record until the disk is full and return the number of committed batches."""
    done = []

    def record():
        for number in range(1000):
            recorder.record(batches(number, recorder.session))
            done.append(number)

    with pytest.raises(OutputError, match="database or disk is full") as caught:
        record()
    assert str(recorder.table.path) in str(caught.value)
    return len(done)


def test_two_writers_on_a_full_disk(make_table, mini_space):
    first = make_table(mini_space)
    second = LatencyTable.open(first.path)
    before = len(first.sample_batches())
    entries, pages = first.entries(), first.path.stat().st_size // 4096 + 20
    one, two = Recorder(first, "cpu", {}), Recorder(second, "cpu", {})
    limit(first, pages)
    limit(second, pages)
    written = fill(one) + fill(two)
    assert written > 10
    with pytest.raises(OutputError, match="database or disk is full"):
        first.set_metadata("calibration", {"core": "x" * 100_000})
    for table in (first, second):
        assert len(table.sample_batches()) == before + written
        assert table.entries() == entries
        assert table.metadata("calibration") is None
        limit(table, 10**6)
    two.record(batches(999, two.session))
    one.record(batches(999, one.session))
    for table in (first, second):
        assert len(table.sample_batches()) == before + written + 2
        table.close()
    with LatencyTable.open(first.path) as table:
        assert len(table.sample_batches()) == before + written + 2


@pytest.mark.parametrize(
    "words",
    [
        ("merge", "a.lut", "b.lut", "--out", "c.lut"),
        ("export", "a.lut", "--out", "c.csv"),
        ("import", "table.npy", "--out", "c.csv", "--unit", "ms"),
    ],
    ids=lambda words: words[0],
)
def test_command_on_a_full_disk_leaves_nothing(words, make_table, mini_space, npy, tmp_path):
    """Limit the file size by the kernel, which acts like a full disk with another error number."""
    make_table(mini_space, "a.lut").close()
    make_table(mini_space, "b.lut", seed=1).close()
    npy({f"ff_H{n}_W2_C3": 1.0 for n in range(2000)})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    program = Path(sys.executable).with_name("lgc-lut")
    done = subprocess.run(
        [program, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024)),
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("lgc-lut: cannot write")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
