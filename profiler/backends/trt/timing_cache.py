"""What full TensorRT has timed while it built engines: shared by the builds of this process, and kept on the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ....errors import FileFormatError, OutputError
from ..cache import get_cache_folder, read_cache_file, write_cache_file
from .loader import FULL, Library

TIMING_FOLDER = "timings"

_timings: dict[str, bytes] = {}
"""Library and device -> what TensorRT has timed there: the graphs of a table have many layers in common."""


@contextmanager
def share_timings(library: Library, device: str | None, config: Any, remarks: list[str]) -> Iterator[None]:
    """Context in which a build finds what earlier ones have timed on the device, and adds what it times.

    Full TensorRT only: in TensorRT-RTX, which picks its kernels when an engine is loaded, these calls do nothing.

    Args:
        library: that builds.
        device: the GPU's name.
        config: the build's configuration.
        remarks: what is wrong with the file on the disk is added here; the build goes on without it.
    """
    if library.flavour != FULL:
        yield
        return
    place = f"{library}, {device}"
    if place not in _timings:
        _timings[place] = _read_timings(place, remarks)
    known = _timings[place]
    cache = config.create_timing_cache(known)
    # False: timings of another device are refused
    if cache is None or not config.set_timing_cache(cache, False):
        remarks.append(f"{library} refuses the timings kept of earlier builds; they are made anew")
        known, cache = b"", config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    yield
    _timings[place] = bytes(cache.serialize())
    if _timings[place] != known:
        try:
            write_cache_file(_get_path(place), {"place": place}, _timings[place])
        except OutputError as error:
            remarks.append(f"timings are not kept for later builds: {error}")


def _read_timings(place: str, remarks: list[str]) -> bytes:
    """The timings on the disk; empty if there are none, or none to be trusted."""
    if not _get_path(place).exists():
        return b""
    try:
        header, timings = read_cache_file(_get_path(place))
    except FileFormatError as error:
        remarks.append(f"{error}; timings are made anew")
        return b""
    if header.get("place") != place:
        remarks.append(f"{_get_path(place)} holds timings of {header.get('place')}, not of {place}; they are made anew")
        return b""
    return timings


def _get_path(place: str) -> Path:
    return get_cache_folder(TIMING_FOLDER) / f"{hashlib.sha256(place.encode()).hexdigest()[:16]}.timings"
