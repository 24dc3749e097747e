"""A table is created whole or not at all, and never over another file."""

import os
import sqlite3

import pytest

from lgc.errors import OutputError
from lgc.lut import LatencyTable

from . import test_table as tables
from .test_table import TARGET

# The fixtures of that file.
path, table = tables.path, tables.table


def test_create_overwrites_nothing(table, path, mini_space, tmp_path):
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"t\.lut already exists \(an SQLite database\)"):
        LatencyTable.create(path, TARGET, mini_space, {}, {})
    assert path.read_bytes() == before
    with pytest.raises(OutputError, match="already exists"):
        LatencyTable.create(tmp_path, TARGET, mini_space, {}, {})


def test_failed_creation_leaves_nothing(tmp_path, mini_space):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot make the folder"):
        LatencyTable.create(tmp_path / "file" / "t.lut", TARGET, mini_space, {}, {})
    with pytest.raises(TypeError):
        LatencyTable.create(tmp_path / "t.lut", TARGET, mini_space, {}, {"thing": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_stale_temporary_file_is_removed(tmp_path, mini_space):
    (tmp_path / f".t.lut.{os.getpid()}").write_bytes(b"half a table")
    LatencyTable.create(tmp_path / "t.lut", TARGET, mini_space, {}, {}).close()
    assert [path.name for path in tmp_path.iterdir()] == ["t.lut"]


def test_concurrently_created_table_is_kept(tmp_path, mini_space, monkeypatch):
    path = tmp_path / "t.lut"
    connect = sqlite3.connect

    def meanwhile(*arguments, **options):
        path.write_text("other")
        return connect(*arguments, **options)

    monkeypatch.setattr(sqlite3, "connect", meanwhile)
    with pytest.raises(OutputError, match=r"t\.lut already exists"):
        LatencyTable.create(path, TARGET, mini_space, {}, {})
    assert path.read_text() == "other"
    assert [path.name for path in tmp_path.iterdir()] == ["t.lut"]
