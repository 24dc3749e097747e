"""Hardware samples on a simulated NVML, which checks calls against the signatures of the real one."""

import inspect
import json
import os
import resource
import time
from dataclasses import asdict
from types import SimpleNamespace

import pynvml
import pytest
import torch

from lgc.lut import Target
from lgc.profiler.backends.cuda.replay_queue import get_spin_calibration
from lgc.profiler.machine import environment
from lgc.profiler.machine import monitor as monitor_module
from lgc.profiler.machine.monitor import THROTTLE_REASONS, HardwareSample, decode_throttle_reasons, open_monitor
from lgc.profiler.machine.nvml import Gpu

GPU = Target("cuda:1", "torch")
DIGITS = "1234-abcd"
ANSWERS = {
    "nvmlDeviceGetClockInfo": lambda clock: {1: 1410, 2: 1593}[clock],
    "nvmlDeviceGetMaxClockInfo": lambda clock: {1: 1980, 2: 2619}[clock],
    "nvmlDeviceGetTemperatureV": lambda sensor: 61,
    "nvmlDeviceGetPowerUsage": lambda: 312_500,
    "nvmlDeviceGetEnforcedPowerLimit": lambda: 700_000,
    "nvmlDeviceGetCurrentClocksEventReasons": lambda: 0x4 | 0x20,
    "nvmlDeviceGetComputeRunningProcesses": lambda: [SimpleNamespace(pid=1), SimpleNamespace(pid=2)],
    "nvmlDeviceGetTotalEnergyConsumption": lambda: 123_456_789,
    "nvmlDeviceGetMemoryInfo": lambda: SimpleNamespace(total=80 * 2**30),
    "nvmlDeviceGetPersistenceMode": lambda: 1,
    "nvmlDeviceGetEccMode": lambda: [1, 0],
    "nvmlDeviceGetMigMode": lambda: [0, 1],
}


class Nvml:
    """NVML of a machine with `count` GPUs, of which `uuid` is known.

    Attributes:
        answers: NVML function -> its implementation; remove an entry for an old driver, or make it raise.
        users: number of `nvmlInit` calls without `nvmlShutdown`.
    """

    class NVMLError(Exception):
        pass

    def __init__(self):
        self.answers, self.users, self.uuid, self.count = dict(ANSWERS), 0, f"GPU-{DIGITS}", 2

    def nvmlInit(self):  # noqa: N802 - NVML's name
        self.users += 1

    def nvmlShutdown(self):  # noqa: N802
        self.users -= 1

    def nvmlSystemGetDriverVersion(self):  # noqa: N802
        return "580.65.06"

    def nvmlDeviceGetCount(self):  # noqa: N802
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        assert index < self.count
        return "handle"

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        if uuid != self.uuid:
            raise self.NVMLError("Not Found")
        return "handle"

    def __getattr__(self, function):
        if function not in self.answers:
            raise AttributeError(function)
        signature = inspect.signature(getattr(pynvml, function))

        def answer(handle, *arguments):
            signature.bind(handle, *arguments)
            assert handle == "handle"
            return self.answers[function](*arguments)

        return answer


@pytest.fixture
def nvml(monkeypatch):
    """Replace NVML by a simulated one, and torch's properties of the GPU."""
    fake = Nvml()
    monkeypatch.setitem(__import__("sys").modules, "pynvml", fake)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=DIGITS))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    return fake


def fail():
    raise Nvml.NVMLError("Not Supported")


def test_gpu_sample_has_documented_units(nvml):
    with open_monitor(GPU) as monitor:
        sample = monitor.sample()
    assert (sample.sm_clock_mhz, sample.memory_clock_mhz) == (1410, 1593)
    assert (sample.temperature_c, sample.power_w) == (61, 312.5)
    assert sample.throttle == ("power cap", "thermal slowdown")
    assert sample.other_gpu_processes == 1
    assert abs(sample.at_unix_s - time.time()) < 60
    assert nvml.users == 0


