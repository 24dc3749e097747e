"""Videos, frame by frame: read, repainted, written, with never more than a frame in memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BackendUnavailableError, DataError
from ..files import ensure_folder

if TYPE_CHECKING:
    from ..models.images import Pixels

CODECS = ("libx264", "mpeg4")
"""What a video is written with, the first that is there."""


def repainted(source: Path, target: Path, paint: Callable[[Pixels], Pixels]) -> int:
    """Write a video with every frame of another one repainted, at its rate; the number of frames.

    Frames of an odd height or width lose a row or column, which the usual pixel format cannot hold.

    Args:
        source: any format that FFmpeg reads.
        target: an .mp4 file; it appears under that name when it is whole.
        paint: RGB [h, w, 3] -> the same shape.

    Raises:
        BackendUnavailableError: PyAV is not installed; the message has the command.
        DataError: the source is no video, or damaged.
        OutputError: the target cannot be written.
    """
    try:
        import av
    except ImportError as error:
        raise BackendUnavailableError('videos need PyAV: pip install "lgc[video]"') from error
    ensure_folder(target.parent)
    unfinished = target.with_name(f".{target.name}.part")
    try:
        with av.open(str(source)) as given:
            if not given.streams.video:
                raise DataError(f"{source} holds no video")
            frames = _written(av, given, unfinished, paint)
    except av.FFmpegError as error:
        raise DataError(f"{source} is no video that can be read: {error.strerror}") from error
    else:
        if frames == 0:
            raise DataError(f"{source} holds no frames")
        unfinished.replace(target)
        return frames
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()


def _written(av: Any, given: Any, path: Path, paint: Callable[[Pixels], Pixels]) -> int:
    stream, frames = given.streams.video[0], 0
    with av.open(str(path), "w", format="mp4") as output:
        made = None
        for frame in given.decode(stream):
            pixels = paint(frame.to_ndarray(format="rgb24"))
            height, width = (side - side % 2 for side in pixels.shape[:2])
            if made is None:
                codec = next(name for name in CODECS if name in av.codecs_available)
                made = output.add_stream(codec, rate=stream.average_rate or 25)
                made.width, made.height, made.pix_fmt = width, height, "yuv420p"
            image = av.VideoFrame.from_ndarray(pixels[:height, :width].copy(), format="rgb24")
            output.mux(made.encode(image))
            frames += 1
        if made is not None:
            output.mux(made.encode())
    return frames
