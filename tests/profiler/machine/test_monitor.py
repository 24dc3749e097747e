"""What NVML and the kernel tell of the machine, on a simulated NVML that knows the real one's names and arguments."""

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
from lgc.profiler.machine import monitor as watch
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
    """NVML of a machine with `count` GPUs, one of them ours.

    `answers` may be taken from, as by an old driver, or be made to raise.
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

    def __getattr__(self, question):
        if question not in self.answers:
            raise AttributeError(question)
        signature = inspect.signature(getattr(pynvml, question))

        def answer(handle, *arguments):
            signature.bind(handle, *arguments)
            assert handle == "handle"
            return self.answers[question](*arguments)

        return answer


@pytest.fixture
def nvml(monkeypatch):
    fake = Nvml()
    monkeypatch.setitem(__import__("sys").modules, "pynvml", fake)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=DIGITS))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    return fake


def fail():
    raise Nvml.NVMLError("Not Supported")


def test_a_sample_of_a_gpu_in_its_units(nvml):
    with open_monitor(GPU) as watch_it:
        health = watch_it.sample()
    assert (health.sm_clock_mhz, health.memory_clock_mhz) == (1410, 1593)
    assert (health.temperature_c, health.power_w) == (61, 312.5)
    assert health.throttle == ("power cap", "thermal slowdown")
    assert health.other_gpu_processes == 1
    assert abs(health.at_unix_s - time.time()) < 60
    assert nvml.users == 0


def test_energy_is_nvmls_counter(nvml):
    with open_monitor(GPU) as watch_it:
        assert watch_it.energy_mj() == 123_456_789
        nvml.answers["nvmlDeviceGetTotalEnergyConsumption"] = fail
        assert watch_it.energy_mj() is None


@pytest.mark.parametrize("question", [name for name in ANSWERS if "Max" not in name])
@pytest.mark.parametrize("how", ["refused", "unknown"])
def test_a_missing_counter_is_none_and_leaves_the_others(nvml, question, how):
    nvml.answers.pop(question)
    if how == "refused":
        nvml.answers[question] = lambda *_: fail()
    with open_monitor(GPU) as watch_it:
        found = {**asdict(watch_it.sample()), "energy": watch_it.energy_mj()}
    gone = [name for name, value in found.items() if value is None and name not in ("steal_pct", "launch_us")]
    assert len(gone) <= (2 if question == "nvmlDeviceGetClockInfo" else 1)


def test_a_sample_has_the_hosts_launch_cost(nvml):
    with open_monitor(GPU) as watch_it:
        get_spin_calibration(GPU.device).launch_us, get_spin_calibration(GPU.device).factor = 7.5, 3.0
        health = watch_it.sample()
        get_spin_calibration.cache_clear()
    assert (health.launch_us, health.lead_factor) == (7.5, 3.0)


def test_older_drivers_know_other_names(nvml):
    nvml.answers["nvmlDeviceGetTemperature"] = nvml.answers.pop("nvmlDeviceGetTemperatureV")
    nvml.answers.pop("nvmlDeviceGetCurrentClocksEventReasons")
    nvml.answers["nvmlDeviceGetCurrentClocksThrottleReasons"] = lambda: 1
    with open_monitor(GPU) as watch_it:
        health = watch_it.sample()
    assert (health.temperature_c, health.throttle) == (61, ("idle",))


def test_a_part_of_a_gpu_is_found_by_its_own_name(nvml):
    nvml.uuid = f"MIG-{DIGITS}"
    with Gpu(0) as gpu:
        assert (gpu.uuid, gpu.error) == (f"MIG-{DIGITS}", None)


@pytest.fixture
def jetson(nvml):
    """NVML of a Jetson: one device, which has no UUID, and few answers."""
    nvml.uuid, nvml.count = None, 1
    for question in nvml.answers:
        nvml.answers[question] = lambda *_: fail()
    return nvml


def test_the_only_device_needs_no_uuid(jetson):
    jetson.answers["nvmlDeviceGetClockInfo"] = lambda clock: 1300
    with Gpu(0) as gpu:
        assert (gpu.error, gpu.uuid, gpu.clock_mhz(1)) == (None, f"GPU-{DIGITS}", 1300)


def test_a_jetson_that_tells_nothing_is_watched(jetson):
    with open_monitor(Target("cuda:0", "torch")) as watch_it:
        health = watch_it.sample()
        assert watch_it.energy_mj() is None
    told = {name for name, value in asdict(health).items() if value is not None}
    assert told <= {"at_unix_s", "steal_pct", "lead_factor", "involuntary_switches"}
    assert set(environment._describe_gpu(0).values()) == {f"GPU-{DIGITS}", "580.65.06", None}
    assert jetson.users == 0


@pytest.mark.parametrize("how", ["no library", "no package", "no such device"])
def test_without_nvml_everything_is_none_and_the_reason_is_known(nvml, monkeypatch, how):
    if how == "no library":
        monkeypatch.setattr(nvml, "nvmlInit", fail)
    elif how == "no package":
        monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    else:
        nvml.uuid = "GPU-other"
    with open_monitor(GPU) as watch_it:
        health = watch_it.sample()
        assert watch_it.energy_mj() is None
    told = {name for name, value in asdict(health).items() if value is not None}
    assert told <= {"at_unix_s", "steal_pct", "involuntary_switches", "lead_factor"}
    with Gpu(0) as gpu:
        assert gpu.error
        assert environment._describe_gpu(0) == {"uuid": gpu.uuid, "nvml": gpu.error}
    assert nvml.users == 0


def test_after_its_end_a_gpu_answers_nothing(nvml):
    with Gpu(0) as gpu:
        assert gpu.driver == "580.65.06"
    gpu.close()
    assert gpu.driver is gpu.temperature_c is gpu.clock_mhz(1) is None
    assert nvml.users == 0


def test_the_fingerprint_of_a_gpu(nvml):
    found = environment._describe_gpu(1)
    assert json.loads(json.dumps(found)) == found
    assert found == {
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


def test_throttle_reasons_are_all_of_nvmls():
    prefix = "nvmlClocksThrottleReason"
    known = {name: bit for name, bit in vars(pynvml).items() if name.startswith(prefix) and not name.endswith("All")}
    assert {bit for bit in known.values() if bit} == set(THROTTLE_REASONS)
    assert THROTTLE_REASONS[pynvml.nvmlClocksEventReasonSwPowerCap] == "power cap"
    assert decode_throttle_reasons(0) == ()
    assert decode_throttle_reasons(0x1 | 0x8000) == ("idle", "reason 0x8000")


@pytest.fixture
def stat(monkeypatch, tmp_path):
    """Writes a kernel's account: `stat(user, idle, stolen)` of core 1; core 0, which is not used, is stolen wholly."""
    monkeypatch.setattr(watch, "_PROC_STAT", tmp_path / "stat")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1})

    def write(user, idle, stolen):
        rows = [f"cpu0 0 0 0 0 0 0 0 {10**6 * user} 0 0", f"cpu1 {user} 0 0 {idle} 0 0 0 {stolen} 7 7", "intr 5"]
        (tmp_path / "stat").write_text("\n".join(["cpu  9 9 9 9 9 9 9 9 9 9", *rows]))

    return write


