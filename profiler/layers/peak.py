"""Peak of a device under a backend: multiply-accumulates per second, and bytes per second by the size of the data.

Measured by the backend's own runners in the same protocol as networks: large convolutions and a matrix product at the
target's precision and threads, and additions of two arrays, from sizes that fit the caches to sizes beyond them, all of
them several times in turns, so that other work on the machine disturbs only some of the repetitions. The peak is the
shortest run, less the latency of an addition of a few values, so that launches do not count. The result is kept in the
cache folder, by machine, target and versions; a later measurement replaces it only where it is faster.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ...cache_folder import get_cache_folder
from ...errors import FileFormatError, OutputError
from ...lut.target import Target
from ..backends import Backend, Workload, require_backend
from ..backends.cache import read_cache_file, write_cache_file
from ..machine.environment import DEVICE_NAME, fingerprint
from ..timing.measure import measure_rounds
from ..timing.observer import OnProgress, quiet

FORMAT = 1
"""Version of the benchmark and of its file."""
REPETITIONS, ROUNDS = 3, 4
"""Repetitions of each benchmark, spread over the measuring time, and sample batches of each."""
BANDWIDTH_BYTES = tuple(2**exponent for exponent in (18, 20, 22, 24, 26, 28))
"""Bytes read and written by the additions: 256 KiB to 256 MiB."""
ARRAYS = 3
"""Arrays of an addition: two read, one written."""
FEW_VALUES = 16
CHANNELS, CPU_WIDTH, GPU_WIDTH = 256, 64, 256
"""Channels of the large convolution, and its height and width on a CPU and on a GPU."""
MATRIX, GPU_MATRIX = 1024, 4096
"""Rows and columns of the matrices."""


@dataclass(frozen=True)
class DevicePeak:
    """Peak of a device under a backend.

    Attributes:
        target: target that was measured, as text.
        precision: precision of `macs_per_s`; fp32 for int8, whose kernels are not measured.
        macs_per_s: multiply-accumulates per second.
        bandwidths: pairs (bytes, bytes per second), by increasing bytes.
        date: date of the measurement.
        seconds: duration of the measurement.
        slowest_macs_per_s: the same rate of the slowest repetition; None where unknown.
    """

    target: str
    precision: str
    macs_per_s: float
    bandwidths: tuple[tuple[int, float], ...]
    date: str
    seconds: float
    slowest_macs_per_s: float | None = None

    def bandwidth(self, size: int) -> float:
        """Return the bytes per second of reading and writing `size` bytes in all, interpolated between the sizes."""
        sizes, rates = zip(*self.bandwidths, strict=True)
        return float(np.interp(np.log(max(size, 1)), np.log(sizes), rates))

    def compute_ms(self, macs: int) -> float:
        """Return the shortest time of the arithmetic, in ms."""
        return 1e3 * macs / self.macs_per_s

    def memory_ms(self, size: int) -> float:
        """Return the shortest time of reading and writing `size` bytes, in ms."""
        return 1e3 * size / self.bandwidth(size)


def load_peak(
    target: Target, *, refresh: bool = False, on_progress: OnProgress = quiet
) -> tuple[DevicePeak, tuple[str, ...]]:
    """Return the peak from the cache, or measure and cache it; and remarks on the cache.

    Args:
        target: target of the network.
        refresh: measure again; of both peaks the faster is kept.
        on_progress: receives the progress.

    Raises:
        BackendUnavailableError: the target is unavailable on this machine.
        MeasurementError: the backend rejects a benchmark, or memory is short.
    """
    backend = require_backend(target)
    remarks, earlier = [], None
    try:
        path = get_cache_folder("peaks") / _make_file_name(target, backend)
        if path.exists():
            earlier = _read_peak(path)
            if not refresh:
                return earlier, ()
    except FileFormatError as error:
        remarks.append(f"measured the peak again: {error}")
    except (OSError, RuntimeError) as error:  # no home folder, or one that cannot be read
        path = None
        remarks.append(f"the measured peak is not kept: {error}")
    peak = measure_peak(target, backend, on_progress)
    if earlier is not None:
        if earlier.macs_per_s > peak.macs_per_s:
            rates = f"{earlier.macs_per_s / 1e9:.4g} GMACs/s, {peak.macs_per_s / 1e9:.4g} this time"
            remarks.append(f"the faster peak of {earlier.date} is kept: {rates}")
        peak = merge_peaks(earlier, peak)
    try:
        if path is not None:
            write_cache_file(path, {"format": FORMAT}, json.dumps(asdict(peak)).encode())
    except (OutputError, OSError) as error:
        remarks.append(f"the measured peak is not kept: {error}")
    return peak, tuple(remarks)


def measure_peak(target: Target, backend: Backend, on_progress: OnProgress = quiet) -> DevicePeak:
    """Measure the peak; bandwidths in fp32, which other precisions share.

    Raises:
        MeasurementError: the backend rejects a benchmark, or memory is short.
    """
    start = time.monotonic()
    precision = "fp32" if target.precision == "int8" else target.precision
    on_gpu = not target.device.is_cpu
    width, matrix = (GPU_WIDTH, GPU_MATRIX) if on_gpu else (CPU_WIDTH, MATRIX)
    macs = {
        "conv": (make_conv(CHANNELS, width), 9 * CHANNELS**2 * width**2),
        "narrow conv": (make_conv(CHANNELS // 2, width), 9 * (CHANNELS // 2) ** 2 * width**2),
        "matmul": (make_matmul(matrix), matrix**3),
    }
    adds = {str(size): make_add(size // ARRAYS // 4) for size in (FEW_VALUES * ARRAYS * 4, *BANDWIDTH_BYTES)}
    compute_ms, memory_ms = [], []
    for _ in range(REPETITIONS):
        workloads = {key: workload for key, (workload, _) in macs.items()}
        compute_ms.append(_measure(backend, replace(target, precision=precision), workloads, on_progress))
        memory_ms.append(_measure(backend, replace(target, precision="fp32"), adds, on_progress))
    shortest_ms = {key: min(times[key] for times in memory_ms) for key in adds}
    return make_peak(
        str(target),
        precision,
        [{macs[key][1]: ms for key, ms in times.items()} for times in compute_ms],
        {size: shortest_ms[str(size)] for size in BANDWIDTH_BYTES},
        shortest_ms[str(FEW_VALUES * ARRAYS * 4)],
        seconds=time.monotonic() - start,
    )


def merge_peaks(first: DevicePeak, second: DevicePeak) -> DevicePeak:
    """Return the faster of two peaks in each rate: a peak is a maximum. The date is that of the faster arithmetic."""
    rates = [peak.macs_per_s for peak in (first, second)]
    slowest = [peak.slowest_macs_per_s for peak in (first, second) if peak.slowest_macs_per_s is not None]
    pairs = zip(first.bandwidths, second.bandwidths, strict=True)
    return replace(
        second,
        macs_per_s=max(rates),
        bandwidths=tuple((size, max(rate, other)) for (size, rate), (_, other) in pairs),
        date=(first if rates[0] > rates[1] else second).date,
        slowest_macs_per_s=min(*rates, *slowest),
    )


def make_peak(
    target: str,
    precision: str,
    compute_ms: Sequence[dict[int, float]],
    memory_ms: dict[int, float],
    launch_ms: float,
    *,
    seconds: float,
) -> DevicePeak:
    """Return the peak of shortest runs: MACs -> ms of each repetition, and bytes -> ms, each less `launch_ms`."""

    def rate(amount: int, ms: float) -> float:
        return 1e3 * amount / max(ms - launch_ms, 1e-2 * ms)

    repetitions = [max(rate(macs, ms) for macs, ms in times.items()) for times in compute_ms]
    return DevicePeak(
        target,
        precision,
        max(repetitions),
        tuple((size, rate(size, ms)) for size, ms in sorted(memory_ms.items())),
        datetime.now(UTC).date().isoformat(),
        seconds,
        min(repetitions),
    )


def _measure(
    backend: Backend, target: Target, workloads: dict[str, Workload], on_progress: OnProgress
) -> dict[str, float]:
    """Return the shortest run of each workload in ms."""
    measurement = measure_rounds(backend, target, workloads, ROUNDS, on_progress=on_progress)
    return {key: measurement.summary(key).min_ms for key in workloads}


def make_conv(channels: int, width: int) -> Workload:
    """Return a convolution 3x3 from `channels` to as many, of width x width pixels."""
    weight = _make_weights((channels, channels, 3, 3))
    shape = (1, channels, width, width)
    return _make_workload(f"convolution of {channels} channels", "Conv", (shape,), shape, weight, pads=[1] * 4)


def make_matmul(size: int) -> Workload:
    """Return a product of two size x size matrices."""
    return _make_workload("matrix product", "MatMul", ((size, size),), (size, size), _make_weights((size, size)))


def make_add(values: int) -> Workload:
    """Return an addition of two arrays of `values` values."""
    shape = (1, 1, 1, values)
    return _make_workload(f"addition of {values} values", "Add", (shape, shape), shape)


def _make_weights(shape: tuple[int, ...]) -> Any:
    weights = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return weights / np.float32(np.prod(shape[1:]) ** 0.5)


def _make_workload(
    name: str,
    operator: str,
    inputs: tuple[tuple[int, ...], ...],
    output: tuple[int, ...],
    weight: Any = None,
    **attributes: Any,
) -> Workload:
    """Return a graph of one operator."""
    from onnx import TensorProto, helper, numpy_helper

    names = [f"x{index}" for index in range(len(inputs))]
    weights = [] if weight is None else [numpy_helper.from_array(weight, "w")]
    node = helper.make_node(operator, [*names, *(tensor.name for tensor in weights)], ["y"], operator, **attributes)
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(names, inputs, strict=True)]
    graph = helper.make_graph(
        [node], name, values, [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)], weights
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Workload(name, inputs, None, file=model.SerializeToString())


def _make_file_name(target: Target, backend: Backend) -> str:
    """Return the name of the cache file of a target on this machine, by everything that its speed depends on."""
    environment = fingerprint(target, backend)
    identity = {"format": FORMAT, "target": str(target)}
    identity |= {key: environment.get(key) for key in (DEVICE_NAME, "versions", "settings", "tf32", "cpu")}
    identity["gpu"] = (environment.get("gpu") or {}).get("uuid")
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"{digest[:32]}.peak"


def _read_peak(path: Path) -> DevicePeak:
    """Return the peak in a cache file.

    Raises:
        FileFormatError: the file is damaged.
    """
    try:
        content = json.loads(read_cache_file(path)[1])
        return DevicePeak(**content | {"bandwidths": tuple(map(tuple, content["bandwidths"]))})
    except (ValueError, TypeError, KeyError) as error:
        raise FileFormatError(f"{path} is damaged") from error
