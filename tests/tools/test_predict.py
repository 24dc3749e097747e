"""`lgc-predict` as users call it: what is written, and how it refuses what it cannot use."""

from __future__ import annotations

import json
import shutil

import av
import numpy as np
import onnx
import pytest
from PIL import Image

from lgc.models.onnx_model import OnnxModel
from lgc.profiler.network import Network, write_onnx
from lgc.search.data.labels import CAMVID_CLASSES, CAMVID_PALETTE, CITYSCAPES_PALETTE
from lgc.tools.predict import legend_of


@pytest.fixture(scope="module")
def street(mini_space):
    return mini_space.check({**mini_space.model_dump(mode="json"), "classes": 11}, "street")


@pytest.fixture(scope="module")
def file(street, tmp_path_factory):
    return write_onnx(Network(street.sample(0), None, "dense"), tmp_path_factory.mktemp("onnx"))


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (20, 31)), ("deep/a.jpg", (64, 40))):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3)).astype(np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "drive.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt = 48, 34, "yuv420p"
        for index in range(7):
            pixels = np.full((34, 48, 3), 30 * index, np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode())
    return path


def test_a_folder_gives_masks_and_overlays(call, file, photos, tmp_path):
    out = tmp_path / "out"
    done = call("lgc-predict", file, photos, "--out", out, "--ids", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    names = {f"{stem}-{what}.png" for stem in ("a", "deep/a") for what in ("mask", "overlay", "ids")}
    assert {str(path.relative_to(out)) for path in out.rglob("*.png")} == names
    assert sorted(found["files"]) == sorted(str(out / name) for name in names)
    assert found["images"] == 2
    assert sum(found["classes"].values()) == pytest.approx(100)
    assert found["fps"] == pytest.approx(1000 / sum(found["ms_per_image"].values()))
    ids, mask, overlay = (np.asarray(Image.open(out / f"deep/a-{what}.png")) for what in ("ids", "mask", "overlay"))
    assert ids.shape == (64, 40)
    assert np.array_equal(mask, np.array(CAMVID_PALETTE, np.uint8)[ids])
    image = np.asarray(Image.open(photos / "deep/a.jpg").convert("RGB"))
    assert np.abs(overlay - (image / 2 + mask / 2)).max() <= 0.5
    again = call("lgc-predict", file, photos, "--out", out, "--ids", "--json")
    assert again.code == 0, "the same command writes the same files again"


def test_a_run_is_enough(call, street, photos, tmp_path):
    run = tmp_path / "run"
    path = write_onnx(Network(street.sample(1), None, "dense"), run / "export")
    done = call("lgc-predict", run, photos / "a.png", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert f"using {path}" in done.err
    assert "images a second" in done.out
    shutil.rmtree(run / "export")
    assert "lgc-export" in call("lgc-predict", run, photos, "--out", tmp_path / "out").refusal("lgc-predict")


def test_a_video_keeps_length_rate_and_size(call, file, video, tmp_path):
    done = call("lgc-predict", file, video, "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["images"] == 7
    (path,) = (tmp_path / "out").iterdir()
    assert path.name == "drive-overlay.mp4"
    with av.open(str(path)) as made:
        stream = made.streams.video[0]
        assert (stream.height, stream.width, stream.average_rate) == (34, 48, 12)
        assert sum(1 for _ in made.decode(video=0)) == 7


def test_names_and_colours_of_classes(file, street, tmp_path):
    model = OnnxModel.load(file)
    assert legend_of(model) == (list(CAMVID_CLASSES), CAMVID_PALETTE)
    named = Network(street.sample(0), None, "dense", tuple("abcdefghijk"))
    names, palette = legend_of(OnnxModel.parse(named.model(), "x"))
    assert names == list("abcdefghijk")
    assert len(set(palette)) == 11
    assert set(palette) != set(CAMVID_PALETTE)
    assert len(set(CITYSCAPES_PALETTE)) == 19


def test_bad_input_is_refused_in_one_line(call, file, photos, tmp_path):
    dynamic = onnx.load(file)
    dynamic.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(dynamic, tmp_path / "dynamic.onnx")
    (tmp_path / "broken.onnx").write_bytes(file.read_bytes()[:2000])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.mp4").write_text("no video")
    shutil.copy(photos / "a.png", tmp_path / "a.png")
    out = tmp_path / "out"
    for arguments, message in (
        ((tmp_path / "broken.onnx", photos), "is no ONNX model but"),
        ((photos / "a.png", photos), "is no ONNX model but a PNG image"),
        ((tmp_path / "dynamic.onnx", photos), 'dynamic shape: input_0 is [1, 3, "height", 32]'),
        ((tmp_path / "missing.onnx", photos), "nothing: there is no such file"),
        ((file, tmp_path / "missing"), "does not exist"),
        ((file, tmp_path / "empty"), "holds no images"),
        ((file, tmp_path / "text.png"), "text.png is not an image"),
        ((file, tmp_path / "no.mp4"), "no.mp4 is no video"),
        ((file, photos / "a.png", tmp_path / "a.png"), "would be written to the same files"),
        ((file, photos, "--device", "cuda:0"), "no device 'cuda:0' here"),
        ((file, photos, "--backend", "tensorrt"), "TensorRT needs a CUDA device"),
        ((file, photos, "--precision", "fp16"), "has no precision 'fp16'"),
        ((tmp_path / "x.engine", photos), "name the ONNX file beside it"),
    ):
        assert message in call("lgc-predict", *arguments, "--out", out).refusal("lgc-predict")
        assert not out.exists() or not any(out.iterdir()), "nothing half-written"
    refused = call("lgc-predict", file, photos, "--out", tmp_path / "a.png")
    assert "cannot make the folder" in refused.refusal("lgc-predict")
