"""Loading, capture, timing and release of an engine, on simulated CUDA and TensorRT; real ones are in tests/gpu."""

from types import SimpleNamespace

import numpy as np
import pytest

from lgc.device import Device
from lgc.errors import BackendUnavailableError, MeasurementError
from lgc.profiler.backends.base import generate_inputs, measure_layers
from lgc.profiler.backends.cuda import device as cuda_place
from lgc.profiler.backends.cuda import driver as cuda_driver
from lgc.profiler.backends.cuda.graph import NUM_WARM_UP_RUNS
from lgc.profiler.backends.cuda.replay_queue import (
    BASE_QUEUE_US,
    DECAY,
    INITIAL_LAUNCH_US,
    MAX_ATTEMPTS,
    MIN_FACTOR,
    get_spin_calibration,
)
from lgc.profiler.backends.trt import runner as trt_runner
from lgc.profiler.backends.trt.engine import Engine
from lgc.profiler.backends.trt.loader import FULL, RTX, Library
from lgc.profiler.backends.trt.runner import EngineRunner

from ...simulated_cuda import NO_MEMORY, NOT_CAPTURED, REPLAY_MS, SHAPE, STREAM, USER_MANAGED, Cuda, SimulatedEngine


@pytest.fixture
def cuda(monkeypatch):
    simulated = Cuda()
    monkeypatch.setattr(cuda_place, "_import_driver", lambda: simulated.driver)
    monkeypatch.setattr(cuda_driver, "_import_bindings", lambda: simulated)
    monkeypatch.setattr(cuda_place.CudaDevice, "_queue_spin", lambda device, microseconds: simulated.spin(microseconds))
    cached = (cuda_place._retain_primary_context, cuda_place.get_scratch_memory, get_spin_calibration)
    for function in cached:
        function.cache_clear()
    yield simulated
    for function in cached:
        function.cache_clear()
    assert simulated.depth == 0


@pytest.fixture
def engine(cuda):
    return SimulatedEngine(cuda)


@pytest.fixture
def make_runner(monkeypatch, engine):
    log = SimpleNamespace(
        logger=None, clear=lambda: None, make_error=lambda what: MeasurementError(f"{what}: bad weather")
    )
    monkeypatch.setattr(trt_runner, "get_log", lambda library: log)
    loaded = SimpleNamespace(deserialize_cuda_engine=lambda data: engine if data == b"plan" else None)
    module = SimpleNamespace(
        Runtime=lambda logger: loaded,
        TensorIOMode=SimpleNamespace(INPUT="input"),
        IProfiler=object,
        LayerInformationFormat=SimpleNamespace(JSON=1),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED=USER_MANAGED),
    )

    def make(data=b"plan", flavour=FULL, installed=FULL, remarks=()):
        library = Library(module, installed, "10.13", can_build_without_gpu=installed == RTX)
        plan = Engine(data, flavour, "10.13", "fp32", "9.0", False, (), 1.0, remarks=remarks)
        return EngineRunner(library, plan, Device("cuda:1"))

    return make


@pytest.fixture
def images(engine):
    engine.dtype, engine.numpy_type = "UINT8", np.uint8


def test_tensor_copies_are_outside_graph(make_runner, cuda):
    runner = make_runner()
    assert not runner.has_copies
    assert cuda.journal == [
        "set",
        "set",
        *["engine"] * NUM_WARM_UP_RUNS,
        "cuStreamBeginCapture",
        "cuStreamEndCapture",
        "cuGraphInstantiate",
        "cuGraphDestroy",
    ]
    assert cuda.pinned == []
    cuda.journal.clear()
    image = np.arange(24, dtype=np.float32).reshape(SHAPE)
    (out,) = runner.infer([image])
    np.testing.assert_array_equal(out, 2 * image)
    assert cuda.journal == ["to device", "cuGraphLaunch", "engine", "to host"]


def test_image_copies_are_inside_graph(make_runner, cuda, images):
    runner = make_runner()
    assert runner.has_copies
    assert cuda.pinned == [SHAPE] * 2
    cuda.journal.clear()
    image = np.arange(24, dtype=np.uint8).reshape(SHAPE)
    (out,) = runner.infer([image])
    np.testing.assert_array_equal(out, 2 * image)
    assert cuda.journal == ["cuGraphLaunch", "to device", "engine", "to host"]


def test_output_is_a_copy(make_runner):
    runner = make_runner()
    (first,) = runner.infer([np.ones(SHAPE, np.float32)])
    runner.infer([np.zeros(SHAPE, np.float32)])
    assert np.all(first == 2)


def spin_us(factor, runs=3, launch_us=INITIAL_LAUNCH_US):
    return f"spin {factor * (BASE_QUEUE_US + runs * launch_us):.0f}"


