"""Export: settings, targets, files and failures."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lgc.device import Device
from lgc.errors import DeviceError, MismatchError, UsageError
from lgc.lut import LatencyTable, Target
from lgc.models.onnx.model import OnnxModel
from lgc.profiler.deployment import export
from lgc.profiler.deployment.export import (
    ExportResult,
    ExportSettings,
    FileResult,
    check_table_target,
    choose_targets,
    export_file,
    export_network,
)
from lgc.profiler.deployment.latency import TargetResult
from lgc.profiler.deployment.network import Network
from lgc.profiler.deployment.parity import IMAGES, RANDOM, Parity
from lgc.profiler.inference.prediction import find_exported_file

ORT = Target("cpu", "onnxruntime")


@pytest.fixture(scope="module")
def pictures(mini_space):
    """Return smooth images of the space's size, like photographs."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (8, 4, 6, 3)).astype(np.uint8)
    height, width = mini_space.input
    return tuple(np.kron(image, np.ones((16, 16, 1), np.uint8))[:height, :width] for image in coarse)


@pytest.fixture
def architecture(mini_space, tmp_path) -> Path:
    mini_space.sample(1).save(tmp_path / "a.json")
    return tmp_path / "a.json"


@pytest.mark.parametrize("scope", ["core", "dense", "end-to-end"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_file_is_compared_with_torch(mini_space, pictures, tmp_path, precision, scope):
    network = Network(mini_space.sample(1), None, scope, ("a", "b"), "0123", pictures[:4])
    file = export_file(network, tmp_path, precision, pictures[4:])
    model = OnnxModel.load(Path(file.onnx))
    assert (model.own_scope, model.metadata["precision"], model.metadata["table"]) == (scope, precision, "0123")
    assert json.loads(model.metadata["classes"]) == ["a", "b"]
    assert model.architecture == network.architecture
    assert model.is_quantised == (precision == "int8")
    assert model.image_input().size == mini_space.input
    assert file.bytes == len(model.data)
    assert file.passes
    assert [remark.startswith("warning") for remark in file.remarks] == [False] * (precision == "fp16")
    assert [parity.source for parity in file.parity] == [RANDOM, IMAGES]
    assert list(file.as_dict()) == ["onnx", "precision", "bytes", "agreement", "passes", "remarks"]


def test_file_that_differs_from_torch_is_marked(mini_space, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "is_within_tolerance", lambda *args, **options: False)
    file = export_file(Network(mini_space.sample(1), None, "dense"), tmp_path / "export", "fp32")
    assert not file.passes
    assert OnnxModel.load(Path(file.onnx)).metadata["parity"] == "failed"
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(UsageError, match="differs from torch by more than its precision allows: export in fp32"):
        find_exported_file(tmp_path)


def test_export_runs_from_settings_to_result(architecture, measured_table, tmp_path):
    for index in range(3):
        Image.fromarray(np.full((9, 9, 3), 80 * index, np.uint8)).save(tmp_path / f"{index}.png")
    remarks = []
    settings = ExportSettings(
        source=architecture,
        table=measured_table,
        backends=("onnxruntime", "torch"),
        precisions=("fp32", "bf16"),
        comparison_images=sorted(tmp_path.glob("*.png")),
        seconds=0.1,
    )
    with pytest.raises(UsageError, match="no precision 'bf16'"):
        export_network(settings, log=remarks.append)
    assert not (tmp_path / "export").exists(), "rejected before anything is written"
    result = export_network(ExportSettings(**{**vars(settings), "precisions": ("fp32",)}), log=remarks.append)
    (file,) = result.files
    assert Path(file.onnx).parent == tmp_path / "export"
    assert [parity.images for parity in file.parity] == [1, 3]
    predicted, other = result.targets
    assert (predicted.backend, other.backend) == ("onnxruntime", "torch")
    assert predicted.error_pct is not None
    assert other.predicted_ms is None
    assert any(remark.startswith("no prediction for cpu, torch") for remark in remarks)
    assert result.as_dict()["onnx"] == file.onnx


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compute_capability": "8.9"}, "add --backend tensorrt"),
        ({"device": "cpu"}, "need a backend to run on"),
        ({"threads": 2}, "need a backend to run on"),
        ({"backends": ("tensorrt",), "compute_capability": "8.9", "device": "cpu"}, "need a backend to run on"),
        ({"precisions": ("fp32", "int8")}, "int8 needs images"),
        ({"tolerance_pct": 5.0}, "--tolerance requires .* a latency table"),
        ({"layers": True}, "--layers requires .* a latency table"),
        ({"layers": True, "scope": "end-to-end"}, "not end-to-end"),
    ],
)
def test_contradicting_settings_are_rejected(architecture, options, message):
    with pytest.raises(UsageError, match=message):
        export_network(ExportSettings(source=architecture, **options), log=lambda line: None)
    assert not (architecture.parent / "export").exists()


def test_check_without_matching_target_is_rejected(architecture, measured_table):
    settings = ExportSettings(source=architecture, table=measured_table, backends=("torch",), tolerance_pct=5.0)
    with pytest.raises(MismatchError, match="lgc-profile --device cpu --backend torch"):
        export_network(settings, log=lambda line: None)


