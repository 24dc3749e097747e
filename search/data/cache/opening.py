"""Opening a cache of decoded images: an existing one, or a new one in memory or on the disk, by what fits."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ....cache_folder import explain_cache_folder, get_cache_folder
from ....control_groups import count_local_processes
from ....errors import FileFormatError, OutputError, UsageError
from ....files import atomic_path, ensure_folder, remove_stale
from ..datasets import SegmentationDataset
from ..pairs import Pair
from . import CacheMode
from .files import OnStep, PixelCache, count_bytes, make_key, measure_pixels, write_pixels
from .limits import read_free_memory
from .sharing import choose_shared_folder, lock, open_shared, point_to

if TYPE_CHECKING:
    from ....models.nets.definition import Log

MIN_EPOCHS = 2
"""Number of times that an image must be read for a cache to be made by default."""
MAX_SHARE = 0.5
"""Largest share of the free memory, or of the free space of the disk, that a cache takes by default."""
MAX_RAM_SHARE = 0.9
"""Largest share of the free memory that a cache takes on request: the training needs some, too."""
UNUSED_S = 30 * 86_400
"""Age in seconds after which an unused cache on the disk is removed when another is made."""
_SUFFIX = ".pixels"
"""Suffix of caches on the disk."""


def cache_datasets(
    datasets: Sequence[SegmentationDataset],
    mode: CacheMode | None,
    *,
    views: int,
    log: Log = print,
    on_step: OnStep = lambda step, steps: None,
) -> list[SegmentationDataset]:
    """Return datasets whose files are decoded once: from an existing cache, or after making one.

    Processes that ask for the same files at the same time share one cache. A cache in memory lives as long as a process
    that uses it. A file that changes afterwards is not noticed before the next opening, which makes a new cache.

    Args:
        datasets: Datasets; the first is the one that is trained on.
        mode: `ram`, `disk` or `off`; None for the memory where the pixels fit into half of what is free, else the disk
            where they fit into half of its free space, else none; and none where an image is hardly read twice.
        views: Number of images of the first dataset that will be read.
        log: Receives the place and the size of a new cache before it is made.
        on_step: Callback for the number of decoded images and their total.

    Raises:
        UsageError: The memory is too small for `ram`.
        OutputError: The folder for `disk` is full or cannot be written.
        DataError: A file is damaged.
    """
    if mode == "off":
        return list(datasets)
    places = _find_folders()
    keys = [make_key(dataset.pairs) for dataset in datasets]
    pairs = {key: dataset.pairs for key, dataset in zip(keys, datasets, strict=True)}
    stores = _open_stores(places, pairs, mode)
    if len(stores) < len(pairs) and (mode is not None or views >= MIN_EPOCHS * len(datasets[0])):
        if mode == "disk":
            _require_folder(places.disk)
        with lock(places.shared, log) as is_locked:
            stores = _open_stores(places, pairs, mode)  # another process may have made them meanwhile
            missing = {key: pairs[key] for key in pairs if key not in stores}
            makers = 1 if is_locked else count_local_processes()
            stores |= _make_stores(places, missing, mode, read_free_memory() // makers, log, on_step)
    return [
        dataset.use_store(stores[key]) if key in stores else dataset
        for key, dataset in zip(keys, datasets, strict=True)
    ]


@dataclass(frozen=True)
class _Places:
    """Folders.

    Attributes:
        disk: Folder of caches on the disk.
        shared: Folder of what processes of this machine share: locks, and pointers to caches in memory.
    """

    disk: Path
    shared: Path


def _find_folders() -> _Places:
    folder = get_cache_folder("pixels")
    return _Places(folder, choose_shared_folder(folder))


def _open_stores(places: _Places, pairs: Iterable[str], mode: CacheMode | None) -> dict[str, PixelCache]:
    """Return the caches that exist, by key."""
    stores = {key: _open_existing(places, key, mode) for key in pairs}
    return {key: store for key, store in stores.items() if store is not None}


def _make_stores(
    places: _Places,
    missing: Mapping[str, Sequence[Pair]],
    mode: CacheMode | None,
    memory: int,
    log: Log,
    on_step: OnStep,
) -> dict[str, PixelCache]:
    """Return new caches by key; none where they do not fit into `memory` bytes or the disk."""
    sizes = {key: measure_pixels(pairs) for key, pairs in missing.items()}
    size, images = sum(map(count_bytes, sizes.values())), sum(map(len, sizes.values()))
    place = mode or _choose_mode(places.disk, size, memory, log)
    if place == "off" or not missing:
        return {}
    _require_space(place, places.disk, size, memory)
    if place == "disk" and (remark := explain_cache_folder()) is not None:
        log(remark)
    where = "memory" if place == "ram" else str(places.disk)
    log(f"cache: decoding {images} images once, {_format_bytes(size)} in {where} (see --cache)")
    stores = dict[str, PixelCache]()
    make, folder = (_make_in_memory, places.shared) if place == "ram" else (_make_on_disk, places.disk)
    finished = 0
    for key, pairs in missing.items():
        stores[key] = make(folder, key, pairs, sizes[key], partial(_report, on_step, finished, images))
        finished += len(pairs)
    return stores


def _report(on_step: OnStep, finished: int, images: int, step: int, _: int) -> None:
    """Report a step of one of several caches."""
    on_step(finished + step, images)


def _open_existing(places: _Places, key: str, mode: CacheMode | None) -> PixelCache | None:
    """Return a cache that has been made before, in the memory of a running process or on the disk; None without one."""
    if mode != "disk" and (shared := open_shared(places.shared, key)) is not None:
        return shared
    if mode != "ram":
        path = places.disk / f"{key}{_SUFFIX}"
        with suppress(FileFormatError):
            store = PixelCache(path, key)
            with suppress(OSError):  # the folder may be read-only
                os.utime(path)
            return store
    return None


def _require_folder(folder: Path) -> None:
    """Check that the folder of caches on the disk can be written.

    Raises:
        OutputError: It cannot.
    """
    try:
        ensure_folder(folder)
    except OutputError as error:
        raise OutputError(
            f"--cache disk: {error}; set LGC_CACHE to another folder, or use --cache ram or off"
        ) from error


def _choose_mode(folder: Path, size: int, memory: int, log: Log) -> CacheMode:
    """Return the place of a new cache by what fits."""
    if size <= MAX_SHARE * memory:
        return "ram"
    try:
        ensure_folder(folder)
        disk = _evict(folder, int(size / MAX_SHARE))
        if size <= MAX_SHARE * disk:
            return "disk"
        space = f"{_format_bytes(disk)} on the disk of {folder}"
    except OutputError as error:
        space = str(error)
    log(
        f"no cache: {_format_bytes(size)} of decoded images are more than half of the free space, "
        f"{_format_bytes(memory)} in memory and {space}; --cache ram or disk "
        "uses more, LGC_CACHE may be a folder of another disk"
    )
    return "off"


def _require_space(place: CacheMode, folder: Path, size: int, memory: int) -> None:
    """Check that a cache fits, after the eviction of others.

    Raises:
        UsageError: The memory is too small.
        OutputError: The disk is too small.
    """
    if place == "ram":
        if size > MAX_RAM_SHARE * memory:
            raise UsageError(
                f"--cache ram: the decoded images need {_format_bytes(size)}, {_format_bytes(memory)} of memory are "
                f"free, of which a cache takes {MAX_RAM_SHARE:.0%} at most: use --cache disk or off"
            )
        return
    free = _evict(folder, size)
    if size > free:
        raise OutputError(
            f"--cache disk: the decoded images need {_format_bytes(size)}, {folder} has {_format_bytes(free)} free: "
            "set LGC_CACHE to a folder on another disk, or use --cache off"
        )


def _make_in_memory(
    folder: Path, key: str, pairs: Sequence[Pair], sizes: Sequence[tuple[int, int]], on_step: OnStep
) -> PixelCache:
    """Decode images into anonymous memory, which the system frees with its last user, whatever ends it."""
    file = os.memfd_create(f"lgc-{key}")
    try:
        write_pixels(file, pairs, sizes, key, on_step)
    except BaseException:
        os.close(file)
        raise
    path = Path(f"/proc/{os.getpid()}/fd/{file}")  # other processes of the user open it, too
    store = PixelCache(path, key, file)
    point_to(folder, store)
    return store


def _make_on_disk(
    folder: Path, key: str, pairs: Sequence[Pair], sizes: Sequence[tuple[int, int]], on_step: OnStep
) -> PixelCache:
    """Decode images into a file of the cache folder, which appears when it is complete."""
    path = folder / f"{key}{_SUFFIX}"
    with atomic_path(path, replace=True) as temporary:
        file = os.open(temporary, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            _allocate(file, count_bytes(sizes))
            write_pixels(file, pairs, sizes, key, on_step)
        except OSError as error:
            raise OutputError(
                f"cannot write the cache {path}: {error.strerror or error}: set LGC_CACHE to another folder, or use "
                "--cache off"
            ) from error
        finally:
            os.close(file)
    return PixelCache(path, key)


def _allocate(file: int, size: int) -> None:
    """Reserve the space of a file, so that a full disk is known before images are decoded."""
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # else the file system cannot reserve space
            raise


def _evict(folder: Path, size: int) -> int:
    """Remove caches unused for 30 days, then the least recently used ones until `size` bytes are free.

    Caches in use are kept, and all younger ones if even the removal of the others would not do. Parts that killed
    processes have left go first. Return the free bytes.
    """
    for part in folder.glob(f".*{_SUFFIX}.*"):
        remove_stale(folder / f"{part.name[1:].partition(_SUFFIX)[0]}{_SUFFIX}")
    free = shutil.disk_usage(folder).free
    with ExitStack() as locks:
        caches = []
        for path in folder.glob(f"*{_SUFFIX}"):
            with suppress(OSError):  # another process may use the file, or have removed it
                file = locks.enter_context(path.open("rb"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                status = path.stat()
                caches.append((status.st_mtime, status.st_size, path))
        is_possible = free + sum(length for _, length, _ in caches) >= size
        for used, length, path in sorted(caches):
            is_needed = is_possible and free < size
            if not is_needed and time.time() - used < UNUSED_S:
                break
            with suppress(OSError):
                path.unlink()
                free += length
    return free


def _format_bytes(size: float) -> str:
    """Format a number of bytes, e.g. 29.2 GB, 253 MB or 45 kB."""
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
