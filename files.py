"""Files at the project's borders: written whole or not at all, and named for what they seem to be."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
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


@contextmanager
def atomic_path(out: Path, *, replace: bool = False) -> Iterator[Path]:
    """A path beside `out` to write to; the file there becomes `out` when the block ends well, else it is removed.

    Args:
        out: where the file is to be.
        replace: whether a file that is there already makes way.

    Raises:
        OutputError: `out` exists and is not to be replaced, or its folder cannot be written.
    """
    if out.exists() and not replace:
        raise OutputError(f"{out} exists already ({describe(out)}): name another file, or move it away")
    ensure_folder(out.parent)
    _remove_stale(out)
    path = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        yield path
        try:
            path.replace(out)
        except OSError as error:
            raise OutputError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        _remove(path)


def _remove_stale(out: Path) -> None:
    """Remove what processes that were killed left of their drafts, and what an earlier one of this process left."""
    for path in out.parent.glob(f".{escape(out.name)}.*"):
        pid = path.suffix.removeprefix(".")
        if pid.isdecimal() and not is_running(int(pid)):
            _remove(path)


def is_running(pid: int) -> bool:
    """Whether another process of that number is running."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def _remove(path: Path) -> None:
    for remains in (path, path.with_name(f"{path.name}-journal")):
        with suppress(OSError):
            remains.unlink(missing_ok=True)