def test_runs_queue_behind_spin(make_runner, cuda):
    runner = make_runner()
    cuda.journal.clear()
    assert runner.run(3) == [REPLAY_MS] * 3
    assert cuda.journal == [spin_us(MIN_FACTOR), *["cuGraphLaunch", "engine"] * 3]
    assert runner.run(0) == []


def test_batch_started_early_is_queued_again(make_runner, cuda):
    runner = make_runner()
    cuda.early = 2
    cuda.journal.clear()
    assert runner.run(3) == [REPLAY_MS] * 3
    spins = [spin_us(MIN_FACTOR * 2**doubled) for doubled in range(3)]
    assert [entry for entry in cuda.journal if entry.startswith("spin")] == spins
    assert get_spin_calibration(Device("cuda:1")).factor == pytest.approx(DECAY * 4 * MIN_FACTOR)
    assert get_spin_calibration(Device("cuda:1")).launch_us > 0


def test_next_spin_uses_measured_launch_time(make_runner, cuda):
    runner = make_runner()
    runner.run(3)
    launch_us = get_spin_calibration(Device("cuda:1")).launch_us
    cuda.journal.clear()
    runner.run(3)
    assert cuda.journal[0] == spin_us(MIN_FACTOR, launch_us=launch_us)


def test_device_always_early_is_an_error(make_runner, cuda):
    runner = make_runner()
    cuda.early = MAX_ATTEMPTS
    with pytest.raises(
        MeasurementError, match=r"cannot queue runs ahead .* queueing \d runs took .* close other programs"
    ):
        runner.run(3)


def test_untimed_runs_synchronise_once(make_runner, cuda):
    runner = make_runner()
    cuda.journal.clear()
    runner.run_untimed(3)
    assert cuda.journal == ["cuGraphLaunch", "engine"] * 3


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_inputs_equal_those_of_other_backends(make_runner, engine, dtype):
    engine.dtype, engine.numpy_type = {"float32": "FLOAT", "uint8": "UINT8"}[dtype], dtype
    runner = make_runner()
    runner.prepare()
    stored = np.frombuffer(runner._inputs[0].device.bytes, dtype).reshape(SHAPE)
    np.testing.assert_array_equal(stored, generate_inputs([SHAPE], dtype)[0])


@pytest.mark.parametrize(
    ("inputs", "description"),
    [
        ([], "nothing"),
        ([np.zeros((1, 2, 3, 5), np.float32)], "float32 1x2x3x5"),
        ([np.zeros(SHAPE, np.float32)] * 2, "float32 1x2x3x4, float32 1x2x3x4"),
        ([np.zeros(SHAPE, np.complex64)], "complex64 1x2x3x4"),
    ],
)
def test_wrong_inputs_are_rejected(make_runner, inputs, description):
    with pytest.raises(MeasurementError) as caught:
        make_runner().infer(inputs)
    assert str(caught.value) == f"the engine needs inputs float32 1x2x3x4, not {description}"


def test_layers_are_timed_in_own_context(make_runner, cuda):
    runner = make_runner()
    captured = runner._context
    cuda.journal.clear()
    fused, cast = measure_layers(runner, 3)
    assert (fused.layer, fused.nodes, fused.ms) == ("/a/Conv + /a/Relu", ("/a/Conv", "/a/Relu"), 1.0)
    assert (cast.layer, cast.nodes, cast.ms) == ("__myl_Cast_myl0_1", ("/b/Cast", "/c/Add"), 0.25)
    assert cuda.journal == [*["engine"] * 4, "context gone"]
    assert runner._context is captured
    assert captured.profiler is None
    np.testing.assert_array_equal(runner.infer([np.ones(SHAPE, np.float32)])[0], np.full(SHAPE, 2))


def test_close_frees_graph_first(make_runner, cuda):
    runner = make_runner()
    assert cuda.held == ["stream", "memory", "memory", "memory"]
    cuda.journal.clear()
    runner.close()
    runner.close()
    assert cuda.journal == ["cuGraphExecDestroy", "context gone", *["free memory"] * 3, "free stream"]
    assert cuda.held == []
    assert cuda.graphs == {}
    assert runner._context is runner._engine is None
    with pytest.raises(MeasurementError, match="is closed"):
        runner.run(1)


@pytest.fixture
def rtx(make_runner):
    """Return a function that makes a runner of TensorRT-RTX."""
    return lambda: make_runner(flavour=RTX, installed=RTX)


@pytest.mark.parametrize("size", [4096, 0])
@pytest.mark.parametrize("flavour", [FULL, RTX])
def test_context_memory_is_user_managed(make_runner, engine, size, flavour):
    engine.device_memory_size_v2 = size
    runner = make_runner(flavour=flavour, installed=flavour)
    assert engine.strategies == [USER_MANAGED]
    image = np.arange(24, dtype=np.float32).reshape(SHAPE)
    np.testing.assert_array_equal(runner.infer([image])[0], 2 * image)


