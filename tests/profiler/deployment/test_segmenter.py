"""Images through exported files, against the torch network that they come from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from lgc.errors import DeviceError, FileFormatError, MeasurementError, UsageError
from lgc.models import LGCNet, SearchSpace
from lgc.models.images import IMAGE_MEAN, IMAGE_STD
from lgc.models.onnx.export import to_onnx
from lgc.models.onnx.model import OnnxModel
from lgc.profiler.backends.precision import cast_model
from lgc.profiler.backends.trt import backend as trt
from lgc.profiler.backends.trt.engine import Engine
from lgc.profiler.backends.trt.engine_files import get_description_path, write_engine_files
from lgc.profiler.deployment import segmenter as inference
from lgc.profiler.deployment.network import Network, write_onnx
from lgc.profiler.deployment.segmenter import Segmenter, extract_classes, resize_labels, upsample

SCOPES = ("core", "dense", "end-to-end")


def picture_of(seed: int, height: int, width: int) -> np.ndarray:
    """Random colours in squares, which a network tells apart."""
    coarse = np.random.default_rng(seed).integers(0, 256, (16, 20, 3)).astype(np.uint8)
    return np.kron(coarse, np.ones((9, 9, 1), np.uint8))[:height, :width]


@pytest.fixture(scope="module")
def network() -> Network:
    """A network whose classes depend on the pixels: its norms are of the pictures, its logits without a bias."""
    space = SearchSpace.load("tiny").with_input(64, 96)
    architecture = space.sample(3)
    torch.manual_seed(4)
    made = LGCNet(space, architecture).train()
    for _ in range(30):
        made(torch.randn(4, 3, *space.input) + torch.randn(4, 3, 1, 1))
    torch.nn.init.zeros_(made.head[-1].bias)
    return Network(architecture, made.eval().state_dict(), "dense")


@pytest.fixture(scope="module")
def files(network, tmp_path_factory) -> dict[str, Path]:
    """The network's file in each scope."""
    folder = tmp_path_factory.mktemp("files")
    return {scope: write_onnx(Network(network.architecture, network.weights, scope), folder) for scope in SCOPES}


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """An image of another size and shape than the network's."""
    return picture_of(0, 101, 177)


def by_torch(network: Network, picture: np.ndarray) -> np.ndarray:
    """The classes by torch, spelled out: resize, scale to 0..1, normalise, network, upsample, argmax, nearest."""
    height, width = network.architecture.space.input
    frame = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))
    x = (frame / 255 - np.array(IMAGE_MEAN)) / np.array(IMAGE_STD)
    tensor = torch.from_numpy(x.transpose(2, 0, 1)[None].astype(np.float32))
    with torch.no_grad():
        logits = network.reference("core")(tensor)
    classes = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False).argmax(dim=1)
    return F.interpolate(classes[None].float(), picture.shape[:2], mode="nearest-exact")[0, 0].numpy().astype(np.uint8)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("size", [(101, 177), (64, 96), (31, 20)])
def test_every_scope_gives_torchs_classes_at_the_images_own_size(network, files, scope, size):
    picture = picture_of(1, *size)
    wanted = by_torch(network, picture)
    assert len(np.unique(wanted)) > 3
    with Segmenter.open(files[scope]) as segmenter:
        got = segmenter.segment(picture)
    assert (got.dtype, got.shape) == (np.uint8, size)
    assert (got == wanted).mean() >= 0.999


