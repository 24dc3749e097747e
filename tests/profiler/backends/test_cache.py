"""Cache files: their folder, their verification, and the size limit."""

import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lgc import cache_folder
from lgc.cache_folder import explain_cache_folder, get_cache_folder
from lgc.errors import FileFormatError, OutputError
from lgc.profiler.backends import cache
from lgc.profiler.backends.cache import read_cache_file, write_cache_file

HEADER, CONTENT = {"of": "a test", "for": [1, 2]}, b"binary\n\0\nstuff"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "kind" / "entry.file"


def test_cache_folder_follows_environment(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    for name in ("LGC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert get_cache_folder("engines") == Path("/home/someone/.cache/lgc/engines")
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch")
    assert get_cache_folder("engines") == Path("/scratch/lgc/engines")
    assert explain_cache_folder() is None
    monkeypatch.setenv("LGC_CACHE", "/elsewhere")
    assert get_cache_folder("engines") == Path("/elsewhere/engines")


@pytest.fixture
def homeless(monkeypatch, tmp_path):
    """Leave this process without a home; return the folder for temporary files."""
    for name in ("LGC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cache_folder._make_temporary_folder.cache_clear()
    return tmp_path


def test_users_without_home_get_a_private_cache(homeless):
    folder = get_cache_folder("engines")
    assert folder.parent.parent == homeless
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    assert str(folder.parent) in explain_cache_folder()
    write_cache_file(folder / "entry.file", HEADER, CONTENT)
    assert read_cache_file(get_cache_folder("engines") / "entry.file") == (HEADER, CONTENT)


def test_private_cache_is_that_of_all_processes(homeless):
    code = "from lgc.cache_folder import find_private_folder; print(find_private_folder())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TMPDIR": str(homeless)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(get_cache_folder("engines").parent)


@pytest.mark.parametrize("kind", ["file", "open folder", "link"])
def test_foreign_private_folder_is_not_used(homeless, kind):
    taken = homeless / f"lgc-cache-{os.getuid()}"
    if kind == "file":
        taken.touch(0o600)
    elif kind == "link":
        (homeless / "target").mkdir(0o700)
        taken.symlink_to(homeless / "target")
    else:
        taken.mkdir()
        taken.chmod(0o755)
    folder = get_cache_folder("engines").parent
    assert folder not in (taken, homeless / "target")
    assert folder == get_cache_folder("engines").parent
    assert folder.stat().st_mode & 0o777 == 0o700


def test_file_round_trip(path):
    write_cache_file(path, HEADER, CONTENT)
    assert read_cache_file(path) == (HEADER, CONTENT)
    assert [entry.name for entry in path.parent.iterdir()] == ["entry.file"]


def test_every_corruption_is_detected(path):
    write_cache_file(path, HEADER, CONTENT)
    whole = path.read_bytes()
    for index in range(len(whole)):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
        with pytest.raises(FileFormatError, match=r"is damaged|not a cache file of lgc"):
            read_cache_file(path)
        path.write_bytes(whole[:index])
        with pytest.raises(FileFormatError, match=r"is damaged|not a cache file of lgc"):
            read_cache_file(path)


def test_missing_and_foreign_files_are_rejected(path):
    with pytest.raises(FileFormatError, match=r"cannot read .*entry\.file: No such file"):
        read_cache_file(path)
    path.parent.mkdir()
    path.write_bytes(b"\x89PNG something foreign")
    with pytest.raises(FileFormatError, match="is not a cache file of lgc"):
        read_cache_file(path)


def test_unwritable_folder_is_an_error(tmp_path):
    (tmp_path / "kind").write_text("in the way")
    with pytest.raises(OutputError, match="cannot make the folder"):
        write_cache_file(tmp_path / "kind" / "entry.file", HEADER, CONTENT)


def test_least_recently_used_file_is_evicted(path, monkeypatch):
    monkeypatch.setattr(cache, "MAX_CACHE_BYTES", 3000)
    for age, name in enumerate(("new", "old", "oldest")):
        write_cache_file(path.with_name(name), HEADER, bytes(800))
        os.utime(path.with_name(name), (1000 - age, 1000 - age))
    read_cache_file(path.with_name("oldest"))  # now the most recently used
    write_cache_file(path, HEADER, bytes(800))
    assert {entry.name for entry in path.parent.iterdir()} == {"new", "oldest", "entry.file"}


def test_newest_file_is_never_evicted(path, monkeypatch):
    monkeypatch.setattr(cache, "MAX_CACHE_BYTES", 10)
    write_cache_file(path, HEADER, bytes(800))
    assert read_cache_file(path)[1] == bytes(800)
