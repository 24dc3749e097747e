"""Files in the making: written beside their place, and put there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from ..errors import OutputError
from ..files import describe, ensure_folder


@contextmanager
def draft(out: Path, *, replace: bool = False) -> Iterator[Path]:
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
