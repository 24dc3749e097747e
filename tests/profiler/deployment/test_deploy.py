from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from lgc.errors import MismatchError, UsageError
from lgc.lut import LatencyTable, Predictor, Target
from lgc.models import PRESETS, Architecture, LGCNet, SearchSpace
from lgc.models.onnx.model import OnnxModel
from lgc.profiler.backends import get_backend
from lgc.profiler.deployment import deploy
from lgc.profiler.deployment.network import Network, write_onnx
from lgc.profiler.deployment.parity import IMAGES, RANDOM, Parity

ORT = Target("cpu", "onnxruntime")


@pytest.mark.parametrize("scope", ["core", "dense"])
def test_onnx_file_is_checked_static_and_says_what_it_is(mini_space, tmp_path, scope):
    architecture = mini_space.sample(1)
    path = write_onnx(Network(architecture, None, scope), tmp_path / "export")
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    notes = {prop.key: prop.value for prop in model.metadata_props}
    assert notes["scope"] == scope
    assert json.loads(notes["architecture"])["cells"] == [list(cell) for cell in architecture.cells]
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, *mini_space.input]
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)


@pytest.mark.parametrize("scope", ["core", "dense"])
def test_a_network_of_another_head_is_exported_with_it(headed_space, tmp_path, scope):
    names, choices = set(), headed_space.sample(1).choices
    for head, width in enumerate(headed_space.heads):
        architecture = Architecture.from_choices(headed_space, choices, head)
        network = Network(architecture, None, scope)
        path = write_onnx(network, tmp_path)
        names.add(path.name)
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        notes = {prop.key: prop.value for prop in model.metadata_props}
        assert Architecture.model_validate_json(without_format(notes["architecture"])) == architecture
        weights = {tuple(weight.dims) for weight in model.graph.initializer if len(weight.dims) == 4}
        assert {(width, 8, 3, 3), (headed_space.classes, width, 1, 1)} <= weights
        assert sum(np.prod(weight.dims) for weight in model.graph.initializer) >= architecture.parameters
        found = deploy.compare_with_torch(network, get_backend("onnxruntime"), ORT)
        assert found.max_abs_diff <= 1e-4
        assert found.argmax_agreement_pct >= 99.9
    assert len(names) == len(headed_space.heads), "none is written over another"


def without_format(text):
    content = json.loads(text)
    return json.dumps({key: content[key] for key in content if key not in ("format", "schema_version")})


def test_timing_holds_the_measurement_against_the_prediction(mini_space, measured_table):
    network = Network(mini_space.sample(2), None, "dense")
    with LatencyTable.open(measured_table) as table:
        result = deploy.time_network(network, ORT, table, seconds=0.2)
        assert result.table_ms == Predictor(mini_space, table).predict(network.architecture)
    assert result.runs >= 200
    assert result.error_pct == pytest.approx((result.predicted_ms / result.measured_ms - 1) * 100)
    assert result.fps == pytest.approx(1000 / result.median_ms)
    assert result.predicted_ms == pytest.approx(result.table_ms * (1 + result.drift_pct / 100))
    assert result.median_ms <= result.p90_ms <= result.p99_ms
    assert result.parity.max_abs_diff <= 1e-4
    assert result.parity.argmax_agreement_pct >= 99.9
    assert result.settings["graph_optimization"] == "all"
    told = result.as_dict()
    assert told["max_abs_diff"] == result.parity.max_abs_diff
    assert json.loads(json.dumps(told)) == told


class Wrong:
    """A backend that runs the network with other weights than it is given."""

    def __init__(self, architecture) -> None:
        torch.manual_seed(77)
        self._network = Network(architecture, LGCNet(architecture.space, architecture).state_dict(), "core")
        self._scopes = iter(("dense", "core"))

    def compile(self, workload, target):
        return get_backend("onnxruntime").compile(self._network.workload(next(self._scopes)), target)


def test_a_backend_that_computes_something_else_is_found_out(mini_space):
    network = Network(mini_space.sample(2), None, "core")
    right = deploy.compare_with_torch(network, get_backend("onnxruntime"), ORT)
    wrong = deploy.compare_with_torch(network, Wrong(network.architecture), ORT)
    for found, equal in ((right, True), (wrong, False)):
        assert deploy.TargetResult("x", "cpu", "fp32", "core", parity=found).equals_torch() == equal


