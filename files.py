"""File input and output: the atomic writer, and error messages that name the content of a wrong file."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import FileFormatError, OutputError

HEAD_BYTES = 512
"""Number of bytes that `describe` reads."""
BINARY = "a binary file of unknown kind"
LFS_HEADER = b"version https://git-lfs.github.com/spec/"
"""First bytes of the file that Git leaves in place of one in Git LFS (large file storage)."""
LFS_POINTER = "a Git LFS pointer: run `git lfs pull`"
SQLITE_HEADER = b"SQLite format 3\0"
"""First bytes of an SQLite database, such as a latency table."""
_MAGIC = (
    (LFS_HEADER, LFS_POINTER),
    (SQLITE_HEADER, "an SQLite database"),
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
_JOURNAL = "-journal"
"""Suffix of the file in which SQLite keeps what a rollback needs."""
_HOST = "h" + re.sub(r"\W", "", platform.node()).lower()[:32]
"""Name of this machine in temporary files: the processes of other machines that share a folder are unknown here."""
STALE_S = 86_400
"""Age in seconds from which a temporary file of another machine, or of a former container, is stale."""
_TEMPORARY = re.compile(rf"(?:(h\w*)-)?(\d+)(-\d+)?({_JOURNAL})?")
"""Suffix of a temporary file: host, process id, counter, perhaps `-journal`. Earlier versions wrote no host."""
_counter = itertools.count()
_active: set[str] = set()
"""Names of the temporary files that this process is writing."""


def describe(path: Path) -> str:
    """Return the apparent content of `path` as a noun phrase for a message: `an empty file`, `a PNG image`, ..."""
    if not path.exists():
        return "missing"
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
        text = head[: error.start].decode("utf-8")  # the head ends inside a character
    if "\0" in text:
        return BINARY
    first = text.strip().splitlines()[0][:40] if text.strip() else ""
    return f"text that begins with {first!r}"


def is_lfs_pointer(path: Path) -> bool:
    """Return True if `path` is a Git LFS pointer, for readers whose libraries report such a file as damaged."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(len(LFS_HEADER)) == LFS_HEADER
    return False


def hash_file(path: Path) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def format_error(path: Path, kind: str) -> FileFormatError:
    """Return the error for a file that is missing or is not a `kind`, e.g. `search space`."""
    if not path.exists():
        return FileFormatError(f"no such file: {path}")
    return FileFormatError(f"cannot read {kind} {path}: it is {describe(path)}")


def read_text(path: Path, kind: str) -> str:
    """Read the text file `path`.

    Args:
        path: File to read.
        kind: Expected content for the message, e.g. `search space`.

    Raises:
        FileFormatError: The file is missing, empty, not text, or a Git LFS pointer.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise format_error(path, kind) from error
    if not text or "\0" in text or text.startswith(LFS_HEADER.decode()):
        raise format_error(path, kind)
    return text


def replace_non_finite(value: Any) -> Any:
    """Return the value with None for every infinity and NaN in it, as JSON has neither."""
    if isinstance(value, dict):
        return {key: replace_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [replace_non_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write `content` to `path` through `atomic_path`, with mode 0644. An existing file is replaced.

    Raises:
        OutputError: The file cannot be written.
    """
    try:
        with atomic_path(path, replace=True) as temporary:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            temporary.chmod(0o644)
    except OSError as error:
        raise _write_error(path, error) from error


def ensure_folder(path: Path) -> Path:
    """Create the folder `path` if needed, check that it is writable, and return it.

    Raises:
        OutputError: The folder cannot be created or is read-only.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(f"cannot make the folder {path}: it is a file") from error
    except OSError as error:
        raise OutputError(f"cannot make the folder {path}: {error.strerror or error}") from error
    if not os.access(path, os.W_OK):
        is_read_only = os.statvfs(path).f_flag & os.ST_RDONLY
        raise OutputError(f"cannot write in {path}: {'read-only file system' if is_read_only else 'permission denied'}")
    return path


@contextmanager
def atomic_path(out: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the folder of `out`; rename it to `out` after the block, or remove it after an error.

    Readers see the old file or the complete new one, also after a crash: the content is synced before the rename.
    Temporary files of killed processes are removed first.

    Args:
        out: Final path.
        replace: Replace an existing file. Otherwise a file that appears at `out` during the block is kept too.

    Raises:
        OutputError: `out` exists and `replace` is false, or its folder cannot be written.
    """
    if out.exists() and not replace:
        raise _exists_error(out)
    ensure_folder(out.parent)
    remove_stale(out)
    path = out.with_name(f".{out.name}.{_HOST}-{os.getpid()}-{next(_counter)}")
    _active.add(path.name)
    try:
        yield path
        _publish(path, out, replace=replace)
    finally:
        for leftover in (path, path.with_name(path.name + _JOURNAL)):
            with suppress(OSError):
                leftover.unlink(missing_ok=True)
        _active.discard(path.name)


def _publish(path: Path, out: Path, *, replace: bool) -> None:
    try:
        with path.open("rb") as file:
            os.fsync(file.fileno())
        if not replace and _link(path, out):
            return
        path.replace(out)
    except FileExistsError as error:
        raise _exists_error(out) from error
    except OSError as error:
        raise _write_error(out, error) from error


def _link(path: Path, out: Path) -> bool:
    """Give `path` the second name `out`. Return False if the file system has no hard links.

    Raises:
        FileExistsError: `out` exists. A rename would overwrite it silently.
    """
    try:
        os.link(path, out)
    except FileExistsError:
        raise
    except OSError:
        return False
    return True


def _exists_error(out: Path) -> OutputError:
    return OutputError(f"{out} already exists ({describe(out)}): choose another path, or move it away")


def _write_error(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write {path}: {error.strerror or error}")


def remove_stale(out: Path) -> None:
    """Remove the temporary files of `out` whose process no longer runs, and old ones of other machines."""
    prefix = f".{out.name}."
    with suppress(OSError):
        for name in os.listdir(out.parent):  # noqa: PTH208  (a glob is slow in folders of thousands of files)
            match = _TEMPORARY.fullmatch(name, len(prefix)) if name.startswith(prefix) else None
            if match is None or name.removesuffix(_JOURNAL) in _active:
                continue
            path = out.with_name(name)
            is_ours = match[1] in (None, _HOST)
            if not is_running(int(match[2])) if is_ours else time.time() - path.stat().st_mtime > STALE_S:
                path.unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    """Return True if another process with this id is running. This process itself counts as not running."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return pid != os.getpid()
