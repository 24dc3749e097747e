"""int8: quantised operators, ranges, and parity with torch, on a trained network."""

import logging
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from lgc.errors import DataError, FileFormatError, MeasurementError
from lgc.models.images import normalise_image
from lgc.models.onnx.export import replace_metadata, simplify
from lgc.profiler.backends.trt.engine import build_engine
from lgc.profiler.deployment.parity import (
    IMAGES,
    compare_outputs,
    compute_file_outputs,
    compute_reference,
    is_within_tolerance,
)
from lgc.profiler.deployment.quantization import CALIBRATION_IMAGES, PERCENTILE, quantize
from lgc.profiler.timing.workloads import network_module, network_workload

Q, DQ = "QuantizeLinear", "DequantizeLinear"


def exported(trained, scope):
    return simplify(network_workload(trained.architecture, scope, trained.weights).onnx)


@pytest.fixture(scope="module")
def inputs(trained):
    return [normalise_image(frame) for frame in trained.frames]


@pytest.fixture(scope="module")
def plain(trained):
    return exported(trained, "dense")


@pytest.fixture(scope="module")
def int8(plain, inputs):
    return quantize(plain, inputs)


class Graph:
    """Nodes of a model by their outputs, and its weights."""

    def __init__(self, model):
        self.graph = onnx.load_model_from_string(model).graph
        self.made_by = {name: node for node in self.graph.node for name in node.output}
        self.weights = {tensor.name: tensor for tensor in self.graph.initializer}

    def nodes(self, *kinds):
        return [node for node in self.graph.node if node.op_type in kinds]

    def value(self, name):
        return numpy_helper.to_array(self.weights[name])

    def takers(self, name):
        return [node.op_type for node in self.graph.node if name in node.input]

    @property
    def input_scale(self):
        return next(float(self.value(n.input[1])) for n in self.nodes(Q) if n.input[0] == "input_0")


@pytest.mark.parametrize("scope", ["dense", "end-to-end"])
def test_int8_keeps_the_classes_of_unseen_scenes(trained, inputs, scope):
    frames = scope == "end-to-end"
    reference = compute_reference(
        network_module(trained.architecture, "dense", trained.weights),
        trained.unseen if frames else [normalise_image(frame) for frame in trained.unseen],
        IMAGES,
    )
    core = quantize(exported(trained, "core"), inputs)
    whole = quantize(exported(trained, scope), trained.frames if frames else inputs)
    parity = compare_outputs(
        reference, compute_file_outputs(whole, reference.inputs), compute_file_outputs(core, reference.tensors)
    )
    assert is_within_tolerance("int8", parity), parity
    assert parity.argmax_agreement_pct >= 98
    assert parity.max_abs_diff > 1e-2, "nothing was rounded"


def test_only_convolutions_are_quantised(plain, int8):
    before, after = Graph(plain), Graph(int8)
    kinds = {node.name: node.op_type for node in before.graph.node}
    assert {node.name: node.op_type for node in after.graph.node if node.op_type not in (Q, DQ)} == kinds
    for conv in after.nodes("Conv"):
        data, weight, bias = conv.input
        assert after.made_by[data].op_type == DQ
        assert after.made_by[data].input[0] in after.made_by, "activations are quantised in the graph"
        stored, scales, zeros = map(after.value, after.made_by[weight].input)
        assert stored.dtype == np.int8
        assert scales.shape == (len(stored),), "one scale per output channel"
        assert not zeros.any()
        assert abs(stored.astype(int)).max() == 127
        assert stored.min() >= -127
        np.testing.assert_allclose(
            stored * scales.reshape(-1, 1, 1, 1), before.value(find_weight(before, conv)), atol=scales.max()
        )
        assert after.weights[bias].data_type == TensorProto.FLOAT
        assert after.takers(conv.output[0]) in (["Relu"], ["Resize"]), "a Q between Conv and Relu prevents their fusion"
    taken = {node.input[0] for node in after.nodes(Q)}
    assert taken <= {name for conv in before.nodes("Conv") for name in conv.input}
    assert all(after.made_by[node.input[0]].op_type not in (Q, DQ) for node in after.nodes("ArgMax"))


def find_weight(before, conv):
    return next(node.input[1] for node in before.nodes("Conv") if node.name == conv.name)


def test_activations_are_symmetric(int8):
    graph = Graph(int8)
    for node in graph.nodes(Q):
        scale, zero = graph.value(node.input[1]), graph.value(node.input[2])
        assert zero.dtype == np.int8
        assert zero.shape == scale.shape == ()
        assert zero == 0
        assert scale > 0


