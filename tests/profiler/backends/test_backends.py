"""What every backend has to keep on every device that it offers; here on the CPU."""

import numpy as np
import pytest
import torch
from torch import nn

from lgc.errors import BackendUnavailableError, MeasurementError, UnknownNameError, UsageError
from lgc.lut import Target
from lgc.models import OpSpec
from lgc.models.space.operators import input_shapes
from lgc.profiler.backends import BACKENDS, Workload, get_backend, require
from lgc.profiler.backends.base import random_inputs
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


@pytest.fixture(params=BACKENDS)
def backend(request):
    found = get_backend(request.param)
    reason = found.unavailable("cpu")
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
def test_a_runner_computes_what_the_module_computes_and_times_it(backend, spec):
    workload = operator_workload(spec)
    inputs = random_inputs(input_shapes(spec))
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


def test_a_runner_runs_whole_networks(backend, mini_space):
    for scope in ("core", "dense"):
        workload = network_workload(mini_space.sample(0), scope)
        inputs = random_inputs(workload.input_shapes)
        runner = backend.compile(workload, Target("cpu", backend.name))
        runner.prepare()
        (out,) = runner.infer(inputs)
        if scope == "core":
            np.testing.assert_allclose(out, expected(workload, inputs), atol=1e-4)
        else:
            assert (out == expected(workload, inputs)).mean() > 0.99
        runner.close()


def test_inferring_does_not_change_what_is_timed_and_inputs_matter(backend):
    spec = SPECS[0]
    runner = backend.compile(operator_workload(spec), Target("cpu", backend.name))
    runner.prepare()
    (one,) = runner.infer([np.ones((1, 3, 33, 17), np.float32)])
    (two,) = runner.infer([np.full((1, 3, 33, 17), 2, np.float32)])
    runner.run(2)
    (again,) = runner.infer([np.ones((1, 3, 33, 17), np.float32)])
    assert not np.array_equal(one, two)
    assert np.array_equal(one, again)


def test_two_compilations_compute_the_same(backend):
    spec = SPECS[1]
    inputs = random_inputs(input_shapes(spec))
    outs = [backend.compile(operator_workload(spec), Target("cpu", backend.name)).infer(inputs)[0] for _ in range(2)]
    assert np.array_equal(*outs)


def test_threads_are_the_targets_and_torchs_own_are_given_back(backend):
    before = torch.get_num_threads()
    runner = backend.compile(operator_workload(SPECS[0]), Target("cpu", backend.name, threads=1))
    runner.prepare()
    runner.run(1)
    runner.infer(random_inputs(input_shapes(SPECS[0])))
    assert torch.get_num_threads() == before


def test_torch_really_uses_the_targets_threads():
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


def test_versions_are_text(backend):
    versions = backend.versions()
    assert versions[backend.name]
    assert all(isinstance(text, str) for text in versions.values())


def test_a_module_that_torch_cannot_run_is_a_measurement_error():
    workload = Workload("mismatch", ((1, 3, 8, 8),), lambda: nn.Conv2d(4, 4, 1))
    runner = get_backend("torch").compile(workload, Target("cpu", "torch"))
    for work in (runner.prepare, lambda: runner.run(1), lambda: runner.infer(workload.inputs())):
        with pytest.raises(MeasurementError, match=r"^torch: Given groups=1, weight of size"):
            work()


def test_a_module_for_which_torch_has_no_memory_is_a_measurement_error():
    class Large(nn.Module):
        def forward(self, x):
            return x.new_zeros(2**45)

        def to(self, *_):
            return self.forward(torch.zeros(1))

    with pytest.raises(MeasurementError, match=r"^too little memory: torch: .*can't allocate memory"):
        get_backend("torch").compile(Workload("large", ((1, 1),), Large), Target("cpu", "torch"))


GPU_BACKENDS = {
    "torch": ("CUDA events", "pinned"),
    "tensorrt": ("CUDA events", "pinned"),
    "onnxruntime": ("host clock, launch included", "pageable"),
    "onnxruntime-tensorrt": ("host clock, launch included", "pageable"),
}


