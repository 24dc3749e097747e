"""Videos, read and written frame by frame."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from lgc.errors import DataError, OutputError
from lgc.profiler.inference.video import Clip, open_video_writer

NTSC = Fraction(30000, 1001)


def write_video(path, height, width, frames=7, rotation=0):
    """Write a video: left half red, top quarter blue."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=NTSC)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = 10**7
        if rotation:
            stream.set_display_rotation(rotation)
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[:, : width // 2, 0] = pixels[: height // 4, :, 2] = 250
        for _ in range(frames):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode())
    return path


def test_clip_reads_every_frame(tmp_path):
    clip = Clip.open(write_video(tmp_path / "a.mp4", 64, 96))
    assert (clip.rate, clip.frames) == (NTSC, 7)
    frames = list(clip.read(print))
    assert [frame.shape for frame in frames] == [(64, 96, 3)] * 7
    assert frames[3][50, 10, 0] > 200


def test_rotated_clip_is_turned_upright(tmp_path):
    (first, *_) = Clip.open(write_video(tmp_path / "phone.mp4", 64, 96, rotation=90)).read(print)
    assert first.shape == (96, 64, 3)
    assert first[80, 50, 0] > 200, "red moves from the left to the bottom"
    assert first[50, 5, 2] > 200, "blue moves from the top to the left"


@pytest.mark.parametrize("size", [(34, 48), (33, 47)])
def test_writer_drops_odd_rows_and_columns(tmp_path, size):
    with open_video_writer(tmp_path / "a.mp4", NTSC) as write:
        for _ in range(3):
            write(np.full((*size, 3), 128, np.uint8))
    clip = Clip.open(tmp_path / "a.mp4")
    assert (clip.rate, clip.frames) == (NTSC, 3)
    assert next(clip.read(print)).shape == (size[0] // 2 * 2, size[1] // 2 * 2, 3)


def test_failed_writer_leaves_no_file(tmp_path):
    def write_partly():
        with open_video_writer(tmp_path / "a.mp4", NTSC) as write:
            write(np.zeros((34, 48, 3), np.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_partly()
    assert list(tmp_path.iterdir()) == []


def test_unwritable_path_is_an_output_error(tmp_path):
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(OutputError, match="cannot write"), open_video_writer(tmp_path / "a.mp4", NTSC) as write:
        write(np.zeros((34, 48, 3), np.uint8))


@pytest.mark.parametrize("content", [b"text", b""])
def test_foreign_file_is_rejected(tmp_path, content):
    (tmp_path / "no.mp4").write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read video .*no\.mp4"):
        Clip.open(tmp_path / "no.mp4")
