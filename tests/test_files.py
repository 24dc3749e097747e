import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from lgc.errors import FileFormatError, OutputError
from lgc.files import describe, ensure_folder, read_text, write_atomic


@pytest.mark.parametrize(
    ("content", "noun"),
    [
        (b"", "an empty file"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"\x89PNG\r\n", "a PNG image"),
        (b"\xff\xd8\xff\xe0", "a JPEG image"),
        (b"PK\x03\x04", "a zip archive, perhaps a torch checkpoint"),
        (b"\x80\x04\x95", "a Python pickle"),
        (b'\n  {"a": 1}', "JSON text"),
        (b"\n\nspeed: fast\nmore", "text that begins with 'speed: fast'"),
        (b"x" * 100, f"text that begins with {'x' * 40!r}"),
        ("é".encode() * 400, f"text that begins with {'é' * 40!r}"),
        (b"x" + "é".encode() * 400, f"text that begins with {'x' + 'é' * 39!r}"),
        (b"\xff\xfe", "a binary file of unknown kind"),
        (b"text\xff" + b"x" * 600, "a binary file of unknown kind"),
        (b"\0" * 600, "a binary file of unknown kind"),
        (b"\n", "text that begins with ''"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "a Git LFS pointer: run `git lfs pull`"),
    ],
    ids=str,
)
def test_describe_names_the_content(tmp_path, content, noun):
    path = tmp_path / "file"
    path.write_bytes(content)
    assert describe(path) == noun


def test_describe_names_folders_and_missing_files(tmp_path):
    assert describe(tmp_path) == "a folder"
    assert describe(tmp_path / "none") == "missing"


def test_read_text_rejects_other_files(tmp_path, foreign_files):
    (tmp_path / "good").write_text("größer", "utf-8")
    assert read_text(tmp_path / "good", "poem") == "größer"
    for noun, path in foreign_files.items():
        if path.exists():
            with pytest.raises(FileFormatError, match=f"cannot read poem .*{path.name}: it is .*{noun}"):
                read_text(path, "poem")
    with pytest.raises(FileFormatError, match=r"no such file: .*missing\.txt"):
        read_text(tmp_path / "missing.txt", "poem")


def test_write_atomic_creates_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_atomic(path, "one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in path.parent.iterdir()] == ["b.txt"]


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_atomic(path, "old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match=r"cannot write .*a\.txt: No space left on device"):
        write_atomic(path, "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_concurrent_writes_leave_a_complete_file(tmp_path):
    path = tmp_path / "a.bin"
    contents = [bytes([value]) * 10_000 for value in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_atomic(path, content), contents * 20))
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("flag", "reason"), [(os.ST_RDONLY, "read-only file system"), (0, "permission denied")])
def test_folder_that_cannot_be_written_is_explained(tmp_path, monkeypatch, flag, reason):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=flag))
    with pytest.raises(OutputError, match=f"cannot write in {tmp_path}: {reason}"):
        ensure_folder(tmp_path)


def test_ensure_folder_creates_or_rejects(tmp_path):
    assert ensure_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot make the folder .*file"):
        ensure_folder(tmp_path / "file" / "b")
