"""Videos, read and written frame by frame, with at most one frame in memory."""

from __future__ import annotations

import itertools
import struct
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
MIN_VIDEO_SIDE = 2
"""Smallest height and width that codecs with subsampled chroma can write."""
MAX_INTERVAL_RATIO = 1.5
"""Ratio of a video's longest to its shortest interval between frames above which its frame rate is variable."""
MIN_FRAME_SHARE = 0.9
"""Share of a video's duration, or of its frames as estimated from that, below which some are reported as lost."""
DEFAULT_FRAME_RATE = Fraction(25)
"""Frames per second of a video without a frame rate."""


@dataclass(frozen=True)
class Clip:
    """Video file.

    Attributes:
        path: file.
        rate: average frames per second.
        frames: number of frames, at least 1; estimated where the header does not state it.
        seconds: duration; 0 if unknown.
        is_counted: True if the header states the number of frames.
        pixel_aspect: width of a pixel relative to its height, of the upright picture.
    """

    path: Path
    rate: Fraction
    frames: int
    seconds: float = 0.0
    is_counted: bool = False
    pixel_aspect: Fraction = Fraction(1)

    @classmethod
    def open(cls, path: Path) -> Clip:
        """Read the header of a video file.

        Raises:
            BackendUnavailableError: PyAV is not installed; the message has the install command.
            DataError: the file is not a video, or its frames are too small to be written as one.
        """
        with _open_stream(path) as (container, stream):
            height, width = stream.codec_context.height, stream.codec_context.width
            if min(height, width) < MIN_VIDEO_SIDE:
                raise DataError(
                    f"cannot use video {path}: frames of {height}x{width} pixels (height x width), at least "
                    f"{MIN_VIDEO_SIDE}x{MIN_VIDEO_SIDE} are needed"
                )
            rate = stream.average_rate or DEFAULT_FRAME_RATE
            aspect = Fraction(stream.sample_aspect_ratio or 1)
            own_seconds = float(stream.duration * stream.time_base) if stream.duration else 0.0
            seconds = own_seconds or (container.duration or 0) / 1e6
            frames = max(stream.frames or round(seconds * rate), 1)
            if aspect != 1:
                is_turned = _find_turn(next(container.decode(stream), None))[0]
                aspect = 1 / aspect if is_turned else aspect
            return cls(path, rate, frames, seconds, stream.frames > 0, aspect)

    def read(self, on_remark: Log) -> Iterator[RGBImage]:
        """Yield the frames in order, upright, RGB [h, w, 3].

        Args:
            on_remark: receives remarks on missing and damaged frames, on sizes and on the frame rate.

        Raises:
            DataError: the file is damaged, or has no frames.
        """
        damaged, times, shapes = 0, [], set()
        with _open_stream(self.path) as (container, stream):
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                times.append(frame.time)
                damaged += frame.is_corrupt
                pixels = _turn(frame)
                shapes.add(pixels.shape)
                yield pixels
        if not times:
            raise DataError(f"cannot read video {self.path}: it has no frames")
        for remark in self._describe_frames(times, damaged, len(shapes)):
            on_remark(remark)

    def _describe_frames(self, times: Sequence[float | None], damaged: int, sizes: int) -> Iterator[str]:
        """Yield remarks on what was read: the frames' times in seconds, damaged frames, and different sizes."""
        count, known = len(times), [time for time in times if time is not None]
        end = max(known) - min(known) + float(1 / self.rate) if known else self.seconds
        if self.is_counted and count < self.frames:
            yield f"only {count} of {self.frames} frames: it may be truncated or damaged"
        elif end < MIN_FRAME_SHARE * self.seconds:
            share = f"{end:.3g} of {self.seconds:.3g} s"
            yield f"only {count} of about {self.frames} frames, {share}: it may be truncated or damaged"
        if damaged:
            yield f"damaged frames, whose classes are not reliable: {damaged}"
        if sizes > 1:
            yield "frames of several sizes: the overlay stretches them to that of the first"
        if _is_variable(known):
            lost = f"; of {self.frames} frames at this rate it has {count}, others may be lost"
            yield (
                f"variable frame rate: the overlay has a constant one, {float(self.rate):.4g} frames per second, and "
                f"another duration{lost if count < MIN_FRAME_SHARE * self.frames else ''}"
            )


def _find_turn(frame: Any) -> tuple[bool, bool, bool]:
    """Return whether an upright frame is transposed, then mirrored from left to right, then from top to bottom.

    The matrix of the container maps a position (x, y) to (a x + c y, b x + d y): [a, b, 0, c, d, 0, ...].
    Matrices of other angles are taken as the nearest of these.
    """
    data = None if frame is None else frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, False, False
    a, b, _, c, d, *_ = struct.unpack("<9i", bytes(data))
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0


def _turn(frame: Any) -> RGBImage:
    """Return the pixels of a frame, upright."""
    import numpy as np

    pixels = frame.to_ndarray(format="rgb24")
    is_transposed, is_mirrored, is_flipped = _find_turn(frame)
    if is_transposed:
        pixels = pixels.swapaxes(0, 1)
    pixels = pixels[:, ::-1] if is_mirrored else pixels
    return np.ascontiguousarray(pixels[::-1] if is_flipped else pixels)


def _is_variable(times: Sequence[float]) -> bool:
    """Return True if the intervals between frames at `times`, in seconds, differ."""
    intervals = [later - earlier for earlier, later in itertools.pairwise(times)]
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
def open_video_writer(
    path: Path, rate: Fraction, pixel_aspect: Fraction = Fraction(1)
) -> Iterator[Callable[[RGBImage], None]]:
    """Open a new .mp4 file and yield a function that appends a frame.

    The file gets its name when it is complete, and does not exist after an error. A frame of odd height or width loses
    its last row or column, as players require chroma subsampled by two.

    Args:
        path: file to write.
        rate: frames per second.
        pixel_aspect: width of a pixel relative to its height.

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
                    stream.codec_context.sample_aspect_ratio = pixel_aspect
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
