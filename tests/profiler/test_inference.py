"""Images through exported files, against the torch network that they come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from lgc.errors import FileFormatError, UsageError
from lgc.lut import Target
from lgc.models import LGCNet
from lgc.models.images import IMAGE_MEAN, IMAGE_STD
from lgc.models.onnx_export import to_onnx
from lgc.models.onnx_model import OnnxModel
from lgc.profiler.inference import Segmenter, at_own_size, upsampled
from lgc.profiler.network import Network

ORT = Target("cpu", "onnxruntime")


@pytest.fixture(scope="module")
def network(mini_space) -> Network:
    """A network whose classes depend on the pixels: its norms are of the pictures, its logits without a bias."""
    architecture = mini_space.sample(3)
    torch.manual_seed(4)
    made = LGCNet(mini_space, architecture).train()
    for _ in range(30):
        made(torch.randn(8, 3, *mini_space.input) + torch.randn(8, 3, 1, 1))
    torch.nn.init.zeros_(made.head[-1].bias)
    return Network(architecture, made.eval().state_dict(), "dense")


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """An image of another size than the network's, with red, green and blue parts."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 9, 3)).astype(np.uint8)
    return np.kron(coarse, np.ones((9, 9, 1), np.uint8))[:50, :77]


def by_torch(network: Network, picture: np.ndarray) -> np.ndarray:
    """The classes by torch, spelled out: resize, scale to 0..1, normalise, network, upsample, argmax, nearest."""
    height, width = network.architecture.space.input
    frame = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))
    x = (frame / 255 - np.array(IMAGE_MEAN)) / np.array(IMAGE_STD)
    tensor = torch.from_numpy(x.transpose(2, 0, 1)[None].astype(np.float32))
    with torch.no_grad():
        logits = network.reference("core")(tensor)
    classes = F.interpolate(logits, (height, width), mode="bilinear").argmax(dim=1)
    return F.interpolate(classes[None].float(), picture.shape[:2], mode="nearest-exact")[0, 0].numpy().astype(np.uint8)


@pytest.mark.parametrize("scope", ["core", "dense", "end-to-end"])
def test_every_scope_gives_torchs_classes(network, picture, scope):
    wanted = by_torch(network, picture)
    assert len(np.unique(wanted)) > 1
    with Segmenter(OnnxModel.parse(network.model("fp32", scope), scope), ORT) as segmenter:
        got = segmenter.segment(picture)
        swapped = segmenter.segment(np.ascontiguousarray(picture[..., ::-1]))
    assert got.dtype == np.uint8
    assert got.shape == picture.shape[:2]
    assert (got == wanted).mean() >= 0.995
    assert (swapped == wanted).mean() < 0.95, "blue taken for red would show"


def test_a_quantised_file_runs_in_int8(network, picture):
    frame = np.asarray(Image.fromarray(picture).resize(network.architecture.space.input[::-1]))
    quantised = Network(network.architecture, network.weights, "dense", images=(frame,)).model("int8")
    with Segmenter(OnnxModel.parse(quantised, "q"), ORT) as segmenter:
        assert segmenter.target.precision == "int8"
        assert (segmenter.segment(picture) == by_torch(network, picture)).mean() > 0.8
    with pytest.raises(UsageError, match="is not quantised"):
        Segmenter(OnnxModel.parse(network.model(), "x"), Target("cpu", "onnxruntime", "int8"))


@pytest.mark.parametrize("size", [(5, 7), (32, 48), (33, 20)])
def test_resizing_is_torchs(size):
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((3, 9, 14), dtype=np.float32)
    wanted = F.interpolate(torch.from_numpy(logits)[None], size, mode="bilinear", align_corners=False)[0].numpy()
    np.testing.assert_allclose(upsampled(logits, size), wanted, atol=1e-5)
    labels = rng.integers(0, 9, (9, 14)).astype(np.uint8)
    nearest = F.interpolate(torch.from_numpy(labels)[None, None].float(), size, mode="nearest-exact")[0, 0].numpy()
    assert np.array_equal(at_own_size(labels, size), nearest.astype(np.uint8))


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (torch.nn.Flatten(), (1, 3, 8, 8), "neither logits"),
        (torch.nn.AvgPool2d(2), (1, 4, 8, 8), "no image"),
        (torch.nn.Conv2d(3, 1, 1), (1, 3, 8, 8), "neither logits"),
    ],
)
def test_what_segments_no_image_is_refused(module, shape, message):
    model = OnnxModel.parse(to_onnx(module, [shape]), "x.onnx")
    with pytest.raises(FileFormatError, match=message):
        Segmenter(model, ORT)


def test_a_file_that_is_none(tmp_path: Path):
    (tmp_path / "a.onnx").write_text("hello")
    with pytest.raises(FileFormatError, match="is no ONNX model but text that begins with 'hello'"):
        OnnxModel.load(tmp_path / "a.onnx")
