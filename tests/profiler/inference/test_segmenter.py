"""Segmentation with exported files, compared with the torch network."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from lgc.device import Device
from lgc.errors import DeviceError, FileFormatError, UsageError
from lgc.models import LGCNet, SearchSpace
from lgc.models.images import IMAGENET
from lgc.models.onnx.export import to_onnx
from lgc.models.onnx.model import OnnxModel
from lgc.profiler.backends.precision import cast_model
from lgc.profiler.backends.trt import backend as trt
from lgc.profiler.backends.trt.engine import Engine
from lgc.profiler.backends.trt.engine_files import get_description_path, write_engine_files
from lgc.profiler.deployment.network import Network, write_onnx
from lgc.profiler.file_outputs import name_scope
from lgc.profiler.inference import preprocessing
from lgc.profiler.inference import segmenter as inference
from lgc.profiler.inference.pipeline import PipelineOptions
from lgc.profiler.inference.segmenter import Segmenter
from lgc.profiler.machine import cpu_limits

from .graphs import SIZE, list_halves, make_halves, make_value, write_graph

SCOPES = ("core", "dense", "end-to-end")


def make_picture(seed: int, height: int, width: int) -> np.ndarray:
    """Return squares of random colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (16, 20, 3)).astype(np.uint8)
    return np.kron(coarse, np.ones((9, 9, 1), np.uint8))[:height, :width]


@pytest.fixture(scope="module")
def network() -> Network:
    """Return a network whose classes depend on the pixels: norms fitted to noise, logits without bias."""
    space = SearchSpace.load("tiny").with_input(64, 96)
    architecture = space.sample(3)
    torch.manual_seed(4)
    model = LGCNet(space, architecture).train()
    for _ in range(30):
        model(torch.randn(4, 3, *space.input) + torch.randn(4, 3, 1, 1))
    torch.nn.init.zeros_(model.head[-1].bias)
    return Network(architecture, model.eval().state_dict(), "dense")


@pytest.fixture(scope="module")
def files(network, tmp_path_factory) -> dict[str, Path]:
    """Return the network's file in each scope."""
    folder = tmp_path_factory.mktemp("files")
    return {scope: write_onnx(Network(network.architecture, network.weights, scope), folder) for scope in SCOPES}


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Return an image that differs from the network's in size and aspect ratio."""
    return make_picture(0, 101, 177)


def segment_with_torch(network: Network, picture: np.ndarray) -> np.ndarray:
    """Compute classes with torch: resize, scale to 0..1, normalise, network, upsample, argmax, nearest.

    Logits are at every eighth pixel: their corners are aligned once a row and a column are appended.
    """
    height, width = network.architecture.space.input
    frame = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))
    x = (frame / 255 - np.array(IMAGENET.mean)) / np.array(IMAGENET.std)
    tensor = torch.from_numpy(x.transpose(2, 0, 1)[None].astype(np.float32))
    with torch.no_grad():
        logits = network.reference("core")(tensor)
    full = F.interpolate(
        F.pad(logits, (0, 1, 0, 1), mode="replicate"), (height + 1, width + 1), mode="bilinear", align_corners=True
    )
    classes = full[..., :height, :width].argmax(dim=1)
    return F.interpolate(classes[None].float(), picture.shape[:2], mode="nearest-exact")[0, 0].numpy().astype(np.uint8)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("size", [(101, 177), (64, 96), (31, 20)])
def test_every_scope_gives_torchs_classes(network, files, scope, size):
    picture = make_picture(1, *size)
    wanted = segment_with_torch(network, picture)
    assert len(np.unique(wanted)) > 3
    with Segmenter.open(files[scope]) as segmenter:
        got = segmenter.segment(picture)
    assert (got.dtype, got.shape) == (np.uint8, size)
    assert (got == wanted).mean() >= 0.999


@pytest.mark.parametrize("scope", SCOPES)
def test_channel_order_matters(network, files, picture, scope):
    with Segmenter.open(files[scope]) as segmenter:
        swapped = segmenter.segment(np.ascontiguousarray(picture[..., ::-1]))
    assert (swapped == segment_with_torch(network, picture)).mean() < 0.9, "blue taken for red would show"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda frame, _: np.moveaxis(frame, -1, 0).astype(np.float32),
        lambda frame, _: np.moveaxis(frame, -1, 0).astype(np.float32) / 255,
        lambda frame, _: np.moveaxis(frame[..., ::-1], -1, 0).astype(np.float32) / 127.5 - 1,
    ],
    ids=["bytes", "0..1", "-1..1, BGR"],
)
def test_wrong_normalisation_is_detected(network, files, picture, monkeypatch, wrong):
    monkeypatch.setattr(preprocessing, "normalise_image", wrong)
    with Segmenter.open(files["dense"]) as segmenter:
        assert (segmenter.segment(picture) == segment_with_torch(network, picture)).mean() < 0.9


