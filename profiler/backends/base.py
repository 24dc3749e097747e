"""Interface of a backend: a `Backend` compiles a `Workload` into a `Runner` on a device."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from ...device import Device
from ...errors import MeasurementError, PluginError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from ...lut.target import Target
    from ...models.onnx.model import OnnxModel

FLOAT_DTYPE, IMAGE_DTYPE = "float32", "uint8"
"""Input types, by numpy's names."""


@dataclass(frozen=True)
class Workload:
    """Computation to run and time: an operator of the table, a whole network, or an ONNX file.

    Attributes:
        name: name for messages.
        input_shapes: shape of each input.
        build: function that returns the module in evaluation mode with folded batch normalisation; its forward takes
            one tensor per shape. All backends get the same module; those that run ONNX use `onnx`. None for a workload
            that is an ONNX file.
        dtype: type of all inputs. `float32`: tensors in device memory. `uint8`: images in host memory, whose copies to
            the device and back are timed too (scope end-to-end).
        dtypes: type of each input of an ONNX file whose inputs have other types; they are in device memory.
        file: ONNX model that runs unchanged, if any.
        export: function that returns the ONNX model of `build`, where a plain export of the module is not enough.
            Called on first use of `onnx` only.
    """

    name: str
    input_shapes: tuple[tuple[int, ...], ...]
    build: Callable[[], torch.nn.Module] | None
    dtype: str = FLOAT_DTYPE
    file: bytes | None = field(default=None, repr=False)
    export: Callable[[], bytes] | None = field(default=None, repr=False, compare=False)
    dtypes: tuple[str, ...] = ()

    @classmethod
    def for_model(cls, model: OnnxModel, name: str) -> Workload:
        """Return an ONNX model as a workload that runs unchanged."""
        shapes, dtypes = (tuple(getattr(tensor, key) for tensor in model.inputs) for key in ("shape", "dtype"))
        if set(dtypes) in ({FLOAT_DTYPE}, {IMAGE_DTYPE}):
            return cls(name, shapes, None, dtypes[0], model.data)
        return cls(name, shapes, None, file=model.data, dtypes=dtypes)

    @cached_property
    def onnx(self) -> bytes:
        """Serialised ONNX model with static shapes.

        Raises:
            PluginError: A module of the user's cannot be exported.
        """
        if self.file is not None:
            return self.file
        if self.export is not None:
            return self.export()
        from ...models.onnx.export import to_onnx

        module = self.module()
        try:
            return to_onnx(module, self.input_shapes, self.dtype)
        except PluginError as error:
            raise PluginError(f"{self.name}: {error}") from error

    def module(self) -> torch.nn.Module:
        """Return the computation as a torch module.

        Raises:
            MeasurementError: the workload is an ONNX file.
        """
        if self.build is None:
            raise MeasurementError(f"{self.name} is an ONNX file, which torch cannot run: use another backend")
        return self.build()

    def inputs(self) -> list[NDArray[Any]]:
        """Return random inputs of the workload's shapes and type, the same on every call."""
        return generate_inputs(self.input_shapes, self.dtypes or (self.dtype,) * len(self.input_shapes))


@dataclass(frozen=True)
class RuntimeLayer:
    """Layer of a runtime: the unit that it runs and times.

    Attributes:
        name: the runtime's name of the layer.
        nodes: names of the layer's ONNX nodes, where the runtime reports them.
        operator: the runtime's type of the layer; empty where unknown.
        shape: the runtime's shape of the first output; empty where unknown.
        is_copy: True if the layer only copies a tensor to another layout; it then computes none of its `nodes`, which
            are the copy's neighbours.
        item_bytes: bytes of a value of the first output; None for a float in the target's precision.
        moved_bytes: bytes of the inputs, weights and outputs by the runtime; None where it does not report them.
        is_widened: True if the runtime computes float16 tensors of the layer in float32.
    """

    name: str
    nodes: tuple[str, ...]
    operator: str = ""
    shape: tuple[int, ...] = ()
    is_copy: bool = False
    item_bytes: int | None = None
    moved_bytes: int | None = None
    is_widened: bool = False


@dataclass(frozen=True)
class LayerRuns:
    """Durations of the layers in profiled runs.

    Attributes:
        layers: layers in the order of computation.
        durations_ms: duration of each layer in each run, in ms, [runs, layers].
    """

    layers: tuple[RuntimeLayer, ...]
    durations_ms: NDArray[np.float64]


@dataclass(frozen=True)
class LayerTime:
    """Latency of one layer of a runtime.

    Attributes:
        layer: the runtime's name of the layer.
        nodes: names of the layer's ONNX nodes, where the runtime reports them; empty for a copy between formats.
        ms: interquartile mean of the latencies in milliseconds.
    """

    layer: str
    nodes: tuple[str, ...]
    ms: float


class LayerTimer(Protocol):
    """Profiler of a runtime, attached to a warm program; each run is reported layer by layer."""

    def run(self, repeats: int) -> None:
        """Run the program `repeats` times with the profiler on."""

    def finish(self) -> LayerRuns:
        """Return the layers of all runs; the timer cannot run afterwards.

        Raises:
            MeasurementError: the runtime's report is incomplete.
        """


