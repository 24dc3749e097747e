"""Videos, read and written frame by frame."""

from __future__ import annotations

import struct
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest

from lgc.errors import DataError, OutputError
from lgc.profiler.inference.video import Clip, open_video_writer

NTSC = Fraction(30000, 1001)


def write_video(path, height, width, frames=7, rotation=0, aspect=None):
    """Write a video: left half red, top quarter blue."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=NTSC)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = 10**7
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
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


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((-1, 0, 0, 1), lambda pixels: pixels[:, ::-1]),
        ((1, 0, 0, -1), lambda pixels: pixels[::-1]),
        ((-1, 0, 0, -1), lambda pixels: pixels[::-1, ::-1]),
        ((0, 1, -1, 0), lambda pixels: np.rot90(pixels, -1)),
        ((0, -1, 1, 0), lambda pixels: np.rot90(pixels)),
        ((0, 1, 1, 0), lambda pixels: pixels.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1)),
    ],
)
def test_matrix_of_the_container_is_applied(tmp_path, matrix, turn):
    """The matrix is in the track's header, after its eight bytes of version and times and further fields."""
    path = write_video(tmp_path / "a.mp4", 64, 96)
    plain = next(Clip.open(path).read(print))
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    assert struct.unpack_from(">9i", content, start) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    struct.pack_into(">9i", content, start, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    np.testing.assert_array_equal(next(Clip.open(path).read(print)), turn(plain))


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


def write_lossless(path, height, width, times_ms):
    """Write a video without subsampled chroma, with a frame at each time."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "bgr0"
        stream.codec_context.time_base = Fraction(1, 1000)
        output.start_encoding()
        for time in times_ms:
            frame = av.VideoFrame.from_ndarray(np.zeros((height, width, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def test_video_one_pixel_high_is_rejected(tmp_path):
    with pytest.raises(DataError, match=r"onerow\.mkv: frames of 1x64 pixels .* at least 2x2 are needed"):
        Clip.open(write_lossless(tmp_path / "onerow.mkv", 1, 64, range(0, 400, 100)))


@pytest.mark.parametrize("size", [(2, 2), (3, 5)])
def test_smallest_videos_are_written(tmp_path, size):
    clip = Clip.open(write_lossless(tmp_path / "a.mkv", *size, range(0, 300, 100)))
    with open_video_writer(tmp_path / "b.mp4", clip.rate) as write:
        for pixels in clip.read(print):
            write(pixels)
    assert next(Clip.open(tmp_path / "b.mp4").read(print)).shape == (2, size[1] // 2 * 2, 3)


@pytest.mark.parametrize(
    ("times_ms", "remark"),
    [
        (range(0, 900, 100), None),
        ([0, 33, 67, 100, 133], None),
        ([0, 33, 66, 500, 533, 1500], "variable frame rate: the overlay has a constant one, 10 frames per second"),
    ],
)
def test_variable_frame_rate_is_reported(tmp_path, times_ms, remark):
    remarks: list[str] = []
    clip = Clip.open(write_lossless(tmp_path / "a.mkv", 32, 48, times_ms))
    assert len(list(clip.read(remarks.append))) == len(times_ms)
    assert remarks[0].startswith(remark) if remark else not remarks, remarks


@pytest.mark.parametrize("times_ms", [range(0, 6000, 100), [33 * n + 17 * (n % 5 == 0) for n in range(60)]])
def test_lost_frames_are_reported_apart_from_rate(tmp_path, times_ms):
    path = write_lossless(tmp_path / "a.mkv", 32, 48, times_ms)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    remarks: list[str] = []
    count = len(list(Clip.open(path).read(remarks.append)))
    assert count < 40
    assert remarks[0].startswith(f"only {count} of about ")
    assert "s: it may be truncated or damaged" in remarks[0]
    assert len(remarks) == (1 if isinstance(times_ms, range) else 2)


def test_lost_frames_of_a_header_are_counted(tmp_path):
    remarks: list[str] = []
    clip = replace(Clip.open(write_video(tmp_path / "a.mp4", 64, 96)), frames=9)
    assert len(list(clip.read(remarks.append))) == 7
    assert remarks == ["only 7 of 9 frames: it may be truncated or damaged"]


def test_frames_of_another_size_are_reported(tmp_path):
    for width in (96, 64):
        with av.open(str(tmp_path / f"{width}.ts"), "w", format="mpegts") as output:
            stream = output.add_stream("mpeg2video", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, 64, "yuv420p"
            for _ in range(4):
                output.mux(stream.encode(av.VideoFrame(width, 64, "yuv420p")))
            output.mux(stream.encode())
    path = tmp_path / "both.ts"
    path.write_bytes((tmp_path / "96.ts").read_bytes() + (tmp_path / "64.ts").read_bytes())
    remarks: list[str] = []
    assert len({frame.shape for frame in Clip.open(path).read(remarks.append)}) == 2
    assert "frames of several sizes: the overlay stretches them to that of the first" in remarks


@pytest.mark.parametrize(("rotation", "aspect"), [(0, Fraction(2)), (90, Fraction(1, 2))])
def test_shape_of_pixels_is_kept(tmp_path, rotation, aspect):
    path = write_video(tmp_path / "a.mp4", 64, 96, rotation=rotation, aspect=Fraction(2))
    clip = Clip.open(path)
    assert clip.pixel_aspect == aspect
    with open_video_writer(tmp_path / "b.mp4", clip.rate, clip.pixel_aspect) as write:
        for pixels in clip.read(print):
            write(pixels)
    assert Clip.open(tmp_path / "b.mp4").pixel_aspect == aspect


def test_video_without_frames_is_rejected(tmp_path):
    write_lossless(tmp_path / "a.mkv", 32, 48, [])
    with pytest.raises(DataError, match=r"cannot read video .*a\.mkv: it is empty or truncated"):
        Clip.open(tmp_path / "a.mkv")


def test_title_in_another_encoding_is_ignored(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as output:
        output.metadata["title"] = "Strasse"
        stream = output.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        output.mux(stream.encode(av.VideoFrame(64, 32, "yuv420p")))
        output.mux(stream.encode())
    content = path.read_bytes()
    assert b"Strasse" in content
    path.write_bytes(content.replace(b"Strasse", b"Stra\xdfe "))
    assert len(list(Clip.open(path).read(print))) == 1


def test_sound_alone_is_rejected(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as output:
        stream = output.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
    with pytest.raises(DataError, match="it has no video stream"):
        Clip.open(tmp_path / "a.mkv")


@pytest.mark.parametrize("content", [b"text", b""])
def test_foreign_file_is_rejected(tmp_path, content):
    (tmp_path / "no.mp4").write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read video .*no\.mp4"):
        Clip.open(tmp_path / "no.mp4")