@pytest.mark.parametrize("scope", SCOPES)
def test_the_order_of_the_channels_matters(network, files, picture, scope):
    with Segmenter.open(files[scope]) as segmenter:
        swapped = segmenter.segment(np.ascontiguousarray(picture[..., ::-1]))
    assert (swapped == by_torch(network, picture)).mean() < 0.9, "blue taken for red would show"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda frame: np.moveaxis(frame, -1, 0).astype(np.float32),
        lambda frame: np.moveaxis(frame, -1, 0).astype(np.float32) / 255,
        lambda frame: np.moveaxis(frame[..., ::-1], -1, 0).astype(np.float32) / 127.5 - 1,
    ],
    ids=["bytes", "0..1", "-1..1, BGR"],
)
def test_another_normalisation_would_show(network, files, picture, monkeypatch, wrong):
    monkeypatch.setattr(inference, "normalise_image", wrong)
    with Segmenter.open(files["dense"]) as segmenter:
        assert (segmenter.segment(picture) == by_torch(network, picture)).mean() < 0.9


def test_what_an_image_took_is_told_by_parts(files, picture):
    with Segmenter.open(files["dense"], threads=2) as segmenter:
        assert segmenter.target.threads == 2
        labels, spent = segmenter.timed(picture)
        assert np.array_equal(labels, segmenter.segment(picture))
    assert min(vars(spent).values()) > 0


def test_a_file_runs_in_its_own_precision(network, files, picture, tmp_path):
    frame = np.asarray(Image.fromarray(picture).resize(network.architecture.space.input[::-1]))
    deployed = Network(network.architecture, network.weights, "dense", images=(frame,))
    with Segmenter.open(write_onnx(deployed, tmp_path, "int8")) as segmenter:
        assert segmenter.target.precision == "int8"
        assert (segmenter.segment(picture) == by_torch(network, picture)).mean() > 0.8
    half = write_onnx(deployed, tmp_path, "fp16")
    assert OnnxModel.load(half).precision == "fp16"
    with pytest.raises(UsageError, match=r"fp16.onnx computes in fp16: backend onnxruntime has no precision 'fp16'"):
        Segmenter.open(half)


def test_a_file_in_fp16_is_what_backends_make_of_one_in_fp32(network, picture):
    half = cast_model(network.model(), "fp16")
    again = cast_model(half, "fp16")
    x = np.random.default_rng(0).standard_normal((1, 3, *network.architecture.space.input), np.float32)
    outputs = [inference_of(model, x) for model in (half, again)]
    assert np.array_equal(*outputs)


def inference_of(model: bytes, x: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize("size", [(5, 7), (32, 48), (33, 20)])
def test_resizing_is_torchs(size):
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((3, 9, 14), dtype=np.float32)
    wanted = F.interpolate(torch.from_numpy(logits)[None], size, mode="bilinear", align_corners=False)[0].numpy()
    for channel, expected in zip(logits, wanted, strict=True):
        np.testing.assert_allclose(upsample(channel, size), expected, atol=1e-5)
    assert (extract_classes(logits[None], size) == wanted.argmax(axis=0)).mean() > 0.99
    labels = rng.integers(0, 9, (9, 14)).astype(np.uint8)
    nearest = F.interpolate(torch.from_numpy(labels)[None, None].float(), size, mode="nearest-exact")[0, 0].numpy()
    assert np.array_equal(resize_labels(labels, size), nearest.astype(np.uint8))


def test_outputs_that_no_byte_holds_are_refused():
    assert extract_classes(np.full((1, 2, 2), 255, np.int64), (2, 2)).max() == 255
    with pytest.raises(MeasurementError, match="classes 0 to 256"):
        extract_classes(np.array([[[0, 256]]], np.int64), (1, 2))
    with pytest.raises(MeasurementError, match="classes -1 to 0"):
        extract_classes(np.array([[[0, -1]]], np.int32), (1, 2))
    with pytest.raises(MeasurementError, match="not finite"):
        extract_classes(np.full((1, 2, 4, 4), np.nan, np.float32), (4, 4))


class Floats(torch.nn.Module):
    def forward(self, x):
        return x.argmax(dim=1).float()


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (torch.nn.Flatten(), (1, 3, 8, 8), "neither logits"),
        (torch.nn.AvgPool2d(2), (1, 4, 8, 8), "must be one image"),
        (torch.nn.Conv2d(3, 5, 1), (2, 3, 8, 8), "must be one image"),
        (torch.nn.Conv2d(3, 1, 1), (1, 3, 8, 8), "neither logits"),
        (torch.nn.Conv2d(3, 300, 1), (1, 3, 8, 8), "256 classes at most"),
        (Floats(), (1, 3, 8, 8), "neither logits"),
    ],
)
def test_what_segments_no_image_is_refused(tmp_path, module, shape, message):
    path = tmp_path / "x.onnx"
    path.write_bytes(to_onnx(module, [shape]))
    with pytest.raises(FileFormatError, match=message):
        Segmenter.open(path)


