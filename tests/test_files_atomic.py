"""An atomic file appears under its name only when it is complete."""

import os

import pytest

from lgc.errors import OutputError
from lgc.files import atomic_path


def test_it_gets_its_name_at_the_end(tmp_path):
    out = tmp_path / "new" / "a.lut"
    with atomic_path(out) as path:
        path.write_text("content")
        assert not out.exists()
    assert out.read_text() == "content"
    assert list(out.parent.iterdir()) == [out]


def test_a_failure_leaves_nothing(tmp_path):
    def fail():
        with atomic_path(tmp_path / "a.lut") as path:
            path.write_text("half")
            path.with_name(f"{path.name}-journal").write_text("half")
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays_unless_it_is_to_make_way(tmp_path):
    out = tmp_path / "a.lut"
    out.write_text("old")
    with pytest.raises(OutputError, match=r"a\.lut exists already \(text that begins with 'old'\)"), atomic_path(out):
        pass
    assert out.read_text() == "old"
    with atomic_path(out, replace=True) as path:
        path.write_text("new")
        assert out.read_text() == "old"
    assert out.read_text() == "new"


def test_a_block_that_makes_no_file_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"cannot write .*a\.lut: No such file"), atomic_path(tmp_path / "a.lut"):
        pass


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot make the folder"), atomic_path(tmp_path / "file" / "a.lut"):
        pass


def test_drafts_of_killed_processes_go_and_those_of_living_ones_stay(tmp_path):
    dead, living, other = (tmp_path / name for name in (".a.lut.999999999", f".a.lut.{os.getppid()}", ".a.lut.txt"))
    for path in (dead, living, other, tmp_path / ".a.lut.999999999-journal"):
        path.touch()
    with atomic_path(tmp_path / "a.lut") as path:
        path.touch()
    assert {entry.name for entry in tmp_path.iterdir()} == {living.name, other.name, "a.lut"}
