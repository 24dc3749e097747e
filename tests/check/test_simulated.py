"""Every part of the GPU check on a simulated GPU, to find errors before the first run on a real one."""

import importlib
import json
import shutil

import numpy as np
import pytest

from lgc.models import SearchSpace
from lgc.profiler.backends.cuda import device as cuda_place
from lgc.profiler.backends.cuda import driver as cuda_driver
from lgc.search.runtime.fabric import open_fabric

from ..profiler.conftest import Clock
from ..profiler.simulated_cuda import Cuda
from . import simulated_gpu

SMALL = (
    ("lgc.profiler.timing.rounds", "MAX_REPEATS", 4),
    ("lgc.profiler.timing.measure", "MIN_RUNS", 8),
    ("lgc.profiler.timing.measure", "ENERGY_S", 0.1),
    ("lgc.profiler.timing.measure", "ENERGY_BATCH_S", 0.02),
    ("checks.protocol", "FLUSH_BYTES", 1 << 16),
    ("checks.protocol", "BUILD_RUNS", 4),
    ("checks.protocol", "PROBE_RUNS", 3),
    ("checks.clock", "SPIN_CYCLES", 4_000_000),
    ("checks.clock", "BATCHES", 2),
)
"""Sizes with which a simulated part ends within seconds."""
REPLAY_S = 1e-5
"""Duration of a graph's replay by the simulated clock, short against a spin."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("scratch")


@pytest.fixture
def perform(checks, folders, mini_space, monkeypatch):
    """Return a function that runs a part on the simulated GPU with mini_space: `perform(number)` gives its record."""
    for module, name, value in SMALL:
        monkeypatch.setattr(importlib.import_module(module), name, value)
    for name in ("clock", "correctness", "frame_rates", "protocol", "searching", "table"):
        monkeypatch.setattr(importlib.import_module(f"checks.{name}"), "load_space", lambda settings: mini_space)

    def run(number):
        part = {part.number: part for part in checks.PARTS}[number]
        settings = checks.settings.Settings(
            "cuda:0", *folders, part=number, limit_s={2: 3.0, 7: 6.0}.get(number, 30.0), rehearsal=True
        )
        record = checks.record.Record(settings.record_file)
        with simulated_gpu.simulated_gpu(monkeypatch):
            checks.process.run_in_process(part, settings, record)
        assert record.status in ("passed", "failed"), record.words
        return record

    return run


def test_monitoring_part(perform):
    record = perform(1)
    assert record.status == "passed"
    assert record.values["energy counter period, ms"] > 0
    assert record.values["backends"]["torch"] == "available"


@pytest.fixture
def simulated_clock(checks, monkeypatch):
    """Replace the clock of the host and the GPU by a simulated one, in which a replay takes `REPLAY_S`."""
    clock, replay = Clock(), simulated_gpu.Graph.replay

    def timed(graph):
        clock.sleep(REPLAY_S)
        replay(graph)

    monkeypatch.setattr(simulated_gpu.Graph, "replay", timed)
    for module in (simulated_gpu, importlib.import_module("checks.clock")):
        monkeypatch.setattr(module, "time", clock)


@pytest.mark.usefixtures("simulated_clock")
def test_clock_part(perform):
    record = perform(2)
    assert record.status == "passed", record.words
    assert record.checks["events / host, spin x1"]["value"] == pytest.approx(1)
    assert record.checks["graph of 100 kernels: median / pace of the host"]["value"] == pytest.approx(1)
    assert {"graph of 1 kernels", "graph of 100 kernels"} <= record.values.keys()


def test_correctness_part(perform):
    record = perform(3)
    assert record.status == "passed", record.words
    assert {"dense bf16", "end-to-end fp16"} <= record.values.keys()


@pytest.fixture
def pycuda(monkeypatch):
    """Replace pycuda by the simulated driver."""
    simulated = Cuda()
    allocate = simulated.driver.mem_alloc

    def limited(size):
        if size > 1 << 30:
            raise simulated.driver.Error("cuMemAlloc failed: out of memory")
        return allocate(size)

    simulated.driver.mem_alloc = limited
    monkeypatch.setattr(cuda_place, "_import_driver", lambda: simulated.driver)
    monkeypatch.setattr(cuda_driver, "_import_bindings", lambda: simulated)
    monkeypatch.setattr(cuda_place.CudaDevice, "_queue_spin", lambda device, microseconds: simulated.spin(microseconds))
    for function in (cuda_place._retain_primary_context, cuda_place.get_scratch_memory):
        function.cache_clear()
    return simulated


def test_engine_runner_part(perform, pycuda, monkeypatch):
    module = importlib.import_module("checks.engine_runner")

    def queue(device, stream, addresses, dtype, scratch):
        source, target = (pycuda.memory[addresses[name]] for name in ("input_0", "output_0"))
        assert len(pycuda.memory[scratch].bytes) >= module.SCRATCH_BYTES

        def compute():
            target.bytes[:] = (2 * np.frombuffer(source.bytes, dtype)).tobytes()

        pycuda.queue("engine", compute)

    monkeypatch.setattr(module, "queue", queue)
    record = perform(4)
    wrong = [name for name, check in record.checks.items() if not check["holds"]]
    assert set(wrong) <= {
        "engine runner / torch's graph",
        "untimed / timed",
    }  # the two simulations have different clocks
    assert pycuda.held == []
    assert "not enough GPU memory" in record.values["too little memory"]


def test_table_parts_and_their_dependents(perform, folders, checks, monkeypatch):
    record = perform(5)
    assert record.checks["entries without a latency"]["holds"], record.values
    assert record.values["launch, us, and lead factor"]["launch"] > 0
    assert len(record.values["networks"]) == checks.table.REHEARSAL_NETWORKS
    protocol = perform(6)
    assert (
        len(protocol.values["one graph built anew"]["network"]["ms"])
        == importlib.import_module("checks.protocol").BUILDS
    )
    assert protocol.values["probes hot and flushed"]["flushed / hot, median"] > 0
    assert set(protocol.values["isolated operators: MAPE, %"]) == {
        "plain sum",
        "at its best scale",
        "with our correction",
    }
    rates = perform(7)
    assert rates.values["middle: energy of a run, mJ"] > 0
    assert perform(9).values["entries"] > 0
    lines = [
        {
            "part": 5,
            "name": "table fp16",
            "status": record.status,
            "words": "",
            "commit": "c",
            "date": "d",
            "device": "cuda:0",
            "device_name": "x",
            "seconds": 1.0,
            "checks": record.checks,
            "values": record.values,
        }
    ]
    assert "| unseen / mape_pct |" in checks.page.format_page(json.loads(json.dumps(lines)))


def test_search_part(perform, folders, make_table, monkeypatch):
    space = SearchSpace.load("tiny").with_input(48, 64)
    searching = importlib.import_module("checks.searching")
    monkeypatch.setattr(searching, "load_space", lambda settings: space)
    monkeypatch.setattr(searching, "SMALL", (32, 64))
    for module in ("engine", "training.train"):  # Fabric queries the driver itself for GPUs
        name = f"lgc.search.{module}"
        monkeypatch.setattr(
            importlib.import_module(name),
            "open_fabric",
            lambda _, precision, **options: open_fabric("cpu", precision, **options),
        )
    with make_table(space) as table:
        shutil.copy(table.path, folders[0] / "table-fp16.lut")
    record = perform(10)
    assert record.status == "passed", record.words
    assert record.values["search"]["steps"] == record.values["training"]["steps"] == searching.COMPARED
    assert record.values["search"]["steps a second"] > 0
    assert record.checks["loss of step 0: relative difference"]["value"] == 0