def test_a_foreign_file_is_as_good_as_ours(tmp_path, picture):
    torch.manual_seed(0)
    path = tmp_path / "x.onnx"
    path.write_bytes(to_onnx(torch.nn.Conv2d(3, 5, 3, 4, 1), [(1, 3, 32, 48)]))
    with Segmenter.open(path) as segmenter:
        assert segmenter.segment(picture).shape == picture.shape[:2]
        assert (segmenter.network.classes, segmenter.network.class_names) == (5, None)


def test_a_file_that_is_none(tmp_path: Path):
    (tmp_path / "a.onnx").write_text("hello")
    with pytest.raises(FileFormatError, match="it is text that begins with 'hello'"):
        Segmenter.open(tmp_path / "a.onnx")


@pytest.fixture
def engine(network, tmp_path) -> Path:
    """An engine's two files; its bytes are the ONNX model, which `opened` runs."""
    model = OnnxModel.parse(network.model(), "x")
    made = Engine(
        data=model.data,
        flavour="TensorRT",
        version="10.9",
        precision="fp16",
        compute_capability="8.9",
        assumed=False,
        layers=(),
        seconds=1.0,
        inputs=model.inputs,
        outputs=model.outputs,
        metadata=model.metadata,
    )
    write_engine_files(made, tmp_path / "x.engine")
    return tmp_path / "x.engine"


@pytest.fixture
def opened(monkeypatch, network):
    """Makes ONNX Runtime run what the engine's file holds, as if it were one; the devices it was opened on."""
    devices = []

    def open_engine(self, path, device):
        devices.append(device)
        return inference.require_backend(inference.Target("cpu", "onnxruntime")).compile(
            network.workload(), inference.Target("cpu", "onnxruntime")
        )

    monkeypatch.setattr(trt.TensorRTBackend, "open", open_engine)
    monkeypatch.setattr(inference, "check_device", lambda device: device)
    return devices


def test_an_engine_is_one_more_file(network, engine, opened, picture):
    with Segmenter.open(engine) as segmenter:
        assert str(segmenter.target) == str(inference.Target("cuda:0", "tensorrt", "fp16"))
        assert segmenter.network.classes == network.architecture.space.classes
        assert (segmenter.segment(picture) == by_torch(network, picture)).mean() >= 0.999
    assert opened == ["cuda:0"]


def test_an_engine_that_cannot_run_is_refused(engine):
    with pytest.raises(UsageError, match="is a TensorRT engine, which onnxruntime does not run"):
        Segmenter.open(engine, backend="onnxruntime")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="no device 'cuda:0' on this machine"):
            Segmenter.open(engine)
    engine.write_bytes(engine.read_bytes()[:500])
    with pytest.raises(FileFormatError, match=r"does not match x\.engine\.json"):
        Segmenter.open(engine)
    get_description_path(engine).unlink()
    with pytest.raises(FileFormatError, match="is missing, which says what"):
        Segmenter.open(engine)


def test_a_file_is_opened_and_run_without_torch(files):
    program = (
        "import sys, numpy\n"
        "from pathlib import Path\n"
        "from lgc.profiler.deployment.segmenter import Segmenter\n"
        f"with Segmenter.open(Path({str(files['core'])!r})) as segmenter:\n"
        "    segmenter.segment(numpy.zeros((9, 9, 3), numpy.uint8))\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