def test_scope_is_that_of_the_whole_file(network, files, picture):
    """Logits that are cut out of a file with labels are decoded as logits."""
    (logits,) = (node.input[0] for node in onnx.load(files["dense"]).graph.node if node.op_type == "ArgMax")
    with Segmenter.open(files["dense"], options=PipelineOptions(output_name=logits)) as segmenter:
        assert segmenter.network.own_scope is None
        assert segmenter.num_classes == network.architecture.search_space.classes
        assert np.mean(segmenter.segment(picture) == segment_with_torch(network, picture)) >= 0.999


def test_scope_of_a_changed_output_is_ignored(files, picture, tmp_path):
    model, path = onnx.load(files["core"]), tmp_path / "labels.onnx"
    model.graph.node.append(onnx.helper.make_node("ArgMax", [model.graph.output[0].name], ["labels"], axis=1))
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("labels", onnx.TensorProto.INT64, (1, 1, 8, 12)))
    onnx.save(model, path)
    changed = OnnxModel.load(path)
    assert (changed.own_scope, name_scope(changed)) == (None, "as is, to int64 1x1x8x12")
    with Segmenter.open(path) as segmenter:
        assert segmenter.segment(picture).shape == picture.shape[:2]


def test_times_are_reported_by_part(files, picture):
    with Segmenter.open(files["dense"], threads=2) as segmenter:
        assert segmenter.target.threads == 2
        labels, duration = segmenter.segment_timed(picture)
        assert np.array_equal(labels, segmenter.segment(picture))
    assert min(vars(duration).values()) > 0


def test_file_runs_in_its_own_precision(network, files, picture, tmp_path):
    frame = np.asarray(Image.fromarray(picture).resize(network.architecture.space.input[::-1]))
    deployed = Network(network.architecture, network.weights, "dense", images=(frame,))
    with Segmenter.open(write_onnx(deployed, tmp_path, "int8")) as segmenter:
        assert segmenter.target.precision == "int8"
        assert (segmenter.segment(picture) == segment_with_torch(network, picture)).mean() > 0.8


def test_half_files_run_on_the_cpu(network, files, picture, tmp_path):
    path = write_onnx(Network(network.architecture, network.weights, "dense"), tmp_path, "fp16")
    assert OnnxModel.load(path).precision == "fp16"
    with Segmenter.open(path) as segmenter:
        assert segmenter.target.precision == "fp32"
        assert f"{path} has precision fp16: ONNX Runtime computes it in float32 on a CPU" in segmenter.remarks[-1]
        assert (segmenter.segment(picture) == segment_with_torch(network, picture)).mean() > 0.99


def write_half(path):
    """Write a network of float16 whose scores are red and blue."""
    nodes = [onnx.helper.make_node("Conv", ["x", "w"], ["y"])]
    weights = {"w": np.float16([[1, 0, 0], [0, 0, 1]]).reshape(2, 3, 1, 1)}
    values = [[make_value(name, (1, count, *SIZE), onnx.TensorProto.FLOAT16)] for name, count in (("x", 3), ("y", 2))]
    return write_graph(path, nodes, *values, weights)


def test_half_inputs_and_outputs_are_decoded(tmp_path):
    with Segmenter.open(write_half(tmp_path / "half.onnx")) as segmenter:
        assert list_halves(segmenter.segment(make_halves(40, 70))) == (0, 1)


def test_brain_floats_are_refused_on_the_cpu(monkeypatch, tmp_path):
    path = write_half(tmp_path / "half.onnx")
    model = replace(OnnxModel.load(path), precision="bf16")
    monkeypatch.setattr(OnnxModel, "load", lambda *_, **__: model)
    with pytest.raises(UsageError, match=r"half.onnx has precision bf16: .* add --device cuda:0, or export"):
        Segmenter.open(path)


