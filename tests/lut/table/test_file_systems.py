"""Tables on file systems without locks, and in read-only folders."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3

import pytest

from lgc.errors import OutputError
from lgc.lut import LatencyTable
from lgc.lut.table import schema


@pytest.fixture
def path(make_table, mini_space):
    """A finished table, closed."""
    with make_table(mini_space) as table:
        return table.path


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_system_without_locks_is_named(path, tmp_path, make_table, mini_space, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    message = rf"t\.lut: its file system has no file locks \({os.strerror(number)}\).*local disk"
    with pytest.raises(OutputError, match=message):
        LatencyTable.open(path)
    with pytest.raises(OutputError, match="no file locks"):
        make_table(mini_space, "new.lut")
    assert not (tmp_path / "new.lut").exists()


def test_read_only_table_is_only_read(path):
    with sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None) as connection:
        store = schema.Store(path, connection)
        assert store.rows("SELECT count(*) FROM entries")
        with (
            pytest.raises(OutputError, match=r"t\.lut: the file or its folder is read-only"),
            store.transaction() as open,
        ):
            open.execute("DELETE FROM entries")
    connection.close()


@pytest.mark.parametrize("reason", ["attempt to write a readonly database", "unable to open database file"])
def test_journal_in_read_only_folder_is_named(path, monkeypatch, reason):
    """A crashed writer leaves a journal, which SQLite must roll back before it reads."""
    path.with_name("t.lut-journal").touch()

    def fail(*_):
        raise sqlite3.OperationalError(reason)

    monkeypatch.setattr(schema, "_check_database", fail)
    with pytest.raises(OutputError, match=r"a process crashed while writing.*copy t.lut\* to a writable folder"):
        LatencyTable.open(path)
