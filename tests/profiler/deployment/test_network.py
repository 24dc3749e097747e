"""Networks as ONNX files: graph, metadata, weights."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch

from lgc.errors import FileFormatError, UsageError
from lgc.lut import Target
from lgc.models import Architecture, LGCNet
from lgc.models.nets.state.weights import save_weights
from lgc.profiler.backends import get_backend
from lgc.profiler.deployment.network import Network, load_network, write_onnx
from lgc.profiler.deployment.parity import compare_backend

ORT = Target("cpu", "onnxruntime")


@pytest.mark.parametrize("scope", ["core", "dense"])
def test_onnx_file_is_valid_and_described(mini_space, tmp_path, scope):
    architecture = mini_space.sample(1)
    path = write_onnx(Network(architecture, None, scope), tmp_path / "export")
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    assert metadata["scope"] == scope
    assert json.loads(metadata["architecture"])["cells"] == [list(cell) for cell in architecture.cells]
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, *mini_space.input]
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)


@pytest.mark.parametrize("scope", ["core", "dense"])
def test_every_head_width_has_its_file(headed_space, tmp_path, scope):
    names, choices = set(), headed_space.sample(1).choices
    for head, width in enumerate(headed_space.heads):
        architecture = headed_space.build([*choices[:-1], head])
        network = Network(architecture, None, scope)
        path = write_onnx(network, tmp_path)
        names.add(path.name)
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        metadata = {prop.key: prop.value for prop in model.metadata_props}
        assert Architecture.parse(metadata["architecture"], "metadata") == architecture
        weights = {tuple(weight.dims) for weight in model.graph.initializer if len(weight.dims) == 4}
        assert {(width, 8, 3, 3), (headed_space.classes, width, 1, 1)} <= weights
        assert sum(np.prod(weight.dims) for weight in model.graph.initializer) >= architecture.parameters
        parity = compare_backend(network, get_backend("onnxruntime"), ORT)
        assert parity.max_abs_diff <= 1e-4
        assert parity.argmax_agreement_pct >= 99.9
    assert len(names) == len(headed_space.heads)


def test_trained_weights_are_exported(mini_space):
    architecture = mini_space.sample(0)
    torch.manual_seed(9)
    trained = LGCNet(mini_space, architecture).eval()
    network = Network(architecture, trained.state_dict(), "core")
    runner = get_backend("onnxruntime").compile(network.workload(), ORT)
    x = np.random.default_rng(0).standard_normal((1, 3, *mini_space.input), dtype=np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(runner.infer([x])[0], trained(torch.from_numpy(x)).numpy(), atol=1e-4)


def test_written_model_is_the_timed_one(mini_space, tmp_path):
    network = Network(mini_space.sample(1), None, "dense")
    assert write_onnx(network, tmp_path).read_bytes() == network.workload().onnx


def test_int8_needs_images(mini_space, tmp_path):
    with pytest.raises(UsageError, match="--data DIR"):
        write_onnx(Network(mini_space.sample(1), None, "dense"), tmp_path, "int8")
    assert not any(tmp_path.iterdir())


def test_run_folder_gives_weights_and_classes(mini_space, tmp_path):
    architecture, remarks = mini_space.sample(0), []
    architecture.save(tmp_path / "architecture.json")
    assert load_network(tmp_path, "dense", remarks.append).weights is None
    assert remarks == ["random weights: the latency is valid, the output is not"]
    save_weights(LGCNet(mini_space, architecture), tmp_path / "weights.safetensors")
    assert load_network(tmp_path, "dense").classes is None
    result = {"miou": 50.0, "per_class": {"road": 50.0, "sky": None}, "scored_on": "val", "scored_at": [32, 48]}
    (tmp_path / "train-result.json").write_text(json.dumps(result))
    network = load_network(tmp_path, "dense")
    assert network.weights is not None
    assert network.classes == ("road", "sky")
    assert load_network(tmp_path / "architecture.json", "dense", remarks.append).weights is None
    (tmp_path / "train-result.json").write_text("{")
    with pytest.raises(FileFormatError, match="damaged training result"):
        load_network(tmp_path, "dense")
