"""Files at the project's borders: written whole or not at all, and named for what they seem to be."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from .errors import FileFormatError, OutputError

HEAD_BYTES = 512
"""As much of a file is looked at to tell what it seems to be."""
BINARY = "a binary file of unknown kind"
_MAGIC = (
    (b"SQLite format 3\0", "an SQLite database"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"PK\x03\x04", "a zip archive, perhaps a torch checkpoint"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"%PDF", "a PDF document"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x02", "a Python pickle"),
    (b"{", "JSON text"),
    (b"[", "JSON text"),
)


def describe(path: Path) -> str:
    """What `path` seems to be, as a noun phrase for an error message: `an empty file`, `a PNG image`, ..."""
    if not path.exists():
        return "nothing: there is no such file"
    if path.is_dir():
        return "a folder"
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        return "an empty file"
    for magic, noun in _MAGIC:
        if head.lstrip().startswith(magic) or head.startswith(magic):
            return noun
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(head) < HEAD_BYTES or error.start < HEAD_BYTES - 4:
            return BINARY
        text = head[: error.start].decode("utf-8")  # only the last character was cut in two
    if "\0" in text:
        return BINARY
    first = text.strip().splitlines()[0][:40] if text.strip() else ""
    return f"text that begins with {first!r}"


def read_text(path: Path, kind: str) -> str:
    """Text of the file `path`, which should be a `kind`, say `search space`.

    Raises:
        FileFormatError: it is missing, empty or no text; the message says what it seems to be.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path} is no {kind} but {describe(path)}") from error
    if not text or "\0" in text:
        raise FileFormatError(f"{path} is no {kind} but {describe(path)}")
    return text


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write `content` to `path` so that a reader, or a crash, sees the old file or the new one, never a half.

    Raises:
        OutputError: the file cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            with suppress(OSError):
                Path(temporary).unlink()
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def ensure_folder(path: Path) -> Path:
    """Make the folder `path` and show that it can be written.

    Raises:
        OutputError: it cannot.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {path}: {error.strerror or error}") from error
    if not os.access(path, os.W_OK):
        raise OutputError(f"cannot write in {path}: permission denied")
    return path
