"""Timing cache of full TensorRT's builds, shared by the builds of this process and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ....cache_folder import get_cache_folder
from ....errors import FileFormatError, OutputError
from ..cache import read_cache_file, write_cache_file
from .loader import FULL, Library

TIMING_FOLDER = "timings"

_timings: dict[str, bytes] = {}
"""Library and device -> TensorRT's timings there: the graphs of a table have many layers in common."""


@contextmanager
def share_timings(library: Library, device: str | None, config: Any, remarks: list[str]) -> Iterator[None]:
    """Give a build inside the context the timings of earlier builds on the device, and keep the timings it adds.

    Full TensorRT only. TensorRT-RTX picks its kernels when an engine is loaded, and these calls do nothing.

    Args:
        library: library that builds.
        device: name of the GPU.
        config: configuration of the build.
        remarks: list that gets a remark on each problem with the file on disk, which does not stop the build.
    """
    if library.flavour != FULL:
        yield
        return
    key = f"{library}, {device}"
    if key not in _timings:
        _timings[key] = _read_timings(key, remarks)
    earlier = _timings[key]
    cache = config.create_timing_cache(earlier)
    # False: do not ignore a mismatch, i.e. reject another device's timings
    if cache is None or not config.set_timing_cache(cache, False):
        remarks.append(f"{library} rejects the cached timings of earlier builds: measured again")
        earlier, cache = b"", config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    yield
    _timings[key] = bytes(cache.serialize())
    if _timings[key] != earlier:
        try:
            write_cache_file(_get_path(key), {"place": key}, _timings[key])
        except OutputError as error:
            remarks.append(f"the timings are not cached: {error}")


def _read_timings(key: str, remarks: list[str]) -> bytes:
    """Return the timings on disk; empty if the file is missing or invalid."""
    path = _get_path(key)
    if not path.exists():
        return b""
    try:
        header, timings = read_cache_file(path)
    except FileFormatError as error:
        remarks.append(f"{error}: timings are measured again")
        return b""
    if header.get("place") != key:
        remarks.append(f"{path} holds timings for {header.get('place')}, not for {key}: measured again")
        return b""
    return timings


def _get_path(key: str) -> Path:
    return get_cache_folder(TIMING_FOLDER) / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.timings"
