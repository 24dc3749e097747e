"""Videos, read and written frame by frame, with at most one frame in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import BackendUnavailableError, DataError, OutputError
from ...files import LFS_POINTER, ensure_folder, is_lfs_pointer
from ..deployment.network import Log

if TYPE_CHECKING:
    from ...models.images import RGBImage

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv")
VIDEO_CODECS = ("libx264", "mpeg4")
"""Codecs for writing, by preference."""
BITS_PER_PIXEL = 0.25
"""Bit rate of the second codec, which has no constant-quality mode: below it, the edges of classes blur."""
MIN_SIDE = 2
"""Smallest height and width that codecs with subsampled chroma can write."""
MAX_INTERVAL_RATIO = 1.5
"""Ratio of a video's longest to its shortest interval between frames above which its frame rate is variable."""
MIN_FRAME_SHARE = 0.9
"""Share of a video's estimated frames below which it is reported as truncated."""
DEFAULT_FRAME_RATE = Fraction(25)
"""Frames per second of a video without a frame rate."""


@dataclass(frozen=True)
class Clip:
    """Video file.

    Attributes:
        path: file.
        rate: average frames per second.
        frames: estimated number of frames, at least 1.
    """

    path: Path
    rate: Fraction
    frames: int

    @classmethod
    def open(cls, path: Path) -> Clip:
        """Read the header of a video file.

        Raises:
            BackendUnavailableError: PyAV is not installed; the message has the install command.
            DataError: the file is not a video, or its frames are too small to be written as one.
        """
        with _open_stream(path) as (container, stream):
            height, width = stream.codec_context.height, stream.codec_context.width
            if min(height, width) < MIN_SIDE:
                raise DataError(
                    f"cannot use video {path}: frames of {height}x{width} pixels (height x width), at least "
                    f"{MIN_SIDE}x{MIN_SIDE} are needed"
                )
            rate = stream.average_rate or DEFAULT_FRAME_RATE
            seconds = (container.duration or 0) / 1e6
            return cls(path, rate, max(stream.frames or round(seconds * rate), 1))

    def read(self, on_remark: Log) -> Iterator[RGBImage]:
        """Yield the frames in order, upright, RGB [h, w, 3].

        Args:
            on_remark: receives remarks on missing frames and the frame rate.

        Raises:
            DataError: the file is damaged, or has no frames.
        """
        import numpy as np

        count, times = 0, []
        with _open_stream(self.path) as (container, stream):
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                count += 1
                times.append(frame.time)
                pixels = frame.to_ndarray(format="rgb24")
                yield np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
        if not count:
            raise DataError(f"cannot read video {self.path}: it has no frames")
        if _is_variable(times):
            on_remark(
                f"variable frame rate: the overlay has a constant one, {float(self.rate):.4g} frames per second, and "
                "another duration"
            )
        elif count < MIN_FRAME_SHARE * self.frames:
            on_remark(f"only {count} of {self.frames} frames: it may be truncated")


def _is_variable(times: Sequence[float | None]) -> bool:
    """Return True if the intervals between frames at `times`, in seconds, differ; None is an unknown time."""
    known = [time for time in times if time is not None]
    intervals = [later - earlier for earlier, later in itertools.pairwise(known)]
    return bool(intervals) and max(intervals) > MAX_INTERVAL_RATIO * min(intervals)


@contextmanager
def _open_stream(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a video's container and its first video stream; FFmpeg's errors name the file."""
    if is_lfs_pointer(path):
        raise DataError(f"cannot read video {path}: it is {LFS_POINTER}")
    av = _import_pyav()
    try:
        with av.open(str(path), metadata_errors="replace") as container:  # titles in other encodings than UTF-8
            if not container.streams.video:
                raise DataError(f"cannot read video {path}: it has no video stream")
            if container.streams.video[0].codec_context is None:
                raise DataError(f"cannot read video {path}: its codec is unknown")
            yield container, container.streams.video[0]
    except av.EOFError as error:
        raise DataError(f"cannot read video {path}: it is empty or truncated") from error
    except av.FFmpegError as error:
        raise DataError(f"cannot read video {path}: {error.strerror}") from error


@contextmanager
def open_video_writer(path: Path, rate: Fraction) -> Iterator[Callable[[RGBImage], None]]:
    """Open a new .mp4 file and yield a function that appends a frame.

    The file gets its name when it is complete, and does not exist after an error. A frame of odd height or width loses
    its last row or column, as players require chroma subsampled by two.

    Args:
        path: file to write.
        rate: frames per second.

    Raises:
        OutputError: the file cannot be written.
    """
    av = _import_pyav()
    ensure_folder(path.parent)
    unfinished, stream = path.with_name(f".{path.name}.part"), None
    try:
        with av.open(str(unfinished), "w", format="mp4") as container:

            def write(pixels: RGBImage) -> None:
                nonlocal stream
                height, width = (side - side % 2 for side in pixels.shape[:2])
                if stream is None:
                    stream = _add_stream(av, container, rate, height, width)
                frame = av.VideoFrame.from_ndarray(pixels[:height, :width].copy(), format="rgb24")
                container.mux(stream.encode(frame))

            yield write
            if stream is not None:
                container.mux(stream.encode())
        unfinished.replace(path)
    except (av.FFmpegError, OSError) as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _add_stream(av: Any, container: Any, rate: Fraction, height: int, width: int) -> Any:
    codec = next(name for name in VIDEO_CODECS if name in av.codecs_available)
    stream = container.add_stream(codec, rate=rate)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    context, values = stream.codec_context, av.video.reformatter
    # Without a colour space in the file, players assume a different one for large pictures.
    context.colorspace, context.color_range = int(values.Colorspace.ITU601), int(values.ColorRange.MPEG)
    if codec != VIDEO_CODECS[0]:
        stream.bit_rate = round(BITS_PER_PIXEL * height * width * rate)
    return stream


def _import_pyav() -> Any:
    try:
        import av
    except ImportError as error:
        raise BackendUnavailableError('videos need PyAV: pip install "lgc[video]"') from error
    return av