def test_settings_tell_the_clock(backend):
    settings = backend.settings(Target("cpu", backend.name, threads=3))
    assert settings["clock"] == "host clock"
    assert "host_memory" not in settings
    assert "3" in settings.values()


@pytest.mark.parametrize("name", BACKENDS)
def test_settings_on_a_gpu_tell_the_clock_and_the_memory_that_copies_are_from(name):
    settings = get_backend(name).settings(Target("cuda:0", name))
    assert (settings["clock"], settings["host_memory"]) == GPU_BACKENDS[name]
    assert settings["tf32"] == "off"
    assert all(isinstance(text, str) for text in settings.values())


def test_there_is_nothing_to_remark_of_a_runner(backend):
    assert backend.compile(operator_workload(SPECS[0]), Target("cpu", backend.name)).remarks == ()


def test_a_graph_that_onnx_runtime_cannot_load_is_a_measurement_error_with_its_name():
    pytest.importorskip("onnxruntime")
    workload = operator_workload(SPECS[0])
    workload.__dict__["onnx"] = b"no graph"
    with pytest.raises(MeasurementError, match=r"ONNX Runtime refuses .*conv_3x3/c3-8/33x17/s2/b1: "):
        get_backend("onnxruntime").compile(workload, Target("cpu", "onnxruntime"))


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_has_a_name_and_precisions_and_answers_for_every_device(name):
    backend = get_backend(name)
    assert backend.name == name
    for device in ("cpu", "cuda:63"):
        assert {"fp32"} <= set(backend.precisions(device)) <= {"fp32", "fp16", "bf16", "int8"}
        reason = backend.unavailable(device)
        assert reason is None or len(reason) > 10
    assert backend.unavailable("cuda:63") is not None


def test_an_unknown_backend_lists_the_known_ones():
    known = ", ".join(sorted(BACKENDS))
    with pytest.raises(UnknownNameError, match=f"unknown backend 'onnxrt' .*; known: {known}"):
        get_backend("onnxrt")


def test_a_backend_that_cannot_run_there_says_why():
    with pytest.raises(BackendUnavailableError, match="backend tensorrt cannot run on cpu: TensorRT needs a CUDA"):
        require(Target("cpu", "tensorrt"))


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_a_torch_for_the_cpu_names_the_mend(name, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(BackendUnavailableError, match=f"backend {name} cannot run on cuda:0: .*install a CUDA build"):
        require(Target("cuda:0", name))


def test_an_onnx_runtime_without_the_provider_names_the_command(monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    reason = get_backend("onnxruntime").unavailable("cuda:0")
    assert reason.startswith("this ONNX Runtime has no CUDAExecutionProvider: ")
    assert "pip install onnxruntime-gpu" in reason


@pytest.mark.parametrize(("device", "package"), [("cpu", "onnxruntime"), ("cuda:0", "onnxruntime-gpu")])
def test_a_missing_onnx_runtime_names_the_command(without, device, package):
    without("onnxruntime")
    assert get_backend("onnxruntime").unavailable(device).endswith(f"pip install {package}")


def test_an_unsupported_precision_lists_the_offered_ones():
    with pytest.raises(UsageError, match="backend onnxruntime has no precision 'bf16'; it offers fp32, int8 on cpu"):
        require(Target("cpu", "onnxruntime", "bf16"))


def test_the_default_backend_is_the_first_that_runs(without):
    assert default_backend("cpu") == "onnxruntime"
    without("onnxruntime")
    assert default_backend("cpu") == "torch"


def test_no_default_backend_gives_each_ones_reason(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(BackendUnavailableError, match=r"no backend runs on cuda:0: tensorrt: .*; torch: .*CPU build"):
        default_backend("cuda:0")


def test_random_inputs_are_the_same_each_time_and_no_zeros():
    one, two = random_inputs([(2, 3), (4,)]), random_inputs([(2, 3), (4,)])
    assert [x.shape for x in one] == [(2, 3), (4,)]
    assert all(np.array_equal(x, y) for x, y in zip(one, two, strict=True))
    assert all(x.std() > 0.1 and x.dtype == np.float32 for x in one)
