"""`lgc-predict` from the command line: videos."""

from __future__ import annotations

import json
import re
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from lgc.errors import DataError
from lgc.profiler.inference.video import Clip

from . import test_predict as images
from .test_predict import noise

NTSC = Fraction(30000, 1001)

# The fixtures of that file.
street, file, photos = images.street, images.file, images.photos


def write_video(path, height, width, frames=7, rate=NTSC, rotation=0):
    """Write a video: left half red, top quarter blue, each frame darker than the one before."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = 10**7
        if rotation:
            stream.set_display_rotation(rotation)
        for index in range(frames):
            pixels = np.zeros((height, width, 3), np.uint8)
            pixels[:, : width // 2, 0] = pixels[: height // 4, :, 2] = 250 - 5 * index
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode())
    return path


def read_video(path):
    with av.open(str(path)) as made:
        stream = made.streams.video[0]
        return stream, [frame.to_ndarray(format="rgb24") for frame in made.decode(stream)]


@pytest.mark.parametrize("size", [(34, 48), (33, 47), (720, 1280)])
def test_video_keeps_length_rate_and_size(call, file, tmp_path, size):
    even = tuple(side - side % 2 for side in size)
    if even == size:
        video = write_video(tmp_path / "drive.mp4", *size)
    else:  # only formats without subsampling have frames of odd sizes
        video = tmp_path / "drive.avi"
        with av.open(str(video), "w") as output:
            stream = output.add_stream("rawvideo", rate=NTSC)
            stream.height, stream.width, stream.pix_fmt = *size, "bgr24"
            for _ in range(7):
                output.mux(stream.encode(av.VideoFrame.from_ndarray(noise(*size), format="rgb24")))
    done = call("lgc-predict", file, video, "--out", tmp_path / "out", "--alpha", 0, "--ids", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["images"] == 7
    (path,) = (tmp_path / "out").iterdir()
    assert path.name == "drive-overlay.mp4"
    stream, frames = read_video(path)
    assert (stream.height, stream.width, stream.average_rate, len(frames)) == (*even, NTSC, 7)
    if even == size:
        _, given = read_video(video)
        assert np.abs(frames[3].astype(int) - given[3]).mean() < 5, "without colours, the video itself"


def test_rotated_video_is_turned_upright(call, file, tmp_path):
    video = write_video(tmp_path / "phone.mp4", 64, 96, rotation=90)
    (first, *_) = Clip.open(video).read(print)
    assert first.shape == (96, 64, 3)
    assert first[80, 50, 0] > 200, "red, that was on the left, is below: it is turned against the clock"
    assert first[50, 5, 2] > 200, "blue, that was above, is on the left"
    done = call("lgc-predict", file, video, "--out", tmp_path / "out")
    assert done.code == 0
    assert f"7 images and frames; 1 file written to {tmp_path / 'out'}" in done.out
    _, frames = read_video(tmp_path / "out/phone-overlay.mp4")
    assert frames[0].shape == (96, 64, 3)


def test_truncated_video_is_reported(call, file, tmp_path, monkeypatch):
    video = write_video(tmp_path / "drive.mkv", 64, 96, frames=20)
    out = tmp_path / "out"
    whole = video.read_bytes()
    video.write_bytes(whole[: 2 * len(whole) // 3])
    done = call("lgc-predict", file, video, "--out", out)
    assert done.code == 0, done.err
    assert re.search(r"drive.mkv: only \d+ of about 20 frames, .* s: it may be truncated", done.err)
    before = (out / "drive-overlay.mp4").read_bytes()
    video.write_bytes(whole)
    read = Clip.read

    def damaged(clip, on_remark):
        frames = read(clip, on_remark)
        yield from (next(frames), next(frames))
        raise DataError(f"{clip.path} is damaged")

    monkeypatch.setattr(Clip, "read", damaged)
    assert "drive.mkv is damaged" in call("lgc-predict", file, video, "--out", out).refusal("lgc-predict")
    assert (out / "drive-overlay.mp4").read_bytes() == before, "the complete old file"
    assert len(list(out.iterdir())) == 1


def test_interrupt_leaves_no_partial_video(call, file, tmp_path, monkeypatch):
    video = write_video(tmp_path / "drive.mp4", 64, 96)

    def interrupted(clip, on_remark):
        yield noise(64, 96)
        raise KeyboardInterrupt

    monkeypatch.setattr(Clip, "read", interrupted)
    done = call("lgc-predict", file, video, "--out", tmp_path / "out")
    assert (done.code, done.err.count("lgc-predict: ")) == (130, 1)
    assert "run the same command again to write all of them again" in done.err
    assert not list((tmp_path / "out").iterdir())


def test_only_videos_need_pyav(call, file, photos, tmp_path, monkeypatch):
    video = write_video(tmp_path / "drive.mp4", 34, 48)
    monkeypatch.setitem(sys.modules, "av", None)
    assert call("lgc-predict", file, photos, "--out", tmp_path / "out").code == 0
    refused = call("lgc-predict", file, photos, video, "--out", tmp_path / "other")
    assert 'videos need PyAV: pip install "lgc[video]"' in refused.refusal("lgc-predict")
    assert not (tmp_path / "other").exists(), "before anything is written"
