"""Videos, frame by frame: read and written with never more than a frame in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import BackendUnavailableError, DataError, OutputError
from ...files import ensure_folder

if TYPE_CHECKING:
    from ...models.images import RGBImage

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv")
"""Files that count as videos."""

VIDEO_CODECS = ("libx264", "mpeg4")
"""What a video is written with, the first that is there."""
BITS_PER_PIXEL = 0.25
"""Of the second, which knows no constant quality: less, and the colours' edges blur."""
DEFAULT_FRAME_RATE = Fraction(25)
"""Frames a second of a video that does not say."""


@dataclass(frozen=True)
class Clip:
    """A video file.

    Attributes:
        path: where it is.
        rate: frames a second, on average.
        frames: how many it seems to have, 1 at least.
    """

    path: Path
    rate: Fraction
    frames: int

    @classmethod
    def open(cls, path: Path) -> Clip:
        """Look at a file's head.

        Raises:
            BackendUnavailableError: PyAV is not installed; the message has the command.
            DataError: the file is no video.
        """
        with _opened(path) as (container, stream):
            rate = stream.average_rate or DEFAULT_FRAME_RATE
            seconds = (container.duration or 0) / 1e6
            return cls(path, rate, max(stream.frames or round(seconds * rate), 1))

    def read(self) -> Iterator[RGBImage]:
        """Its frames in order, upright, RGB [h, w, 3].

        Raises:
            DataError: the file is damaged, or holds no frame.
        """
        import numpy as np

        count = 0
        with _opened(self.path) as (container, stream):
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                pixels = frame.to_ndarray(format="rgb24")
                yield np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
                count += 1
        if not count:
            raise DataError(f"{self.path} holds no frames")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """A video's container and its stream of pictures; what FFmpeg says of it becomes an error that names the file."""
    av = _library()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path} holds no pictures that can be read")
            yield container, container.streams.video[0]
    except av.FFmpegError as error:
        raise DataError(f"{path} is no video that can be read, or damaged: {error.strerror}") from error


@contextmanager
def open_video_writer(path: Path, rate: Fraction) -> Iterator[Callable[[RGBImage], None]]:
    """Context that gives a function which appends a frame to a new .mp4 file.

    The file has its name when it is whole, and is not there if the context is left by an error. Frames of an odd
    height or width lose a row or a column: two by two pixels share their colour in what players can show.

    Raises:
        OutputError: it cannot be written.
    """
    av = _library()
    ensure_folder(path.parent)
    unfinished, stream = path.with_name(f".{path.name}.part"), None
    try:
        with av.open(str(unfinished), "w", format="mp4") as container:

            def write(pixels: RGBImage) -> None:
                nonlocal stream
                height, width = (side - side % 2 for side in pixels.shape[:2])
                if stream is None:
                    stream = _stream(av, container, rate, height, width)
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


def _stream(av: Any, container: Any, rate: Fraction, height: int, width: int) -> Any:
    codec = next(name for name in VIDEO_CODECS if name in av.codecs_available)
    stream = container.add_stream(codec, rate=rate)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    context, values = stream.codec_context, av.video.reformatter  # said, or players guess others for large pictures
    context.colorspace, context.color_range = int(values.Colorspace.ITU601), int(values.ColorRange.MPEG)
    if codec != VIDEO_CODECS[0]:
        stream.bit_rate = round(BITS_PER_PIXEL * height * width * rate)
    return stream


def _library() -> Any:
    try:
        import av
    except ImportError as error:
        raise BackendUnavailableError('videos need PyAV: pip install "lgc[video]"') from error
    return av
