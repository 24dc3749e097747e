"""Truncated, overwritten and killed tables are rejected or complete, never partial."""

import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgc.errors import FileFormatError
from lgc.lut import LatencyTable, Target
from lgc.models import SCOPES, OpSpec

PAGE = 4096


def dump(path):
    """Return the content of a table; opening and reading may raise."""
    with LatencyTable.open(path) as table:
        measurement = table.measurement()
        return (
            table.target,
            table.space,
            table.protocol,
            table.environment,
            table.entries(),
            table.networks(),
            table.benchmarks(),
            table.sample_batches(),
            [(key, measurement.points(key).tolist()) for key in measurement.benchmarks],
            [table.components(OpSpec.parse(entry.key)) for entry in table.entries()],
            [table.metadata(name) for name in ("calibration", "verification")],
            [table.correction(scope) for scope in SCOPES],
            table.to_frame().to_dict(),
        )


class Whole:
    """Bytes and content of a table; a class, so that a failing example does not print them."""

    def __init__(self, path):
        self.content, self.told = path.read_bytes(), dump(path)


@pytest.fixture(scope="module")
def whole(measured_table):
    return Whole(measured_table)


@pytest.fixture
def damaged(tmp_path):
    path = tmp_path / "damaged.lut"

    def write(content):
        path.write_bytes(content)
        return path

    return write


def test_measured_table_spans_many_pages(whole):
    assert len(whole.content) > 10 * PAGE


def test_truncated_table_is_rejected(whole, damaged):
    content = whole.content
    for length in range(0, len(content), PAGE):
        with pytest.raises(FileFormatError):
            LatencyTable.open(damaged(content[:length]))


@given(st.data())
def test_table_truncated_anywhere_is_rejected(whole, damaged, data):
    content = whole.content
    with pytest.raises(FileFormatError):
        LatencyTable.open(damaged(content[: data.draw(st.integers(0, len(content) - 1))]))