def test_quota_below_one_core_is_a_remark(files, picture, monkeypatch):
    monkeypatch.setattr(cpu_limits, "read_cpu_limits", lambda: cpu_limits.CpuLimits(cores=8, allowed=8, quota=0.5))
    with Segmenter.open(files["dense"]) as segmenter:
        assert any("the CPU quota is 0.5 cores" in remark for remark in segmenter.remarks)
        assert segmenter.segment(picture).shape == picture.shape[:2]
    with pytest.raises(UsageError, match=r"^--threads 2: the CPU quota"):
        Segmenter.open(files["dense"], threads=2)


def test_casting_to_fp16_is_idempotent(network, picture):
    half = cast_model(network.model(), "fp16")
    again = cast_model(half, "fp16")
    x = np.random.default_rng(0).standard_normal((1, 3, *network.architecture.space.input), np.float32)
    outputs = [run_model(model, x) for model in (half, again)]
    assert np.array_equal(*outputs)


def run_model(model: bytes, x: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (torch.nn.Flatten(), (1, 3, 8, 8), "neither scores"),
        (torch.nn.AvgPool2d(2), (1, 4, 8, 8), "must be one image"),
        (torch.nn.Conv2d(3, 5, 1), (2, 3, 8, 8), "must be one image"),
        (torch.nn.AdaptiveAvgPool2d(1), (1, 3, 8, 8), "neither scores"),
        (torch.nn.Conv2d(3, 300, 1), (1, 3, 8, 8), "at most 256 classes"),
    ],
)
def test_other_networks_are_rejected(tmp_path, module, shape, message):
    path = tmp_path / "x.onnx"
    path.write_bytes(to_onnx(module, [shape]))
    with pytest.raises(FileFormatError, match=message):
        Segmenter.open(path)


def test_foreign_file_is_segmented(tmp_path, picture):
    torch.manual_seed(0)
    path = tmp_path / "x.onnx"
    path.write_bytes(to_onnx(torch.nn.Conv2d(3, 5, 3, 4, 1), [(1, 3, 32, 48)]))
    with Segmenter.open(path) as segmenter:
        assert segmenter.segment(picture).shape == picture.shape[:2]
        assert (segmenter.num_classes, segmenter.network.class_names) == (5, None)
        assert any("ImageNet's mean and std is assumed" in remark for remark in segmenter.remarks)


def test_foreign_format_is_rejected(tmp_path: Path):
    (tmp_path / "a.onnx").write_text("hello")
    with pytest.raises(FileFormatError, match="it is text that begins with 'hello'"):
        Segmenter.open(tmp_path / "a.onnx")


@pytest.fixture
def engine(network, tmp_path) -> Path:
    """Write an engine and its description; its bytes are the ONNX model, which `opened` runs."""
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
    """Run engine files with ONNX Runtime, and return the list of devices they were opened on."""
    devices = []

    def open_engine(self, path, device):
        devices.append(device)
        return inference.require_support(inference.Target("cpu", "onnxruntime")).compile(
            network.workload(), inference.Target("cpu", "onnxruntime")
        )

    monkeypatch.setattr(trt.TensorRTBackend, "open", open_engine)
    monkeypatch.setattr(inference, "check_device", Device)
    return devices


def test_engine_is_segmented_like_a_file(network, engine, opened, picture):
    with Segmenter.open(engine) as segmenter:
        assert str(segmenter.target) == str(inference.Target("cuda:0", "tensorrt", "fp16"))
        assert segmenter.num_classes == network.architecture.space.classes
        assert (segmenter.segment(picture) == segment_with_torch(network, picture)).mean() >= 0.999
    assert opened == ["cuda:0"]


def test_unusable_engine_is_rejected(engine):
    with pytest.raises(UsageError, match="is a TensorRT engine, which onnxruntime cannot run"):
        Segmenter.open(engine, backend="onnxruntime")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="no device 'cuda:0' on this machine"):
            Segmenter.open(engine)
    engine.write_bytes(engine.read_bytes()[:500])
    with pytest.raises(FileFormatError, match=r"does not match x\.engine\.json"):
        Segmenter.open(engine)
    get_description_path(engine).unlink()
    with pytest.raises(FileFormatError, match="no such file"):
        Segmenter.open(engine)


def test_onnx_file_needs_no_torch(files):
    program = (
        "import sys, numpy\n"
        "from pathlib import Path\n"
        "from lgc.profiler.inference.segmenter import Segmenter\n"
        f"with Segmenter.open(Path({str(files['core'])!r})) as segmenter:\n"
        "    segmenter.segment(numpy.zeros((9, 9, 3), numpy.uint8))\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
