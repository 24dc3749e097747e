"""Tables that were cut off, overwritten or killed while being written: refused, or whole, but never half."""

import random
import shutil
import sqlite3
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgc.errors import FileFormatError
from lgc.lut import LatencyTable

PAGE = 4096


def dump(path):
    """All that a table tells; opening or reading may raise."""
    with LatencyTable.open(path) as table:
        networks = table.networks()
        keys = [entry.key for entry in (*table.entries(), *(row[0] for row in networks))]
        return (
            table.target,
            table.space,
            table.protocol,
            table.environment,
            table.entries(),
            networks,
            {key: table.visits(key) for key in keys},
            table.rounds_done(),
            [table.note(name) for name in ("calibration", "verification")],
            table.to_frame().to_dict(),
        )


class Whole:
    """A table's bytes and what it tells; a class, so that a failing example does not print them."""

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


def test_the_measured_table_spans_many_pages(whole):
    assert len(whole.content) > 10 * PAGE


def test_a_table_cut_at_any_page_is_refused(whole, damaged):
    content = whole.content
    for length in range(0, len(content), PAGE):
        with pytest.raises(FileFormatError):
            LatencyTable.open(damaged(content[:length]))


@given(st.data())
def test_a_table_cut_anywhere_is_refused(whole, damaged, data):
    content = whole.content
    with pytest.raises(FileFormatError):
        LatencyTable.open(damaged(content[: data.draw(st.integers(0, len(content) - 1))]))


@given(st.data())
def test_a_table_with_a_page_of_noise_is_refused_or_whole(whole, damaged, data):
    """Whole where the page was an unused one."""
    content = whole.content
    start = PAGE * data.draw(st.integers(0, len(content) // PAGE - 1))
    noise = random.Random(data.draw(st.integers())).randbytes(PAGE)
    try:
        found = dump(damaged(content[:start] + noise + content[start + PAGE :]))
    except FileFormatError:
        return
    assert found == whole.told


@given(st.data())
def test_a_table_with_a_page_of_zeros_is_refused_or_whole(whole, damaged, data):
    content = whole.content
    start = PAGE * data.draw(st.integers(0, len(content) // PAGE - 1))
    try:
        found = dump(damaged(content[:start] + bytes(PAGE) + content[start + PAGE :]))
    except FileFormatError:
        return
    assert found == whole.told


@given(st.data())
def test_a_changed_byte_ends_in_no_other_error(whole, damaged, data):
    """SQLite keeps no checksums, so a changed digit may pass; a crash or a traceback may not."""
    content = whole.content
    changed = bytearray(content)
    changed[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = dump(damaged(bytes(changed)))
    except FileFormatError:
        return
    assert len(found[4]) == len(whole.told[4])


@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_are_a_table(damaged, content, with_magic):
    with pytest.raises(FileFormatError):
        LatencyTable.open(damaged((b"SQLite format 3\0" if with_magic else b"") + content))


@given(st.binary(max_size=PAGE))
def test_bytes_after_the_end_change_nothing(whole, damaged, content):
    try:
        found = dump(damaged(whole.content + content))
    except FileFormatError:
        return
    assert found == whole.told


WRITER = """
import sys
from lgc.lut import LatencyTable
with LatencyTable.open(sys.argv[1]) as table:
    keys = [entry.key for entry in table.entries()]
    done = max(table.rounds_done().values(), default=0)
    for number in range(done, 10**9):
        table.record_visits((key, number, float(number), [number + 0.5] * 40) for key in keys)
        print(number, flush=True)
"""


def test_no_committed_visit_is_lost_to_a_kill(tmp_path, make_table, mini_space):
    """Fifteen writers, each going on where the one before was killed, in the middle of whatever it did."""
    table = make_table(mini_space)
    keys = [entry.key for entry in table.entries()]
    begun = len(table.visits(keys[0]))
    table.close()
    chance, told = random.Random(0), begun - 1
    for _ in range(15):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, table.path], stdout=subprocess.PIPE, text=True)
        told = max(told, int(writer.stdout.readline()))
        time.sleep(chance.uniform(0, 0.03))
        writer.kill()
        told = max([told, *map(int, writer.stdout.read().split())])
        writer.wait()
        writer.stdout.close()
        with LatencyTable.open(table.path) as opened:
            rounds = opened.rounds_done()
            assert set(rounds) == set(keys)
            assert len(set(rounds.values())) == 1, "a round is there for every subject or for none"
            assert rounds[keys[0]] > told
            assert opened.visits(keys[0])[begun:] == [[n + 0.5] * 40 for n in range(begun, rounds[keys[0]])]


CREATOR = """
import sys
from pathlib import Path
from lgc.lut import LatencyTable, Target
from lgc.models import SearchSpace
space = SearchSpace.load(sys.argv[2])
for number in range(10**9):
    LatencyTable.create(Path(sys.argv[1]) / f"{number}.lut", Target("cpu", "torch"), space, {}, {}).close()
    print(number, flush=True)
"""


def test_a_creation_that_is_killed_leaves_a_whole_table_or_none(tmp_path, mini_yaml, mini_space):
    chance = random.Random(0)
    for attempt in range(8):
        folder = tmp_path / str(attempt)
        creator = subprocess.Popen([sys.executable, "-c", CREATOR, folder, mini_yaml], stdout=subprocess.PIPE)
        creator.stdout.readline()
        time.sleep(chance.uniform(0, 0.03))
        creator.kill()
        creator.communicate()
        tables = list(folder.glob("*.lut"))
        assert tables
        for path in tables:
            with LatencyTable.open(path) as table:
                assert table.space == mini_space


def test_a_journal_left_by_a_kill_is_rolled_back(tmp_path, make_table, mini_space):
    """A copy of database and journal in mid-transaction is what a crash leaves on disk."""
    table = make_table(mini_space)
    before = table.rounds_done()
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
        assert opened.rounds_done() == before