@given(st.data())
def test_page_of_noise_is_detected(whole, damaged, data):
    """Accept complete tables, where the page was unused."""
    content = whole.content
    start = PAGE * data.draw(st.integers(0, len(content) // PAGE - 1))
    noise = random.Random(data.draw(st.integers())).randbytes(PAGE)
    try:
        found = dump(damaged(content[:start] + noise + content[start + PAGE :]))
    except FileFormatError:
        return
    assert found == whole.told


@given(st.data())
def test_page_of_zeros_is_detected(whole, damaged, data):
    content = whole.content
    start = PAGE * data.draw(st.integers(0, len(content) // PAGE - 1))
    try:
        found = dump(damaged(content[:start] + bytes(PAGE) + content[start + PAGE :]))
    except FileFormatError:
        return
    assert found == whole.told


@given(st.data())
def test_changed_byte_raises_only_lgc_errors(whole, damaged, data):
    """Accept changed digits, because SQLite has no checksums, but no crash and no traceback."""
    content = whole.content
    changed = bytearray(content)
    changed[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = dump(damaged(bytes(changed)))
    except FileFormatError:
        return
    assert len(found[4]) == len(whole.told[4])


@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_are_rejected(damaged, content, with_magic):
    with pytest.raises(FileFormatError):
        LatencyTable.open(damaged((b"SQLite format 3\0" if with_magic else b"") + content))


@given(st.binary(max_size=PAGE))
def test_trailing_bytes_are_ignored(whole, damaged, content):
    try:
        found = dump(damaged(whole.content + content))
    except FileFormatError:
        return
    assert found == whole.told


FORKER = """
import os, signal, sys, time
from pathlib import Path
from lgc.lut import LatencyTable, Target
from lgc.lut.statistics.measurement import SampleBatch
from lgc.lut.table.recorder import Recorder
from lgc.lut.statistics.estimates import summarise_batches
from lgc.models import SearchSpace


def write(log, path):
    with LatencyTable.open(path) as table:
        recorder = Recorder(table, "cpu", {})
        for key in recorder.claim(1 / 2):
            tell(log, "begun", key, recorder.session)
            for batch in range(2):
                time.sleep(0.005)
                batches = [SampleBatch(key, 3 * batch + n, time.time(), [batch + n + 1.0] * 20) for n in range(3)]
                recorder.record(batches)
                tell(log, "visited", key, recorder.session, batch)
            recorder.finish({key: (summarise_batches([item.durations_ms for item in batches], "minima"), None)})
            tell(log, "finished", key, recorder.session)


def create(log, folder, space):
    space = SearchSpace.load(space)
    for number in range(10**9):
        LatencyTable.create(Path(folder) / f"{number}.lut", Target("cpu", "torch"), space, {}, {}).close()
        tell(log, "created", number)


def tell(log, *words):
    os.write(log, (" ".join(map(str, (time.monotonic_ns(), *words))) + "\\n").encode())


for line in sys.stdin:
    what, *words = line.split()
    if what == "kill":
        os.kill(int(words[0]), signal.SIGKILL)
    if what in ("kill", "wait"):
        print(os.waitpid(int(words[0]), 0)[1], flush=True)
    else:
        child = os.fork()
        if child == 0:
            log = os.open(words[0], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            globals()[what](log, *words[1:])
            os._exit(0)
        print(child, flush=True)
"""


class Forker:
    """Start processes quickly, from a process that has imported everything, and kill them."""

    def __init__(self, folder):
        self.folder, self.started = folder, 0
        words = [sys.executable, "-c", FORKER]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _ask(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, what, *words):
        self.started += 1
        return self._ask(what, self.folder / f"{self.started}.log", *words)

    def kill(self, pid):
        assert self._ask("kill", pid) in (0, 9)

    def wait(self, pid):
        assert self._ask("wait", pid) == 0

    def told(self):
        """Return the messages of the processes by time, without the times."""
        lines = [line.split() for log in self.folder.glob("*.log") for line in log.read_text().splitlines()]
        return [words for _, *words in sorted(lines, key=lambda words: int(words[0]))]


@pytest.fixture
def forker(tmp_path):
    (tmp_path / "logs").mkdir()
    forker = Forker(tmp_path / "logs")
    yield forker
    forker.process.communicate()


def test_kills_lose_and_repeat_nothing(tmp_path, forker, mini_space):
    """Fill a table from two processes, kill one of them at random and replace it."""
    benchmarks = [f"probe{index:03}" for index in range(400)]
    path = tmp_path / "t.lut"
    with LatencyTable.create(path, Target("cpu", "torch"), mini_space, {"statistic": "minima"}, {}) as table:
        table.add_benchmarks("operator", {key: [] for key in benchmarks})
    chance, running = random.Random(0), [forker.start("write", path) for _ in range(2)]
    kills, halfway, done = 0, 0, set()
    while kills < 60 and len(done) < len(benchmarks):
        time.sleep(chance.uniform(0, 0.05))
        forker.kill(running.pop(chance.randrange(2)))
        told = forker.told()
        with LatencyTable.open(path) as table:
            done = {benchmark.key for benchmark in table.benchmarks() if benchmark.status == "measured"}
            batches = Counter((batch.benchmark, batch.session) for batch in table.sample_batches())
        reported = Counter((key, int(session)) for what, key, session, *_ in told if what == "visited")
        assert all(batches[each] >= 3 * times for each, times in reported.items()), "a reported batch is lost"
        assert set(batches.values()) <= {3, 6}, "half of a transaction was committed"
        assert {key for what, key, *_ in told if what == "finished"} <= done, "a reported end is lost"
        halfway += len({key for key, _ in batches} - done) > 0
        kills += 1
        running.append(forker.start("write", path))
    assert kills > 30, "the work ended before many kills"
    assert done, "no process finished anything"
    assert halfway > 5, "all kills were between benchmarks"
    for pid in running:
        forker.wait(pid)
    forker.wait(forker.start("write", path))
    forker.wait(forker.start("write", path))
    with LatencyTable.open(path) as table:
        done = {benchmark.key: benchmark.status for benchmark in table.benchmarks()}
        assert done == dict.fromkeys(benchmarks, "measured")
        assert {key: len({batch.round for batch in table.sample_batches(key)}) for key in benchmarks} == dict.fromkeys(
            benchmarks, 6
        )
    finished, holder = set(), {}
    for what, key, session, *_ in forker.told():
        assert key not in finished, f"{key} was finished, then {what} in session {session}"
        finished |= {key} if what == "finished" else set()
        assert int(session) >= holder.get(key, 0), f"two processes measured {key} at once"
        holder[key] = int(session)


def test_killed_creation_is_atomic(tmp_path, forker, mini_yaml, mini_space):
    chance = random.Random(0)
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        creator = forker.start("create", folder, mini_yaml)
        while not list(folder.glob("*.lut")):
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.03))
        forker.kill(creator)
        for path in folder.glob("*.lut"):
            with LatencyTable.open(path) as table:
                assert table.space == mini_space


def test_leftover_journal_is_rolled_back(tmp_path, make_table, mini_space):
    """Copy database and journal during a transaction, as a crash leaves them."""
    table = make_table(mini_space)
    before = table.sample_batches()
    assert len(before) > 50
    connection = sqlite3.connect(table.path)
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("BEGIN")
    connection.execute("DELETE FROM visits")
    crashed = tmp_path / "crashed.lut"
    shutil.copy(table.path, crashed)
    shutil.copy(f"{table.path}-journal", f"{crashed}-journal")
    connection.rollback()
    connection.close()
    table.close()
    with LatencyTable.open(crashed) as opened:
        assert opened.sample_batches() == before