def test_ranges_come_from_images(plain, inputs, int8, trained):
    values = np.abs(np.stack(inputs))
    assert Graph(int8).input_scale == pytest.approx(np.percentile(values, PERCENTILE) / 127, rel=0.02)
    faint = quantize(plain, [image * np.float32(0.1) for image in inputs])
    assert Graph(faint).input_scale == pytest.approx(Graph(int8).input_scale / 10, rel=0.02)
    unseen = [normalise_image(frame) for frame in trained.unseen[:4]]
    reference = compute_reference(network_module(trained.architecture, "dense", trained.weights), unseen, IMAGES)
    assert not is_within_tolerance("int8", compare_outputs(reference, compute_file_outputs(faint, unseen)))


def test_all_images_determine_the_ranges(plain, inputs):
    outlier = inputs[0] * np.float32(3)
    for images in ([outlier, inputs[0]], [inputs[0], outlier]):
        assert Graph(quantize(plain, images)).input_scale > 2 * Graph(quantize(plain, inputs[:1])).input_scale


def test_images_are_normalised_before_quantisation(trained):
    graph = Graph(quantize(exported(trained, "end-to-end"), trained.frames[:2]))
    assert graph.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    first = graph.nodes("Conv")[0]
    name, path = first.input[0], []
    while name in graph.made_by:
        path.append(graph.made_by[name].op_type)
        name = graph.made_by[name].input[0]
    assert path == [DQ, Q, "Add", "Mul", "Transpose", "Cast"]


def test_metadata_and_interface_are_kept(plain, inputs):
    notes = {"architecture": "{}", "scope": "dense"}
    before = onnx.load_model_from_string(replace_metadata(plain, notes))
    after = onnx.load_model_from_string(quantize(before.SerializeToString(), inputs[:1]))
    onnx.checker.check_model(after, full_check=True)
    assert {entry.key: entry.value for entry in after.metadata_props} == notes
    assert (after.ir_version, list(after.opset_import)) == (before.ir_version, list(before.opset_import))
    for side in ("input", "output"):
        assert list(getattr(after.graph, side)) == list(getattr(before.graph, side))


class LazyImages(Sequence):
    """Images that are read on access."""

    def __init__(self, image, count):
        self.image, self.count, self.read = image, count, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.read.append(index)
        return self.image


def test_many_images_are_sampled_evenly(plain, inputs):
    images = LazyImages(inputs[0], 3 * CALIBRATION_IMAGES + 1)
    quantize(plain, images)
    assert len(images.read) == len(set(images.read)) == CALIBRATION_IMAGES
    assert (images.read[0], images.read[-1]) == (0, 3 * CALIBRATION_IMAGES)
    assert set(np.diff(images.read)) <= {3, 4}


def test_quantiser_leaves_no_output_or_files(plain, inputs, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = logging.root.handlers[:], logging.root.level, logging.root.manager.disable
    capfd.readouterr()
    quantize(plain, inputs[:1])
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
    assert (logging.root.handlers, logging.root.level, logging.root.manager.disable) == before


def test_image_of_one_colour_is_accepted(plain, inputs):
    blank = quantize(plain, [np.zeros_like(inputs[0])])
    assert compute_file_outputs(blank, inputs[:1])[0].shape == (1, 64, 96)


def test_invalid_models_and_images_are_rejected(plain, inputs, int8):
    with pytest.raises(MeasurementError, match="net is quantised"):
        quantize(int8, inputs, "net")
    with pytest.raises(DataError, match="cannot quantise net without images"):
        quantize(plain, [], "net")
    with pytest.raises(
        DataError, match="image 1 for the ranges of net is float32 1x3x64x64, expected input_0 float32 1x3x64x96"
    ):
        quantize(plain, [inputs[0], inputs[0][..., :64]], "net")
    with pytest.raises(DataError, match="image 0 for the ranges of the model is uint8 1x64x96x3"):
        quantize(plain, [np.zeros((1, 64, 96, 3), np.uint8)])
    with pytest.raises(DataError, match="image 0 for the ranges of net has NaN or infinite values"):
        quantize(plain, [inputs[0] * np.float32(np.nan)], "net")
    with pytest.raises(FileFormatError, match="cannot read ONNX model net"):
        quantize(b"garbage", inputs, "net")


@pytest.mark.skipif(
    find_spec("tensorrt_rtx_bindings") is None, reason='TensorRT-RTX is missing: pip install "lgc[tensorrt-aot]"'
)
@pytest.mark.parametrize("scope", ["core", "dense"])
def test_tensorrt_builds_quantised_models(trained, inputs, scope):
    model = quantize(exported(trained, scope), inputs[:1])
    assert build_engine(model, compute_capability="8.9").layers
