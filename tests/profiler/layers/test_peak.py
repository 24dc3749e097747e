"""Peak of a device: arithmetic on known durations, benchmarks, cache."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import onnx
import pytest

from lgc.lut import Target
from lgc.models.onnx.counting.costs import count_costs
from lgc.profiler.layers import peak as peaks
from lgc.profiler.layers.peak import (
    BANDWIDTH_BYTES,
    REPETITIONS,
    load_peak,
    make_add,
    make_conv,
    make_matmul,
    make_peak,
    measure_peak,
)

CPU = Target("cpu", "onnxruntime")


@pytest.fixture
def peak():
    """Return 4 GMACs/s, 16 GB/s for 1 MB, 2 GB/s for 100 MB."""
    return make_peak(
        "cpu",
        "fp32",
        [{10**6: 0.35, 2 * 10**6: 0.6}, {10**6: 1.1}],
        {10**6: 0.1625, 10**8: 50.1},
        launch_ms=0.1,
        seconds=1.0,
    )


def test_slowest_repetition_is_kept(peak):
    assert peak.slowest_macs_per_s == pytest.approx(1e9)


def test_launch_does_not_count(peak):
    assert peak.macs_per_s == pytest.approx(4e9)
    assert [size for size, _ in peak.bandwidths] == [10**6, 10**8]
    assert peak.bandwidth(10**6) == pytest.approx(16e9)
    assert peak.bandwidth(10**8) == pytest.approx(2e9)


def test_bandwidth_is_interpolated_within_sizes(peak):
    assert peak.bandwidth(10**7) == pytest.approx(9e9)
    assert peak.bandwidth(10) == peak.bandwidth(10**6)
    assert peak.bandwidth(10**12) == peak.bandwidth(10**8)
    assert peak.bandwidth(0) == peak.bandwidth(10**6)


def test_shortest_times_follow_peak(peak):
    assert peak.compute_ms(8 * 10**6) == pytest.approx(2.0)
    assert peak.memory_ms(10**8) == pytest.approx(50.0)


def test_benchmarks_have_stated_costs():
    conv, product, addition = make_conv(4, 8), make_matmul(8), make_add(5)
    assert count_costs(conv.file).macs == 9 * 4**2 * 8**2
    assert count_costs(product.file).macs == 8**3
    assert addition.input_shapes == ((1, 1, 1, 5),) * 2
    for workload in (conv, product, addition):
        onnx.checker.check_model(onnx.load_model_from_string(workload.onnx), full_check=True)


class FixedRates:
    """Backend-free substitute for `measure_rounds`: 1 ms for the arithmetic, 1 us per KiB, 10 us more for each run.

    Attributes:
        targets: targets of the calls.
        slowdown: factor of all times.
        busy_calls: calls that take twice as long, by number.
    """

    def __init__(self):
        self.targets, self.slowdown, self.busy_calls = [], 1.0, ()

    def __call__(self, backend, target, workloads, rounds, *, on_progress):
        self.targets.append(target)
        return self

    def summary(self, key):
        ms = 1.0 if not key.isdigit() else int(key) / 2**20
        factor = self.slowdown * (2 if len(self.targets) - 1 in self.busy_calls else 1)
        return type("Summary", (), {"min_ms": (ms + 0.01) * factor})


@pytest.fixture
def measured(monkeypatch):
    rates = FixedRates()
    monkeypatch.setattr(peaks, "measure_rounds", rates)
    for name, value in {"CPU_WIDTH": 8, "CHANNELS": 4, "MATRIX": 8, "BANDWIDTH_BYTES": BANDWIDTH_BYTES[:2]}.items():
        monkeypatch.setattr(peaks, name, value)
    return rates


def test_peak_is_the_best_rate(measured):
    result = measure_peak(CPU, None)
    assert result.macs_per_s == pytest.approx(9 * 4**2 * 8**2 * 1e3, rel=0.01)
    np.testing.assert_allclose([rate for _, rate in result.bandwidths], 2**20 * 1e3, rtol=0.01)


def test_int8_uses_fp32_arithmetic(measured):
    assert measure_peak(replace(CPU, precision="int8"), None).precision == "fp32"
    assert measure_peak(Target("cuda:0", "tensorrt", "fp16"), None).precision == "fp16"
    assert [target.precision for target in measured.targets] == ["fp32"] * 2 * REPETITIONS + [
        "fp16",
        "fp32",
    ] * REPETITIONS


def test_peak_is_kept_and_refreshed(measured, tmp_path, monkeypatch):
    monkeypatch.setenv("LGC_CACHE", str(tmp_path))
    first, remarks = load_peak(CPU)
    assert not remarks
    assert load_peak(CPU) == (first, ())
    assert len(measured.targets) == 2 * REPETITIONS
    load_peak(CPU, refresh=True)
    load_peak(replace(CPU, threads=2))
    assert len(measured.targets) == 6 * REPETITIONS
    assert len(list((tmp_path / "peaks").iterdir())) == 2


@pytest.mark.parametrize("busy_calls", [(0, 1), (2, 3, 4, 5), (1, 3)])
def test_busy_machine_disturbs_some_repetitions(busy_calls, measured):
    """A slow repetition changes neither rate, nor does a slow launch raise them."""
    expected = measure_peak(CPU, None)
    measured.targets.clear()
    measured.busy_calls = busy_calls
    peak = measure_peak(CPU, None)
    assert (peak.macs_per_s, peak.bandwidths) == (expected.macs_per_s, expected.bandwidths)
    assert (peak.slowest_macs_per_s < 0.6 * peak.macs_per_s) == (not busy_calls[0] % 2)


def test_faster_peak_is_kept(measured, tmp_path, monkeypatch):
    """A peak is a maximum: a busy machine must not lower it, and a quiet one raises it."""
    monkeypatch.setenv("LGC_CACHE", str(tmp_path))
    first, _ = load_peak(CPU)
    measured.slowdown = 2.0
    again, (remark,) = load_peak(CPU, refresh=True)
    assert (again.macs_per_s, again.bandwidths) == (first.macs_per_s, first.bandwidths)
    assert again.slowest_macs_per_s < 0.6 * first.macs_per_s
    assert remark.startswith("the faster peak of 20")
    assert load_peak(CPU) == (again, ())
    measured.slowdown = 0.5
    faster, remarks = load_peak(CPU, refresh=True)
    assert faster.macs_per_s > 1.9 * first.macs_per_s
    assert remarks == ()


def test_peak_of_an_earlier_version_is_read(measured, tmp_path, monkeypatch):
    """Files had no slowest repetition."""
    monkeypatch.setenv("LGC_CACHE", str(tmp_path))
    peak, _ = load_peak(CPU)
    (path,) = (tmp_path / "peaks").iterdir()
    content = {key: value for key, value in asdict(peak).items() if key != "slowest_macs_per_s"}
    peaks.write_cache_file(path, {"format": peaks.FORMAT}, json.dumps(content).encode())
    assert load_peak(CPU) == (replace(peak, slowest_macs_per_s=None), ())


def test_damaged_peak_is_measured_again(measured, tmp_path, monkeypatch):
    monkeypatch.setenv("LGC_CACHE", str(tmp_path))
    first, _ = load_peak(CPU)
    (path,) = (tmp_path / "peaks").iterdir()
    path.write_bytes(path.read_bytes()[:-9])
    again, (remark,) = load_peak(CPU)
    assert "is damaged" in remark
    assert again.macs_per_s == first.macs_per_s
    assert load_peak(CPU)[1] == ()


def test_missing_home_is_a_remark(measured, monkeypatch):
    def fail(kind):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(peaks, "get_cache_folder", fail)
    result, (remark,) = load_peak(CPU)
    assert result.macs_per_s > 0
    assert remark == "the measured peak is not kept: Could not determine home directory."


def test_unwritable_cache_is_a_remark(measured, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LGC_CACHE", str(tmp_path / "file"))
    result, (remark,) = load_peak(CPU)
    assert result.macs_per_s > 0
    assert "not kept" in remark