@pytest.fixture
def table_of_another_machine(measured_table, tmp_path) -> Path:
    path = tmp_path / "z80.lut"
    shutil.copy(measured_table, path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE meta SET value = json_set(value, '$.device_name', 'Z80') WHERE key = 'environment'")
    return path


def test_table_of_another_machine_is_refused_first(architecture, table_of_another_machine):
    settings = ExportSettings(source=architecture, table=table_of_another_machine, backends=("onnxruntime",))
    with pytest.raises(MismatchError, match="was measured on Z80, this is "):
        export_network(settings, log=lambda line: None)
    assert not (architecture.parent / "export").exists()


def test_search_on_another_machine_leaves_export(mini_space, table_of_another_machine, tmp_path):
    path = tmp_path / "a.json"
    mini_space.sample(1).with_provenance({"table": str(table_of_another_machine)}).save(path)
    remarks = []
    settings = ExportSettings(source=path, backends=("onnxruntime",), seconds=0.1)
    (result,) = export_network(settings, log=remarks.append).targets
    assert result.predicted_ms is None
    assert any("no prediction for cpu, onnxruntime" in line and "Z80" in line for line in remarks)
    with pytest.raises(MismatchError, match="was measured on Z80"):
        export_network(replace(settings, tolerance_pct=5.0), log=remarks.append)


def test_table_must_match_one_target(measured_table):
    torch = Target("cpu", "torch")
    with LatencyTable.open(measured_table) as table:
        check_table_target(table, [torch, ORT])
        check_table_target(table, [])
        with pytest.raises(MismatchError, match=r"backend onnxruntime, not torch\. Leave out --lut, or make"):
            check_table_target(table, [torch])


class TestTargets:
    """Targets of an export, on machines with and without GPUs."""

    @pytest.fixture(autouse=True)
    def _any_backend(self, monkeypatch):
        monkeypatch.setattr(export, "require_backend", lambda target: None)

    @pytest.fixture
    def gpus(self, monkeypatch):
        """Return a function that makes this machine have the given GPUs."""

        def set_gpus(*names):
            devices = [Device(name) for name in ("cpu", *names)]

            def check_device(name):
                if Device(name) not in devices:
                    raise DeviceError(name)
                return Device(name)

            monkeypatch.setattr(export, "list_devices", lambda: dict.fromkeys(devices, "model"))
            monkeypatch.setattr(export, "check_device", check_device)

        return set_gpus

    def choose(self, table=None, **options):
        return [str(target) for target in choose_targets(ExportSettings(source=Path("a.json"), **options), table)]

    def test_precision_comes_before_backend(self, gpus):
        gpus()
        assert self.choose(backends=("onnxruntime", "torch"), precisions=("fp32", "fp16"), threads=2) == [
            f"cpu, {backend}, {precision}, 2 threads"
            for precision in ("fp32", "fp16")
            for backend in ("onnxruntime", "torch")
        ]

    def test_tensorrt_needs_a_gpu(self, gpus):
        gpus()
        assert self.choose(backends=("tensorrt",)) == []
        with pytest.raises(DeviceError):
            self.choose(backends=("tensorrt",), device="cuda:0")
        gpus("cuda:0", "cuda:1")
        assert self.choose(backends=("tensorrt",)) == ["cuda:0, tensorrt, fp32"]
        assert self.choose(backends=("tensorrt",), device="cpu") == ["cuda:0, tensorrt, fp32"]
        assert self.choose(backends=("tensorrt",), device="cuda:1") == ["cuda:1, tensorrt, fp32"]
        assert self.choose(backends=("tensorrt",), compute_capability="8.9") == []

    def test_table_sets_default_device(self, gpus, make_table, mini_space):
        with make_table(mini_space, target=Target("cuda:1", "torch")) as table:
            gpus("cuda:0", "cuda:1")
            assert self.choose(table, backends=("torch", "tensorrt")) == [
                "cuda:1, torch, fp32", "cuda:1, tensorrt, fp32"
            ]  # fmt: skip
            gpus()
            assert self.choose(table, backends=("tensorrt",)) == [], "built ahead of time"
            with pytest.raises(DeviceError):
                self.choose(table, backends=("torch",))


def test_failures_name_file_target_and_error():
    parity = Parity(2e-4, 1e-6, 1e-5, 99.0, 1, RANDOM)
    files = (FileResult("a.onnx", "fp32", 1, (parity,), False),)
    numbers = {"predicted_ms": 1.1, "measured_ms": 1.0, "error_pct": 10.0}
    result = ExportResult(files, (TargetResult("torch", "cpu", "fp32", "dense", parity=parity, **numbers),))
    file, outputs, prediction = result.list_failures(5.0)
    assert file.startswith("a.onnx: outputs differ from torch")
    assert outputs.endswith("99.00 % of pixels have torch's class, logits within 2.0e-04")
    assert prediction == "torch on cpu: predicted 1.100 ms, measured 1.000 ms: error +10.0 %, more than 5 %"
    assert len(result.list_failures(None)) == 2


def test_missing_device_of_the_table_is_explained(make_table, mini_space):
    settings = ExportSettings(source=Path("a.json"), backends=("torch",))
    table = make_table(mini_space, target=Target("cuda:63", "torch"))
    with pytest.raises(DeviceError, match=r"no device 'cuda:63'.*\(the device of .*t\.lut\); .*--device cpu"):
        choose_targets(settings, table)
