"""Cache files: the decoded images and labels of a split in one file, written once and mapped into memory.

A file has the pixels of all images and labels one after another, then an index in JSON, then the length of the index,
its checksum, and `MAGIC`. A file that was not written to its end has no such end and is not opened. The index has a
checksum of each image with its label, which is compared when a process first reads them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL

from ....control_groups import count_usable_cores
from ....errors import DataError, FileFormatError
from ....files import describe
from ....models.images import RGBImage, read_size
from ..codings.coding import Coding
from ..labels import IGNORE, LabelMap
from ..pairs import Pair
from .store import FileStore, count_values

MAGIC = b"lgcpixel"
VERSION = 3
"""Version of the format, and of the code that decodes files; part of every key."""
_TAIL = 20
"""Length of the end: the length of the index, 8 bytes, its CRC-32, 4 bytes, and `MAGIC`."""

OnStep = Callable[[int, int], None]
"""Callback for the number of decoded images and their total."""


def make_key(pairs: Sequence[Pair]) -> str:
    """Return a digest of a split: paths, sizes and times of its files, the meaning of labels, and the decoders.

    Raises:
        DataError: A file is missing.
    """
    digest = hashlib.sha256(f"{VERSION} {PIL.__version__}\n".encode())
    codings = dict[Coding, str]()
    for pair in pairs:
        coding = codings.setdefault(pair.coding, _describe_coding(pair.coding) if pair.coding not in codings else "")
        for path in (pair.image, pair.label):
            digest.update(f"{_describe_file(path)}\n".encode())
        digest.update(coding.encode())
    return digest.hexdigest()[:24]


def _describe_file(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    return f"{_name_file(path)} {status.st_size} {status.st_mtime_ns}"


def _name_file(path: Path) -> str:
    """Return a path that is the same from every working folder."""
    return os.path.abspath(path)  # noqa: PTH100  # `Path.resolve` asks the system about each folder, for each view


def _name_files(pair: Pair) -> tuple[str, str | None]:
    """Return the paths of an image and its label."""
    return _name_file(pair.image), None if pair.label is None else _name_file(pair.label)


def _describe_coding(coding: Coding) -> str:
    """Return everything that the class of a label's value depends on."""
    evidence = coding.evidence
    parts = (
        *(sorted(values.items()) for values in (coding.values, coding.colours, evidence.colours)),
        *(coding.kind, coding.has_ranges, evidence.has_equal_channels),
        *(sorted(map(repr, values)) for values in (evidence.kinds, evidence.values, evidence.steps, evidence.palettes)),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@dataclass(frozen=True)
class _Entry:
    """Place of an image and its label in the file.

    Attributes:
        start: Offset of the image; its label follows.
        height: Height in pixels.
        width: Width in pixels.
        checksum: CRC-32 of both.
        counts: Class -> number of its pixels, 255 for ignored ones.
    """

    start: int
    height: int
    width: int
    checksum: int
    counts: Mapping[str, int]


def measure_pixels(pairs: Sequence[Pair]) -> list[tuple[int, int]]:
    """Return height and width of all images, from the headers of the files.

    Raises:
        DataError: A file is missing, or not an image.
    """
    with ThreadPoolExecutor() as pool:
        return list(pool.map(read_size, (pair.image for pair in pairs)))


def count_bytes(sizes: Sequence[tuple[int, int]]) -> int:
    """Return the number of bytes of images of these sizes with their labels, decoded."""
    return sum(4 * height * width for height, width in sizes)


def write_pixels(file: int, pairs: Sequence[Pair], sizes: Sequence[tuple[int, int]], key: str, on_step: OnStep) -> None:
    """Decode a split into a new file, with as many threads as cores.

    Args:
        file: Descriptor of the empty file.
        pairs: Images and labels.
        sizes: Their heights and widths.
        key: Key of the split.
        on_step: Callback for progress.

    Raises:
        DataError: A file is damaged, or has changed since its size was read.
        OSError: The file cannot be written.
    """
    starts = np.cumsum([0, *(4 * height * width for height, width in sizes)]).tolist()

    def fill(index: int) -> _Entry:
        pair = pairs[index]
        pixels, classes = FileStore().read(pair)
        if classes.shape != sizes[index]:
            raise DataError(f"{pair.image} has changed while it was read: run the command again")
        content = pixels.tobytes() + classes.tobytes()
        _write_at(file, starts[index], content)
        counts = count_values(classes)
        present = {str(value): int(counts[value]) for value in np.flatnonzero(counts)}
        return _Entry(starts[index], *sizes[index], zlib.crc32(content), present)

    entries = []
    pool = ThreadPoolExecutor(count_usable_cores())
    try:
        for entry in pool.map(fill, range(len(pairs))):
            entries.append(vars(entry))
            on_step(len(entries), len(pairs))
    finally:
        pool.shutdown(cancel_futures=True)
    if make_key(pairs) != key:
        raise DataError(f"files of {pairs[0].image.parent} have changed while they were read: run the command again")
    index = json.dumps({"key": key, "files": [*map(_name_files, pairs)], "entries": entries}).encode()
    end = len(index).to_bytes(8, "little") + zlib.crc32(index).to_bytes(4, "little") + MAGIC
    _write_at(file, starts[-1], index + end)


def _write_at(file: int, start: int, content: bytes) -> None:
    """Write all of `content` at an offset: the system may write less than it is given."""
    rest = memoryview(content)
    while rest:
        done = os.pwrite(file, rest, start)
        rest, start = rest[done:], start + done


class PixelCache:
    """Images and labels of a split in a cache file, mapped into memory; processes share the memory.

    Args:
        path: The file.
        key: Expected key of the split.
        file: Its descriptor, to be closed with the cache; None opens the path.

    Raises:
        FileFormatError: The file is missing, damaged, not complete, or of another split.
    """

    def __init__(self, path: Path, key: str, file: int | None = None) -> None:
        self.path, self.key = path, key
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if file is None else file  # a pipe does not block
            with suppress(OSError):  # some file systems have no locks
                fcntl.flock(self._file, fcntl.LOCK_SH)  # a file in use is not evicted
            index = self._read_index()
            self._pixels = np.frombuffer(mmap.mmap(self._file, 0, access=mmap.ACCESS_READ), np.uint8)
        except OSError as error:
            raise FileFormatError(f"cannot read {path}: {error.strerror or error}") from error
        files = (tuple(names) for names in index["files"])
        self._entries = dict(zip(files, (_Entry(**entry) for entry in index["entries"]), strict=True))
        self._intact = set[int]()

    def _read_index(self) -> dict[str, Any]:
        """Return the index at the end of the file, checked."""
        size = os.fstat(self._file).st_size
        tail = os.pread(self._file, _TAIL, max(size - _TAIL, 0))
        length = int.from_bytes(tail[:8], "little")
        if tail[12:] != MAGIC or length > size - _TAIL:
            raise FileFormatError(f"{self.path} is not a complete cache of images ({describe(self.path)})")
        content = os.pread(self._file, length, size - _TAIL - length)
        if zlib.crc32(content) != int.from_bytes(tail[8:12], "little"):
            raise FileFormatError(f"{self.path} is damaged")
        index: dict[str, Any] = json.loads(content)
        if index["key"] != self.key:
            raise FileFormatError(f"{self.path} is the cache of other images")
        return index

    def __reduce__(self) -> tuple[type[PixelCache], tuple[Path, str]]:
        """Return how another process opens the same cache: through this process, since the file may lose its name."""
        return PixelCache, (self.name_file(), self.key)

    def name_file(self) -> Path:
        """Return a path of the open file for other processes of the user; it lasts as long as this cache."""
        return Path(f"/proc/{os.getpid()}/fd/{self._file}")

    def __del__(self) -> None:
        """Close the file, which also frees it for eviction."""
        with suppress(AttributeError, OSError):
            os.close(self._file)

    def _find(self, pair: Pair) -> _Entry:
        return self._entries[_name_files(pair)]

    def read(self, pair: Pair) -> tuple[RGBImage, LabelMap]:
        """Return an image and its label, read-only parts of the file; see `PixelStore`.

        Raises:
            DataError: The file is damaged; checked at the first reading of an image.
        """
        entry = self._find(pair)
        area = entry.height * entry.width
        content = self._pixels[entry.start : entry.start + 4 * area]
        is_whole = os.fstat(self._file).st_size >= entry.start + 4 * area  # else reading would be a bus error
        if not is_whole or (entry.start not in self._intact and zlib.crc32(content.data) != entry.checksum):
            raise DataError(
                f"the cache {self.name_file().readlink()} is damaged at {pair.image}: delete it and run the command "
                "again, or use --cache off"
            )
        self._intact.add(entry.start)
        pixels, classes = np.split(content, [3 * area])
        return pixels.reshape(entry.height, entry.width, 3), classes.reshape(entry.height, entry.width)

    def count(self, pair: Pair) -> npt.NDArray[np.int64]:
        """Return the number of pixels of each class of a label, see `PixelStore`."""
        counts = np.zeros(IGNORE + 1, np.int64)
        for value, count in self._find(pair).counts.items():
            counts[int(value)] = count
        return counts

    def estimate_pixels(self, pairs: Sequence[Pair]) -> int:
        """Return the number of pixels of the largest of several images, see `PixelStore`."""
        return max(entry.height * entry.width for entry in map(self._find, pairs))
