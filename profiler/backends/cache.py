"""Files of the user's cache: whole, checked by their digest, and thrown away rather than trusted.

A file is three parts: a line `lgc-cache 1 DIGEST`, a line of JSON that says what it is of and for, and the content.
The digest is the SHA-256 of the two parts behind the first line.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...errors import FileFormatError
from ...files import write_atomic

CACHE_MAGIC = b"lgc-cache 1 "
MAX_CACHE_BYTES = 4 * 2**30
"""What a folder of the cache holds at most; beyond it goes what was not used for the longest time."""


def get_cache_folder(kind: str) -> Path:
    """The folder for files of a kind, say `engines`: in `$LGC_CACHE`, else in the user's cache folder under `lgc`.

    The user's is `$XDG_CACHE_HOME`, or `~/.cache` where that is not set. The folder need not be there.
    """
    own = os.environ.get("LGC_CACHE")
    general = os.environ.get("XDG_CACHE_HOME")
    root = Path(own) if own else (Path(general) if general else Path.home() / ".cache") / "lgc"
    return root / kind


def write_cache_file(path: Path, header: dict[str, Any], content: bytes) -> None:
    """Write a file, then make room in its folder.

    Args:
        path: in a `get_cache_folder`.
        header: what it is of and for, as JSON.
        content: the rest.

    Raises:
        OutputError: it cannot be written.
    """
    rest = json.dumps(header, sort_keys=True).encode() + b"\n" + content
    write_atomic(path, CACHE_MAGIC + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest)
    _evict_old_files(path.parent, MAX_CACHE_BYTES)


def read_cache_file(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and content of a file, marked as used.

    Raises:
        FileFormatError: it is missing, foreign, truncated or damaged; the message says which.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror or error}") from error
    first, _, rest = data.partition(b"\n")
    if not first.startswith(CACHE_MAGIC):
        raise FileFormatError(f"{path} is no file of this cache")
    if hashlib.sha256(rest).hexdigest().encode() != first.removeprefix(CACHE_MAGIC):
        raise FileFormatError(f"{path} is damaged")
    line, _, content = rest.partition(b"\n")
    header = json.loads(line)
    with suppress(OSError):  # a cache that others own may be read
        os.utime(path)
    return header, content


def _evict_old_files(folder: Path, most_bytes: int) -> None:
    """Remove the files used longest ago until the folder holds no more than `most_bytes`."""
    found = []
    for path in folder.iterdir():
        with suppress(OSError):  # another process may have removed it
            status = path.stat()
            found.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found)[:-1]:
        if total <= most_bytes:
            break
        with suppress(OSError):
            path.unlink()
            total -= size
