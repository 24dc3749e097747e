"""Sharing of caches between processes: a lock while they are made, and pointers to those in memory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ....cache_folder import find_private_folder
from ....errors import FileFormatError, OutputError
from ....files import ensure_folder
from .files import PixelCache

if TYPE_CHECKING:
    from ....models.nets.definition import Log


def choose_shared_folder(folder: Path) -> Path:
    """Return the folder for locks and pointers: the cache folder, or a private one if that cannot be written."""
    existing = next((path for path in (folder, *folder.parents) if os.access(path, os.F_OK)), folder)
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return folder
    private = find_private_folder()
    return folder if private is None else private / folder.name


@contextmanager
def lock(folder: Path, log: Log) -> Iterator[bool]:
    """Let one process at a time make caches; yield False where no file can be locked."""
    try:
        ensure_folder(folder)
        path = folder / "making.lock"  # perhaps another user's, which O_CREAT may refuse to open
        file = os.open(path, os.O_RDONLY | (0 if path.exists() else os.O_CREAT), 0o644)
    except (OutputError, OSError):
        yield False
        return
    try:
        yield _lock_file(file, log)
    finally:
        os.close(file)


def _lock_file(file: int, log: Log) -> bool:
    with suppress(OSError):  # some file systems have no locks
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log("waiting for the cache that another process makes")
            fcntl.flock(file, fcntl.LOCK_EX)
        return True
    return False


def point_to(folder: Path, store: PixelCache) -> None:
    """Let other processes find a cache in memory: leave an empty file whose name has its key, process and descriptor.

    Each process that uses the cache does so, since the others may end before.
    """
    _, _, process, _, file = store.name_file().parts
    with suppress(OSError):  # others cannot share it then
        (folder / f"{store.key}-{process}-{file}{_end_pointer()}").touch()


def open_shared(folder: Path, key: str) -> PixelCache | None:
    """Return a cache in the memory of a running process; None without one. Remove the pointers of ended processes."""
    for pointer in folder.glob(f"*{_end_pointer()}"):
        with suppress(OSError, ValueError, FileFormatError):
            target, process, file = pointer.name.removesuffix(_end_pointer()).split("-")
            path = Path(f"/proc/{process}/fd/{file}")
            if _is_closed(path):
                pointer.unlink(missing_ok=True)
            elif target == key:
                store = PixelCache(path, key)
                point_to(folder, store)
                return store
    return None


def _is_closed(path: Path) -> bool:
    """Return True if a descriptor of a process is closed; False for those of other users."""
    try:
        path.lstat()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return False


def _end_pointer() -> str:
    """Return the end of the names of pointers on this machine, as others may share the folder."""
    return f"@{os.uname().nodename}.memory"