def test_energy_is_nvml_counter(nvml):
    with open_monitor(GPU) as monitor:
        assert monitor.energy_mj() == 123_456_789
        nvml.answers["nvmlDeviceGetTotalEnergyConsumption"] = fail
        assert monitor.energy_mj() is None


@pytest.mark.parametrize("function", [name for name in ANSWERS if "Max" not in name])
@pytest.mark.parametrize("cause", ["not supported", "unknown"])
def test_unsupported_function_leaves_other_values(nvml, function, cause):
    nvml.answers.pop(function)
    if cause == "not supported":
        nvml.answers[function] = lambda *_: fail()
    with open_monitor(GPU) as monitor:
        values = {**asdict(monitor.sample()), "energy": monitor.energy_mj()}
    optional = ("steal_pct", "launch_us", "cpu_throttled_periods", "cpu_throttled_ms")
    missing = [name for name, value in values.items() if value is None and name not in optional]
    assert len(missing) <= (2 if function == "nvmlDeviceGetClockInfo" else 1)


def test_sample_has_launch_cost_of_host(nvml):
    with open_monitor(GPU) as monitor:
        get_spin_calibration(GPU.device).launch_us, get_spin_calibration(GPU.device).factor = 7.5, 3.0
        sample = monitor.sample()
        get_spin_calibration.cache_clear()
    assert (sample.launch_us, sample.lead_factor) == (7.5, 3.0)


def test_older_drivers_have_other_function_names(nvml):
    nvml.answers["nvmlDeviceGetTemperature"] = nvml.answers.pop("nvmlDeviceGetTemperatureV")
    nvml.answers.pop("nvmlDeviceGetCurrentClocksEventReasons")
    nvml.answers["nvmlDeviceGetCurrentClocksThrottleReasons"] = lambda: 1
    with open_monitor(GPU) as monitor:
        sample = monitor.sample()
    assert (sample.temperature_c, sample.throttle) == (61, ("idle",))


def test_mig_partition_is_identified_by_uuid(nvml):
    nvml.uuid = f"MIG-{DIGITS}"
    with Gpu(0) as gpu:
        assert (gpu.uuid, gpu.error) == (f"MIG-{DIGITS}", None)


@pytest.fixture
def jetson(nvml):
    """Return the NVML of a Jetson: one device without UUID, which supports no function."""
    nvml.uuid, nvml.count = None, 1
    for function in nvml.answers:
        nvml.answers[function] = lambda *_: fail()
    return nvml


def test_only_device_needs_no_uuid(jetson):
    jetson.answers["nvmlDeviceGetClockInfo"] = lambda clock: 1300
    with Gpu(0) as gpu:
        assert (gpu.error, gpu.uuid, gpu.clock_mhz(1)) == (None, f"GPU-{DIGITS}", 1300)


def test_jetson_without_support_is_sampled(jetson):
    with open_monitor(Target("cuda:0", "torch")) as monitor:
        sample = monitor.sample()
        assert monitor.energy_mj() is None
    available = {name for name, value in asdict(sample).items() if value is not None}
    assert available <= {"at_unix_s", "steal_pct", "lead_factor", "involuntary_switches"}
    assert set(environment._describe_gpu(0).values()) == {f"GPU-{DIGITS}", "580.65.06", None}
    assert jetson.users == 0


@pytest.mark.parametrize("cause", ["no library", "no package", "no such device"])
def test_missing_nvml_gives_none_and_error(nvml, monkeypatch, cause):
    if cause == "no library":
        monkeypatch.setattr(nvml, "nvmlInit", fail)
    elif cause == "no package":
        monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    else:
        nvml.uuid = "GPU-other"
    with open_monitor(GPU) as monitor:
        sample = monitor.sample()
        assert monitor.energy_mj() is None
    available = {name for name, value in asdict(sample).items() if value is not None}
    assert available <= {"at_unix_s", "steal_pct", "involuntary_switches", "lead_factor"}
    with Gpu(0) as gpu:
        assert gpu.error
        assert environment._describe_gpu(0) == {"uuid": gpu.uuid, "nvml": gpu.error}
    assert nvml.users == 0


