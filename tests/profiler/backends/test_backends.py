"""What every backend has to keep on every device that it offers; here on the CPU."""

import numpy as np
import pytest
import torch
from torch import nn

from lgc.errors import BackendUnavailableError, MeasurementError, UnknownNameError, UsageError
from lgc.lut import Target
from lgc.models import OpSpec
from lgc.models.space.operators import input_shapes
from lgc.profiler.backends import BACKENDS, Workload, get_backend, require_backend
from lgc.profiler.backends.base import generate_inputs
from lgc.profiler.backends.default import default_backend
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


@pytest.fixture(params=["torch", "onnxruntime"])
def backend(request):
    found = get_backend(request.param)
    reason = found.diagnose("cpu")
    if reason is not None:
        pytest.skip(reason)
    return found


@pytest.fixture
def without(monkeypatch):
    """Makes a package look as if it were not installed."""
    return lambda name: monkeypatch.setitem(__import__("sys").modules, name, None)


def expected(workload, inputs):
    with torch.inference_mode():
        return workload.build()(*(torch.from_numpy(x) for x in inputs)).numpy()


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_runner_output_and_latencies_are_valid(backend, spec):
    workload = operator_workload(spec)
    inputs = generate_inputs(input_shapes(spec))
    for precision in set(backend.precisions("cpu")) & set(TOLERANCE):
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
    (one,) = runner.infer([np.ones((1, 3, 33, 17), np.float32)])
    (two,) = runner.infer([np.full((1, 3, 33, 17), 2, np.float32)])
    runner.run(2)
    (again,) = runner.infer([np.ones((1, 3, 33, 17), np.float32)])
    assert not np.array_equal(one, two)
    assert np.array_equal(one, again)


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


def test_torch_uses_target_threads():
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return x

    for threads in (1, 2):
        runner = get_backend("torch").compile(Workload("spy", ((1, 1),), Spy), Target("cpu", "torch", threads=threads))
        runner.run(2)
        assert set(seen) == {threads}
        seen.clear()


def test_versions_are_strings(backend):
    versions = backend.versions()
    assert versions[backend.name]
    assert all(isinstance(text, str) for text in versions.values())


def test_failing_torch_module_is_an_error():
    workload = Workload("mismatch", ((1, 3, 8, 8),), lambda: nn.Conv2d(4, 4, 1))
    runner = get_backend("torch").compile(workload, Target("cpu", "torch"))
    for work in (runner.prepare, lambda: runner.run(1), lambda: runner.infer(workload.inputs())):
        with pytest.raises(MeasurementError, match=r"^torch: Given groups=1, weight of size"):
            work()


def test_torch_out_of_memory_is_an_error():
    class Large(nn.Module):
        def forward(self, x):
            return x.new_zeros(2**45)

        def to(self, *_):
            return self.forward(torch.zeros(1))

    with pytest.raises(MeasurementError, match=r"^not enough memory: torch: .*can't allocate memory"):
        get_backend("torch").compile(Workload("large", ((1, 1),), Large), Target("cpu", "torch"))


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


def test_invalid_onnx_graph_is_named():
    pytest.importorskip("onnxruntime")
    workload = operator_workload(SPECS[0])
    workload.__dict__["onnx"] = b"no graph"
    with pytest.raises(MeasurementError, match=r"ONNX Runtime rejects .*conv_3x3/c3-8/33x17/s2/b1: "):
        get_backend("onnxruntime").compile(workload, Target("cpu", "onnxruntime"))


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_describes_every_device(name):
    backend = get_backend(name)
    assert backend.name == name
    for device in ("cpu", "cuda:63"):
        assert {"fp32"} <= set(backend.precisions(device)) <= {"fp32", "fp16", "bf16", "int8"}
        reason = backend.diagnose(device)
        assert reason is None or len(reason) > 10
    assert backend.diagnose("cuda:63") is not None


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


def test_missing_provider_gives_install_command(monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    reason = get_backend("onnxruntime").diagnose("cuda:0")
    assert reason.startswith("this ONNX Runtime has no CUDAExecutionProvider: ")
    assert "pip install onnxruntime-gpu" in reason


@pytest.mark.parametrize(("device", "package"), [("cpu", "onnxruntime"), ("cuda:0", "onnxruntime-gpu")])
def test_missing_onnx_runtime_gives_install_command(without, device, package):
    without("onnxruntime")
    assert get_backend("onnxruntime").diagnose(device).endswith(f"pip install {package}")


def test_unsupported_precision_lists_supported():
    with pytest.raises(UsageError, match="backend onnxruntime has no precision 'bf16' on cpu; choose from fp32, int8"):
        require_backend(Target("cpu", "onnxruntime", "bf16"))


def test_default_backend_is_first_available(without):
    assert default_backend("cpu") == "onnxruntime"
    without("onnxruntime")
    assert default_backend("cpu") == "torch"


def test_no_default_backend_gives_every_reason(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(BackendUnavailableError, match=r"no backend runs on cuda:0: tensorrt: .*; torch: .*CPU build"):
        default_backend("cuda:0")
