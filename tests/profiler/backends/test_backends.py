"""Conformance suite of the backends, on the CPU."""

import re

import numpy as np
import pytest
import torch

from lgc.device import Device
from lgc.errors import BackendUnavailableError, MeasurementError, UnknownNameError, UsageError
from lgc.lut import Target
from lgc.models import OpSpec
from lgc.models.space.operators import input_shapes
from lgc.profiler.backends import BACKENDS, get_backend, require_backend
from lgc.profiler.backends.base import generate_inputs, measure_layers
from lgc.profiler.timing.workloads import network_workload, operator_workload

TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 1e-1}
SPECS = [
    OpSpec("conv_3x3", 3, 8, 33, 17, 2),
    OpSpec("sep_conv_3x3_d2", 6, 6, 17, 33),
    OpSpec("max_pool_3x3", 4, 4, 17, 16, 2),
    OpSpec("add", 4, 4, 9, 9),
    OpSpec("concat", 4, 12, 9, 9),
    OpSpec("upsample", 4, 4, 33, 17, 8),
    OpSpec("argmax", 5, 1, 16, 16),
]


@pytest.fixture
def backend(cpu_backend):
    return cpu_backend


def expected(workload, inputs):
    with torch.inference_mode():
        return workload.build()(*(torch.from_numpy(x) for x in inputs)).numpy()


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_runner_output_and_latencies_are_valid(backend, spec):
    workload = operator_workload(spec)
    inputs = generate_inputs(input_shapes(spec))
    for precision in set(backend.precisions(Device("cpu"))) & set(TOLERANCE):
        runner = backend.compile(workload, Target("cpu", backend.name, precision))
        runner.prepare()
        durations = runner.run(5)
        assert len(durations) == 5
        assert all(isinstance(duration, float) and 0 < duration < 60_000 for duration in durations)
        (out,) = runner.infer(inputs)
        truth = expected(workload, inputs)
        assert (out.shape, out.dtype) == (truth.shape, truth.dtype)
        np.testing.assert_allclose(out, truth, atol=TOLERANCE[precision], rtol=TOLERANCE[precision])
        runner.close()


def test_layers_are_timed_or_refused(backend):
    reason = backend.diagnose_layers(Device("cpu"))
    runner = backend.compile(operator_workload(SPECS[0]), Target("cpu", backend.name))
    if reason is not None:
        with pytest.raises(MeasurementError, match=re.escape(reason)):
            measure_layers(runner, 1)
    else:
        layers = measure_layers(runner, 3)
        assert any("/Conv" in node for layer in layers for node in layer.nodes)
        assert all(layer.ms > 0 for layer in layers)
    runner.close()


def test_gpu_providers_of_onnxruntime_refuse_layers():
    for name in ("onnxruntime", "onnxruntime-tensorrt"):
        assert "times of kernel launches; use tensorrt" in get_backend(name).diagnose_layers(Device("cuda:0"))
    assert get_backend("tensorrt").diagnose_layers(Device("cuda:0")) is None


def test_runner_runs_whole_networks(backend, mini_space):
    for scope in ("core", "dense"):
        workload = network_workload(mini_space.sample(0), scope)
        inputs = generate_inputs(workload.input_shapes)
        runner = backend.compile(workload, Target("cpu", backend.name))
        runner.prepare()
        (out,) = runner.infer(inputs)
        if scope == "core":
            np.testing.assert_allclose(out, expected(workload, inputs), atol=1e-4)
        else:
            assert (out == expected(workload, inputs)).mean() > 0.99
        runner.close()


def test_inference_depends_on_inputs_only(backend):
    spec = SPECS[0]
    runner = backend.compile(operator_workload(spec), Target("cpu", backend.name))
    runner.prepare()
    (first,) = runner.infer([np.ones((1, 3, 33, 17), np.float32)])
    (second,) = runner.infer([np.full((1, 3, 33, 17), 2, np.float32)])
    runner.run(2)
    (repeated,) = runner.infer([np.ones((1, 3, 33, 17), np.float32)])
    assert not np.array_equal(first, second)
    assert np.array_equal(first, repeated)


def test_compilation_is_deterministic(backend):
    spec = SPECS[1]
    inputs = generate_inputs(input_shapes(spec))
    outs = [backend.compile(operator_workload(spec), Target("cpu", backend.name)).infer(inputs)[0] for _ in range(2)]
    assert np.array_equal(*outs)


def test_runner_restores_torch_threads(backend):
    before = torch.get_num_threads()
    runner = backend.compile(operator_workload(SPECS[0]), Target("cpu", backend.name, threads=1))
    runner.prepare()
    runner.run(1)
    runner.infer(generate_inputs(input_shapes(SPECS[0])))
    assert torch.get_num_threads() == before


def test_versions_are_strings(backend):
    versions = backend.versions()
    assert versions[backend.name]
    assert all(isinstance(text, str) for text in versions.values())


GPU_BACKENDS = {
    "torch": ("CUDA events", "pinned"),
    "tensorrt": ("CUDA events", "pinned"),
    "onnxruntime": ("host clock, launch included", "pageable"),
    "onnxruntime-tensorrt": ("host clock, launch included", "pageable"),
}


def test_settings_name_clock(backend):
    settings = backend.settings(Target("cpu", backend.name, threads=3))
    assert settings["clock"] == "host clock"
    assert "host_memory" not in settings
    assert "3" in settings.values()


@pytest.mark.parametrize("name", BACKENDS)
def test_gpu_settings_name_clock_and_memory(name):
    settings = get_backend(name).settings(Target("cuda:0", name))
    assert (settings["clock"], settings["host_memory"]) == GPU_BACKENDS[name]
    assert settings["tf32"] == "off"
    assert all(isinstance(text, str) for text in settings.values())


def test_cpu_runner_has_no_remarks(backend):
    assert backend.compile(operator_workload(SPECS[0]), Target("cpu", backend.name)).remarks == ()


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_describes_every_device(name):
    backend = get_backend(name)
    assert backend.name == name
    for device in ("cpu", "cuda:63"):
        assert re.search(r"(pip|apt) install \S", backend.install_hint(Device(device)))
        assert {"fp32"} <= set(backend.precisions(Device(device))) <= {"fp32", "fp16", "bf16", "int8"}
        reason = backend.diagnose(Device(device))
        assert reason is None or len(reason) > 10
    assert backend.diagnose(Device("cuda:63")) is not None


def test_unknown_backend_lists_known():
    known = ", ".join(sorted(BACKENDS))
    with pytest.raises(UnknownNameError, match=f"unknown backend 'onnxrt' .*; known: {known}"):
        get_backend("onnxrt")


def test_unavailable_backend_gives_reason():
    with pytest.raises(BackendUnavailableError, match="backend tensorrt cannot run on cpu: TensorRT needs a CUDA"):
        require_backend(Target("cpu", "tensorrt"))


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_cpu_build_of_torch_names_fix(name, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(BackendUnavailableError, match=f"backend {name} cannot run on cuda:0: .*install a CUDA build"):
        require_backend(Target("cuda:0", name))


def test_unsupported_precision_lists_supported():
    with pytest.raises(UsageError, match="backend onnxruntime has no precision 'bf16' on cpu; choose from fp32, int8"):
        require_backend(Target("cpu", "onnxruntime", "bf16"))