def test_tables_of_other_targets_and_machines_are_refused(mini_space, measured_table, mini_lut):
    network = Network(mini_space.sample(2), None, "dense")
    with LatencyTable.open(measured_table) as table:
        with pytest.raises(MismatchError, match="backend onnxruntime, not torch"):
            deploy.time_network(network, Target("cpu", "torch"), table, seconds=0.1)
        with pytest.raises(MismatchError, match="lgc-profile --device cpu --backend torch"):
            deploy.select_targets(table, [Target("cpu", "torch")])
        assert deploy.select_targets(table, [Target("cpu", "torch"), ORT]) == [ORT]
    with LatencyTable.open(mini_lut) as table:
        table.set_metadata("environment", {**table.environment, "device_name": "Quantum Core 9"})
    with LatencyTable.open(mini_lut) as table, pytest.raises(MismatchError, match="Quantum Core 9"):
        deploy.time_network(network, ORT, table, seconds=0.1)


def test_tolerance_and_equality():
    result = deploy.TargetResult("onnxruntime", "cpu", "fp32", "core", error_pct=-6.0)
    assert not result.within(5)
    assert result.within(6)
    assert deploy.TargetResult("tensorrt", "sm_89", "fp32", "core").equals_torch()


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_built_ahead_of_time(preset, tmp_path):
    if find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip('TensorRT-RTX is missing: pip install "lgc[tensorrt-aot]"')
    architecture = SearchSpace.load(preset).sample(0)
    network = Network(architecture, None, "dense")
    result = deploy.build_engine_ahead(network, tmp_path, "fp32", None)
    assert Path(result.engine).stat().st_size > 100_000
    assert result.measured_ms is None
    assert "not run: there is no NVIDIA GPU here" in (result.note or "") or torch.cuda.is_available()


def test_weights_are_the_ones_exported(mini_space, tmp_path):
    architecture = mini_space.sample(0)
    torch.manual_seed(9)
    trained = LGCNet(mini_space, architecture).eval()
    network = Network(architecture, trained.state_dict(), "core")
    runner = get_backend("onnxruntime").compile(network.workload(), ORT)
    x = np.random.default_rng(0).standard_normal((1, 3, *mini_space.input), dtype=np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(runner.infer([x])[0], trained(torch.from_numpy(x)).numpy(), atol=1e-4)


@pytest.fixture(scope="module")
def pictures(mini_space):
    """Images of the space's size, smooth as photographs are."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (8, 4, 6, 3)).astype(np.uint8)
    height, width = mini_space.input
    return tuple(np.kron(image, np.ones((16, 16, 1), np.uint8))[:height, :width] for image in coarse)


@pytest.mark.parametrize("scope", ["core", "dense", "end-to-end"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_file_is_compared_with_torch(mini_space, pictures, tmp_path, precision, scope):
    network = Network(mini_space.sample(1), None, scope, ("a", "b"), "0123", pictures[:4])
    written = deploy.export_file(network, tmp_path, precision, pictures[4:])
    model = OnnxModel.load(Path(written["onnx"]))
    assert (model.scope, model.metadata["precision"], model.metadata["table"]) == (scope, precision, "0123")
    assert json.loads(model.metadata["classes"]) == ["a", "b"]
    assert model.architecture == network.architecture
    assert model.is_quantised == (precision == "int8")
    assert model.image_size == mini_space.input
    assert written["bytes"] == len(model.data)
    assert written["passes"]
    assert [one["source"] for one in written["agreement"]] == [RANDOM, IMAGES]


def test_int8_wants_images(mini_space, tmp_path):
    with pytest.raises(UsageError, match="--data DIR"):
        deploy.export_file(Network(mini_space.sample(1), None, "dense"), tmp_path, "int8", [])
    assert not any(tmp_path.iterdir())


def test_the_file_that_is_written_is_the_one_that_is_timed(mini_space, tmp_path):
    network = Network(mini_space.sample(1), None, "dense")
    assert write_onnx(network, tmp_path).read_bytes() == network.workload().onnx


def test_end_to_end_is_timed_without_a_prediction(mini_space, measured_table):
    network = Network(mini_space.sample(2), None, "end-to-end")
    with LatencyTable.open(measured_table) as table:
        result = deploy.time_network(network, ORT, table, seconds=0.1)
    assert result.predicted_ms is None
    assert result.measured_ms > 0
    assert result.equals_torch()


def test_outputs_beyond_the_bounds_do_not_equal_torch():
    near = Parity(1e-5, 1e-6, 1e-5, 99.95, 1, RANDOM)
    far = Parity(2e-4, 1e-6, 1e-5, 99.95, 1, RANDOM)
    assert deploy.TargetResult("x", "cpu", "fp32", "core", parity=near).equals_torch()
    assert not deploy.TargetResult("x", "cpu", "fp32", "core", parity=far).equals_torch()
    assert deploy.TargetResult("x", "cpu", "int8", "core", parity=far).equals_torch()