def test_engines_share_scratch_memory(make_runner, engine, cuda):
    runners = [make_runner() for _ in range(3)]
    assert len(set(engine.scratch)) == 1
    engine.device_memory_size_v2 = 5000  # rounded to 8192; the first block stays for the engines captured in it
    runners.append(make_runner())
    assert sorted(len(cuda.memory[block].bytes) for block in set(engine.scratch)) == [4096, 8192]
    for runner in runners:
        np.testing.assert_array_equal(runner.infer([np.ones(SHAPE, np.float32)])[0], np.full(SHAPE, 2))
    for runner in runners[:3]:
        runner.close()
    assert sum(size == 4096 for size in (len(memory.bytes) for memory in cuda.memory.values())) == 0
    runners[3].close()
    assert cuda.held == []


def test_failed_layer_timing_frees_memory(rtx, engine, cuda):
    runner = rtx()
    engine.works = False
    with pytest.raises(MeasurementError, match="failed to run the engine"):
        measure_layers(runner, 3)
    engine.makes_contexts = 0
    with pytest.raises(MeasurementError, match="cannot create a context on cuda:1: bad weather"):
        measure_layers(runner, 3)
    assert cuda.held == ["stream", "memory", "memory", "memory"]
    runner.close()
    assert cuda.held == []


def test_out_of_memory_for_context(rtx, cuda):
    given = cuda.driver.mem_alloc

    def refuse(size):
        if size == SimulatedEngine.device_memory_size_v2:
            raise cuda.driver.Error("cuMemAlloc failed: out of memory")
        return given(size)

    cuda.driver.mem_alloc = refuse
    with pytest.raises(MeasurementError, match="not enough GPU memory: cuda:1 failed: cuMemAlloc"):
        rtx()
    assert cuda.held == []


def test_runner_has_remarks_of_engine(make_runner):
    assert make_runner(remarks=("it was built anew",)).remarks == ("it was built anew",)


def test_foreign_engines_are_rejected(make_runner, cuda):
    with pytest.raises(MeasurementError, match=r"10\.13 rejects the engine on cuda:1: bad weather"):
        make_runner(data=b"of another device")
    assert cuda.held == []
    with pytest.raises(BackendUnavailableError, match="an engine of TensorRT-RTX does not run in TensorRT 10"):
        make_runner(flavour=RTX)


def test_failing_engine_is_rejected(make_runner, engine, cuda):
    engine.works = False
    with pytest.raises(MeasurementError, match=r"TensorRT 10\.13 failed to run the engine: bad weather"):
        make_runner()
    assert cuda.held == []


def test_rejected_buffer_is_named(make_runner, engine, cuda):
    engine.bound = ("input_0",)
    with pytest.raises(MeasurementError, match="rejects the buffer of output_0: bad weather"):
        make_runner()
    assert cuda.held == []


def test_type_unknown_to_numpy_is_named(make_runner, engine, cuda):
    engine.dtype = "BF16"
    with pytest.raises(
        MeasurementError, match="input_0 has type BF16, which numpy lacks: export the model with float32"
    ):
        make_runner()
    assert cuda.held == []


@pytest.mark.parametrize(
    "function", ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphDestroy"]
)
def test_failed_capture_is_named_and_freed(make_runner, cuda, function):
    cuda.refused[function] = NOT_CAPTURED
    with pytest.raises(MeasurementError, match=f"{function} failed: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"):
        make_runner()
    assert cuda.held == []


def test_failing_work_ends_capture(cuda):
    def work():
        raise MeasurementError("the engine failed")

    cuda.depth = 1
    with pytest.raises(MeasurementError, match="the engine failed"):
        cuda_driver.StreamGraph(work, STREAM)
    assert cuda.captured is None
    assert cuda.graphs == {}
    cuda.depth = 0


def test_out_of_memory_error_suggests_fix(make_runner, cuda):
    def refuse(size):
        raise cuda.driver.Error("cuMemAlloc failed: out of memory")

    cuda.driver.mem_alloc = refuse
    with pytest.raises(MeasurementError) as caught:
        make_runner()
    assert str(caught.value) == (
        "not enough GPU memory: cuda:1 failed: cuMemAlloc failed: out of memory; reduce the input size or close "
        "other programs on the GPU"
    )
    assert caught.value.exit_code == 2
    assert cuda.held == []


def test_out_of_memory_for_graph(make_runner, cuda):
    cuda.refused["cuGraphInstantiate"] = NO_MEMORY
    with pytest.raises(MeasurementError, match=r"not enough GPU memory: cuGraphInst.*OUT_OF_MEMORY; reduce the input"):
        make_runner()
