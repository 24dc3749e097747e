"""Files of the user's cache folder: written whole, verified by a digest, discarded if damaged.

A file has three parts: a line `lgc-cache 1 DIGEST`, a line of JSON (the header), and the content. The digest is the
SHA-256 of the header line and the content.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import FileFormatError
from ...files import write_atomic

if TYPE_CHECKING:
    from pydantic import JsonValue

CACHE_MAGIC = b"lgc-cache 1 "
MAX_CACHE_BYTES = 4 * 2**30
"""Size limit of each cache folder; above it the least recently used files are removed."""


def write_cache_file(path: Path, header: Mapping[str, JsonValue], content: bytes) -> None:
    """Write a file, then remove old files of its folder above the size limit.

    Args:
        path: path in a cache folder, see `get_cache_folder`.
        header: description of the content, serialisable as JSON.
        content: content of the file.

    Raises:
        OutputError: the file cannot be written.
    """
    body = json.dumps({**header}, sort_keys=True).encode() + b"\n" + content
    write_atomic(path, CACHE_MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    _evict_old_files(path.parent, MAX_CACHE_BYTES)


def read_cache_file(path: Path) -> tuple[dict[str, JsonValue], bytes]:
    """Return the header and the content of a file, and mark the file as used.

    Raises:
        FileFormatError: the file is missing, foreign, truncated or damaged; the message says which.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileFormatError(f"cannot read {path}: {error.strerror or error}") from error
    first, _, body = data.partition(b"\n")
    if not first.startswith(CACHE_MAGIC):
        raise FileFormatError(f"{path} is not a cache file of lgc")
    if hashlib.sha256(body).hexdigest().encode() != first.removeprefix(CACHE_MAGIC):
        raise FileFormatError(f"{path} is damaged")
    line, _, content = body.partition(b"\n")
    header = json.loads(line)
    with suppress(OSError):  # the folder may be read-only
        os.utime(path)
    return header, content


def _evict_old_files(folder: Path, max_bytes: int) -> None:
    """Remove the least recently used files until the folder holds at most `max_bytes`; keep the newest file."""
    files = []
    for path in folder.iterdir():
        with suppress(OSError):  # another process may have removed the file
            status = path.stat()
            files.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files)[:-1]:
        if total <= max_bytes:
            break
        with suppress(OSError):
            path.unlink()
            total -= size
