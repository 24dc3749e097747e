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
    ],
    ids=str,
)
def test_a_file_is_named_for_what_it_seems_to_be(tmp_path, content, noun):
    path = tmp_path / "file"
    path.write_bytes(content)
    assert describe(path) == noun


def test_a_folder_and_nothing_are_named(tmp_path):
    assert describe(tmp_path) == "a folder"
    assert describe(tmp_path / "none") == "nothing: there is no such file"


def test_text_is_read_and_what_is_none_is_refused(tmp_path, foreign_files):
    (tmp_path / "good").write_text("größer", "utf-8")
    assert read_text(tmp_path / "good", "poem") == "größer"
    for noun, path in foreign_files.items():
        with pytest.raises(FileFormatError, match=f"{path.name} is no poem but .*{noun}"):
            read_text(path, "poem")


def test_a_file_is_written_whole_with_its_folders(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_atomic(path, "one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [found.name for found in path.parent.iterdir()] == ["b.txt"]


def test_a_write_that_fails_keeps_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_atomic(path, "old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match=r"cannot write .*a\.txt: No space left on device"):
        write_atomic(path, "new")
    assert [found.name for found in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_a_folder_is_made_or_refused(tmp_path):
    assert ensure_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot make the folder .*file"):
        ensure_folder(tmp_path / "file" / "b")