def test_closed_gpu_returns_none(nvml):
    with Gpu(0) as gpu:
        assert gpu.driver == "580.65.06"
    gpu.close()
    assert gpu.driver is gpu.temperature_c is gpu.clock_mhz(1) is None
    assert nvml.users == 0


def test_fingerprint_of_gpu(nvml):
    properties = environment._describe_gpu(1)
    assert json.loads(json.dumps(properties)) == properties
    assert properties == {
        "uuid": f"GPU-{DIGITS}",
        "driver": "580.65.06",
        "sm_clock_mhz": 1410,
        "max_sm_clock_mhz": 1980,
        "memory_clock_mhz": 1593,
        "max_memory_clock_mhz": 2619,
        "power_limit_w": 700.0,
        "temperature_c": 61,
        "memory_mib": 81920,
        "persistence": True,
        "ecc": True,
        "mig": False,
    }
    nvml.answers.clear()
    assert set(environment._describe_gpu(1).values()) == {f"GPU-{DIGITS}", "580.65.06", None}


def test_every_nvml_throttle_reason_has_name():
    prefix = "nvmlClocksThrottleReason"
    known = {name: bit for name, bit in vars(pynvml).items() if name.startswith(prefix) and not name.endswith("All")}
    assert {bit for bit in known.values() if bit} == set(THROTTLE_REASONS)
    assert THROTTLE_REASONS[pynvml.nvmlClocksEventReasonSwPowerCap] == "power cap"
    assert decode_throttle_reasons(0) == ()
    assert decode_throttle_reasons(0x1 | 0x8000) == ("idle", "reason 0x8000")


@pytest.fixture
def stat(monkeypatch, tmp_path):
    """Return a function that writes /proc/stat: ticks of core 1; core 0, which is not used, has steal time only."""
    monkeypatch.setattr(monitor_module, "_PROC_STAT", tmp_path / "stat")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1})

    def write(user, idle, steal):
        rows = [f"cpu0 0 0 0 0 0 0 0 {10**6 * user} 0 0", f"cpu1 {user} 0 0 {idle} 0 0 0 {steal} 7 7", "intr 5"]
        (tmp_path / "stat").write_text("\n".join(["cpu  9 9 9 9 9 9 9 9 9 9", *rows]))

    return write


def test_steal_time_counts_since_previous_sample(stat):
    stat(100, 100, 100)
    with open_monitor(Target("cpu", "torch")) as monitor:
        stat(150, 140, 110)
        assert monitor.sample().steal_pct == pytest.approx(10)
        assert monitor.sample().steal_pct is None
        stat(250, 140, 110)
        assert monitor.sample().steal_pct == 0


def test_system_without_counters_gives_none(monkeypatch, tmp_path):
    monkeypatch.setattr(monitor_module, "_PROC_STAT", tmp_path / "none")
    monkeypatch.delattr(resource, "RUSAGE_THREAD")
    with open_monitor(Target("cpu", "torch")) as monitor:
        sample = monitor.sample()
        assert monitor.energy_mj() is None
    assert sample == HardwareSample(sample.at_unix_s)


@pytest.mark.skipif(
    not hasattr(resource, "RUSAGE_THREAD"), reason="this system does not count the context switches of a thread"
)
def test_counters_of_this_machine_are_in_range():
    with open_monitor(Target("cpu", "torch")) as monitor:
        for _ in range(20):
            sample = monitor.sample()
            assert sample.involuntary_switches >= 0
            assert sample.steal_pct is None or 0 <= sample.steal_pct <= 100