def test_stolen_time_is_a_share_of_what_passed_since_the_last_sample(stat):
    stat(100, 100, 100)
    with open_monitor(Target("cpu", "torch")) as watch_it:
        stat(150, 140, 110)
        assert watch_it.sample().steal_pct == pytest.approx(10)
        assert watch_it.sample().steal_pct is None
        stat(250, 140, 110)
        assert watch_it.sample().steal_pct == 0


def test_a_system_that_tells_nothing_is_no_error(monkeypatch, tmp_path):
    monkeypatch.setattr(watch, "_PROC_STAT", tmp_path / "none")
    monkeypatch.delattr(resource, "RUSAGE_THREAD")
    with open_monitor(Target("cpu", "torch")) as watch_it:
        health = watch_it.sample()
        assert watch_it.energy_mj() is None
    assert health == HardwareSample(health.at_unix_s)


@pytest.mark.skipif(not hasattr(resource, "RUSAGE_THREAD"), reason="this system does not count a thread's switches")
def test_this_machine_is_watched_within_a_millisecond():
    spent = []
    with open_monitor(Target("cpu", "torch")) as watch_it:
        for _ in range(20):
            start = time.perf_counter()
            health = watch_it.sample()
            spent.append(time.perf_counter() - start)
            assert health.involuntary_switches >= 0
            assert health.steal_pct is None or 0 <= health.steal_pct <= 100
    assert min(spent) < 1e-3