class Runner(Protocol):
    """Workload compiled for a device. The interface is narrow, so that a runner can also be on another machine.

    Attributes:
        remarks: notes on how the workload was compiled, as sentences without a full stop.
    """

    remarks: tuple[str, ...]

    def prepare(self) -> None:
        """Do everything that must not be timed: allocate, fill the inputs with random values, run until warm."""

    def run(self, repeats: int) -> list[float]:
        """Run `repeats` times back to back and return each run's latency in ms, up to the end of the device's work."""

    def run_untimed(self, repeats: int) -> None:
        """Run `repeats` times back to back and synchronise once: no event and no wait between two runs.

        For energy and warm-up. A backend that cannot queue runs waits for each of them.
        """

    def infer(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the outputs for `inputs`, computed by the same program that `run` times."""

    def time_layers(self) -> AbstractContextManager[LayerTimer]:
        """Return a timer of the layers; profiling slows all layers down. The runner itself stays as it is.

        Raises:
            MeasurementError: the backend does not report layer times.
        """

    def close(self) -> None:
        """Free the device's memory; the runner cannot be used afterwards."""


class Backend(Protocol):
    """Runtime for networks, such as torch, ONNX Runtime or TensorRT. Stateless: create one wherever it is needed.

    A new backend is a folder with `backend.py` (this protocol), `runner.py` (`Runner`) and, if it reports layer times,
    `layers.py`; `BACKENDS` registers it.
    """

    name: str

    def precisions(self, device: Device) -> tuple[str, ...]:
        """Return the supported precisions on `device`, of `fp32`, `fp16`, `bf16` and `int8`."""

    def install_hint(self, device: Device) -> str:
        """Return the command that installs what the backend needs on `device`."""

    def diagnose(self, device: Device) -> str | None:
        """Return None if this backend runs on `device`, else the reason and the fix in one sentence."""

    def diagnose_layers(self, device: Device) -> str | None:
        """Return None if runners on `device` report layer times, else the reason and an alternative in one sentence."""

    def versions(self) -> dict[str, str]:
        """Return the versions of the libraries that determine the speed, for the table's fingerprint."""

    def settings(self, target: Target) -> dict[str, str]:
        """Return the settings on `target` that determine the speed: providers, threads, optimisations.

        `clock` names the clock of a run; on a GPU, `host_memory` names the host memory of images and results.
        """

    def compile(self, workload: Workload, target: Target) -> Runner:
        """Compile `workload` for `target`, never for another device.

        Raises:
            BackendUnavailableError: `target` is unavailable on this machine.
            MeasurementError: the backend rejects the workload.
        """


def measure_layers(runner: Runner, runs: int) -> list[LayerTime]:
    """Return each layer's latency in ms, the interquartile mean over `runs`.

    Raises:
        MeasurementError: the backend does not report layer times.
    """
    from ...lut.statistics.estimates import interquartile_mean

    with runner.time_layers() as timer:
        timer.run(runs)
        result = timer.finish()
    latencies_ms = interquartile_mean(result.durations_ms).tolist()
    return [LayerTime(layer.name, layer.nodes, ms) for layer, ms in zip(result.layers, latencies_ms, strict=True)]


MIN_WARM_UP_RUNS = 3
MIN_WARM_UP_MS = 5.0
"""Shortest warm-up of a graph, in ms of wall time."""
MIN_FIRST_WARM_UP_MS = 200.0
"""Shortest warm-up of a process's first graph on a GPU, which raises its clocks step by step."""
MAX_WARM_UP_BATCH = 64
_warm_devices: set[str] = set()
"""GPUs on which this process has run for `MIN_FIRST_WARM_UP_MS`."""


def warm_up(runner: Runner, device: Device, min_ms: float | None = None) -> None:
    """Run until allocations, caches and, on a GPU, clocks are steady: at least `MIN_WARM_UP_RUNS` and `min_ms`.

    On a GPU up to `MAX_WARM_UP_BATCH` runs are queued at once: one by one, the device would idle between short runs.

    Args:
        runner: runner to warm up.
        device: device of the runner.
        min_ms: shortest wall time in milliseconds; by default one of the constants above.
    """
    on_gpu = not device.is_cpu
    if min_ms is None:
        min_ms = MIN_FIRST_WARM_UP_MS if on_gpu and device not in _warm_devices else MIN_WARM_UP_MS
    start, runs, batch = time.perf_counter(), 0, 1
    while runs < MIN_WARM_UP_RUNS or 1e3 * (time.perf_counter() - start) < min_ms:
        runner.run_untimed(batch)
        runs += batch
        if on_gpu:
            batch = min(2 * batch, MAX_WARM_UP_BATCH)
    if on_gpu:
        _warm_devices.add(device)


@contextmanager
def pause_gc() -> Iterator[None]:
    """Pause Python's garbage collector inside the context."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def generate_inputs(shapes: Sequence[tuple[int, ...]], dtypes: str | Sequence[str] = FLOAT_DTYPE) -> list[NDArray[Any]]:
    """Return a random input of each shape, the same for the same shapes; see `generate_array`.

    Zeros can run faster than real data.

    Args:
        shapes: shapes of the inputs.
        dtypes: type of all inputs, or of each.
    """
    import numpy as np

    from ...models.onnx.tensors import generate_array

    rng = np.random.default_rng(0)
    kinds = [dtypes] * len(shapes) if isinstance(dtypes, str) else dtypes
    return [generate_array(rng, shape, dtype) for shape, dtype in zip(shapes, kinds, strict=True)]
