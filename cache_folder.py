"""The user's cache folder."""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path


def get_cache_folder(kind: str) -> Path:
    """Return the folder of a kind of files, e.g. `engines`; it need not exist.

    The folder is in `$LGC_CACHE` if that is set, else in `lgc` under `$XDG_CACHE_HOME`, which defaults to `~/.cache`.
    Users without a home folder get a private folder for temporary files instead, see `explain_cache_folder`.
    """
    own = os.environ.get("LGC_CACHE")
    general = os.environ.get("XDG_CACHE_HOME")
    home = _find_home()
    if own:
        return Path(own) / kind
    if general:
        return Path(general) / "lgc" / kind
    return (_get_temporary_folder() if home is None else home / ".cache" / "lgc") / kind


def explain_cache_folder() -> str | None:
    """Return a remark if the cache is among the temporary files; else None."""
    if os.environ.get("LGC_CACHE") or os.environ.get("XDG_CACHE_HOME") or _find_home() is not None:
        return None
    return f"no home folder: the cache is temporary, in {_get_temporary_folder()}; set LGC_CACHE to keep it elsewhere"


def _find_home() -> Path | None:
    """Return the user's home folder; None if there is none, or it cannot be entered."""
    try:
        home = Path.home()
        home.stat()
    except FileNotFoundError:  # it can be created
        return home
    except (RuntimeError, OSError):  # neither HOME nor an entry in the password database; or not permitted
        return None
    return home if os.access(home, os.X_OK) else None


def find_private_folder() -> Path | None:
    """Return a folder for temporary files that only this user can enter, the same for all processes of the user.

    It is made if needed; None if it cannot be made, or another user has taken its name.
    """
    with suppress(OSError):
        folder = Path(tempfile.gettempdir()) / f"lgc-cache-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077:
            return folder
    return None


def _get_temporary_folder() -> Path:
    """Return a folder that only this user can enter: engines in a shared one could be another user's."""
    return find_private_folder() or _make_temporary_folder()


@cache
def _make_temporary_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="lgc-cache-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
