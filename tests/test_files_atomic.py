"""Conformance of `atomic_path`: the file appears under its name only when it is complete."""

import os
import time

import pytest

from lgc import files
from lgc.errors import OutputError
from lgc.files import atomic_path


def test_file_appears_after_the_block(tmp_path):
    out = tmp_path / "new" / "a.lut"
    with atomic_path(out) as path:
        path.write_text("content")
        assert not out.exists()
    assert out.read_text() == "content"
    assert list(out.parent.iterdir()) == [out]


def test_error_removes_temporary_files(tmp_path):
    def fail():
        with atomic_path(tmp_path / "a.lut") as path:
            path.write_text("half")
            path.with_name(f"{path.name}-journal").write_text("half")
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        fail()
    assert list(tmp_path.iterdir()) == []


def test_existing_file_needs_replace(tmp_path):
    out = tmp_path / "a.lut"
    out.write_text("old")
    with pytest.raises(OutputError, match=r"a\.lut already exists \(text that begins with 'old'\)"), atomic_path(out):
        pass
    assert out.read_text() == "old"
    with atomic_path(out, replace=True) as path:
        path.write_text("new")
        assert out.read_text() == "old"
    assert out.read_text() == "new"


def test_file_created_meanwhile_is_kept(tmp_path):
    out = tmp_path / "a.lut"

    def write():
        with atomic_path(out) as path:
            path.write_text("content")
            out.write_text("other")

    with pytest.raises(OutputError, match=r"a\.lut already exists"):
        write()
    assert out.read_text() == "other"
    assert list(tmp_path.iterdir()) == [out]


def test_hard_links_are_not_needed(tmp_path, monkeypatch):
    def refuse(*paths):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    with atomic_path(tmp_path / "a.lut") as path:
        path.write_text("content")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.lut"]


def test_block_without_a_file_is_rejected(tmp_path):
    with pytest.raises(OutputError, match=r"cannot write .*a\.lut: No such file"), atomic_path(tmp_path / "a.lut"):
        pass


def test_folder_that_cannot_be_made_is_rejected(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot make the folder"), atomic_path(tmp_path / "file" / "a.lut"):
        pass


def test_only_stale_temporary_files_are_removed(tmp_path):
    """Process ids recur, e.g. in containers: an unknown file with this process's id is stale."""
    stale = [".a.lut.999999999", ".a.lut.999999999-3", ".a.lut.999999999-journal", f".a.lut.{os.getpid()}"]
    stale += [f".a.lut.{files._HOST}-999999999-3", f".a.lut.{files._HOST}-999999999-3-journal"]
    kept = [f".a.lut.{os.getppid()}-0", ".a.lut.txt", ".a.lut.999999999.999999999-0", ".a.lut.hother-999999999-3"]
    kept += [f".a.lut.{files._HOST}-{os.getppid()}-0"]
    for name in (*stale, *kept):
        (tmp_path / name).touch()
    (tmp_path / ".a.lut.hother-7-0").touch()
    os.utime(tmp_path / ".a.lut.hother-7-0", (0, time.time() - files.STALE_S - 60))
    with atomic_path(tmp_path / "a.lut", replace=True) as outer, atomic_path(tmp_path / "a.lut", replace=True) as inner:
        outer.touch()
        inner.touch()
    assert {entry.name for entry in tmp_path.iterdir()} == {*kept, "a.lut"}
