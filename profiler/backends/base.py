"""What every backend offers: a `Backend` turns a `Workload` into a `Runner` on a device."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from ...device import Device
from ...errors import MeasurementError
from ...lut.target import Target

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


FLOAT, PIXELS = "float32", "uint8"
"""Types of inputs, as numpy names them."""


@dataclass(frozen=True)
class Workload:
    """One computation to be run and timed: an operator of the table, a whole network, or an ONNX file.

    Attributes:
        name: for messages.
        input_shapes: one for each input.
        build: returns the module in evaluation mode with its batch normalisation folded; its forward takes one tensor
            of each shape. Every backend gets the same module; those that want ONNX take `onnx`. None where there is
            nothing but a file.
        dtype: of all inputs: `float32`, tensors that lie on the device; or `uint8`, images that lie on the host, whose
            way to the device and back is timed too (scope end-to-end).
        file: the ONNX model that is run as it is, where there is one.
        export: gives the ONNX model of `build`, where it is more than the module exported; only asked if it is run.
    """

    name: str
    input_shapes: tuple[tuple[int, ...], ...]
    build: Callable[[], torch.nn.Module] | None
    dtype: str = FLOAT
    file: bytes | None = field(default=None, repr=False)
    export: Callable[[], bytes] | None = field(default=None, repr=False, compare=False)

    @cached_property
    def onnx(self) -> bytes:
        """The computation as a serialised ONNX model with static shapes."""
        if self.file is not None:
            return self.file
        if self.export is not None:
            return self.export()
        from ...models.onnx.export import to_onnx

        return to_onnx(self.module(), self.input_shapes, self.dtype)

    def module(self) -> torch.nn.Module:
        """The computation as a torch module.

        Raises:
            MeasurementError: there is nothing but an ONNX file.
        """
        if self.build is None:
            raise MeasurementError(f"{self.name} is an ONNX file, which torch does not run: take another backend")
        return self.build()

    def inputs(self) -> list[NDArray[Any]]:
        """Random inputs of its shapes and type, the same each time."""
        return random_inputs(self.input_shapes, self.dtype)


@dataclass(frozen=True)
class LayerTime:
    """How long one layer of a runtime takes.

    Attributes:
        layer: its name there.
        nodes: names of the ONNX nodes in it, as far as the runtime tells; none in a copy between formats.
        ms: median duration, in milliseconds.
    """

    layer: str
    nodes: tuple[str, ...]
    ms: float


class Runner(Protocol):
    """A workload made ready on a device. Narrow on purpose: a runner may one day sit on another machine.

    Attributes:
        remarks: what a reader has to know of how it was made ready, as sentences without a full stop.
    """

    remarks: tuple[str, ...]

    def prepare(self) -> None:
        """Do all that must not be timed: allocate, fill the inputs with random values, run until caches are warm."""

    def run(self, repeats: int) -> list[float]:
        """Run `repeats` times back to back; the duration of each in milliseconds, device work included to its end."""

    def run_untimed(self, repeats: int) -> None:
        """Run `repeats` times back to back and wait once: no event and no wait between two runs.

        For energy and warm-up; where a backend cannot queue runs, each is waited for.
        """

    def infer(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Outputs for the given inputs, from the very program that `run` times."""

    def layer_times(self, runs: int) -> list[LayerTime]:
        """How long each layer takes, median over `runs`; profiling makes all of them slower.

        Raises:
            MeasurementError: the backend cannot tell its layers.
        """

    def close(self) -> None:
        """Give the device's memory back; the runner is of no use afterwards."""


class Backend(Protocol):
    """A way of running networks: torch, ONNX Runtime, TensorRT. Stateless; made anew wherever one is needed."""

    name: str

    def precisions(self, device: Device) -> tuple[str, ...]:
        """Of `fp32`, `fp16`, `bf16` and `int8`, those in which this backend computes on `device`."""

    def unavailable(self, device: Device) -> str | None:
        """None if this backend runs on `device` here, else the reason and what to install, in one sentence."""

    def versions(self) -> dict[str, str]:
        """Versions of the libraries that decide the speed, for the table's fingerprint."""

    def settings(self, target: Target) -> dict[str, str]:
        """How it runs things on `target`, as far as that decides the speed: providers, threads, optimisations.

        `clock` is what times a run; on a GPU, `host_memory` is what images and results are copied from and to.
        """

    def compile(self, workload: Workload, target: Target) -> Runner:
        """Make `workload` ready to run on `target`; never on anything else.

        Raises:
            BackendUnavailableError: `target` cannot be used here.
            MeasurementError: the backend refuses the workload.
        """


WARM_UP_RUNS = 3
WARM_UP_MS = 5.0
"""Least time for which a graph runs before it is timed."""
FIRST_WARM_UP_MS = 200.0
"""The same for the first graph of a process on a GPU, which raises its clocks step by step."""
WARM_UP_BATCH = 64
_warm: set[str] = set()
"""GPUs on which this process has run for `FIRST_WARM_UP_MS`."""


def warm_up(runner: Runner, device: Device, wanted_ms: float | None = None) -> None:
    """Run until allocations, caches and, on a GPU, clocks have settled: `WARM_UP_RUNS`, and for the time wanted.

    On a GPU up to `WARM_UP_BATCH` runs are queued at once: one by one, the device would idle between short ones.

    Args:
        runner: what runs.
        device: where it runs.
        wanted_ms: wall time in milliseconds; by the constants above if None.
    """
    on_gpu = not device.is_cpu
    if wanted_ms is None:
        wanted_ms = FIRST_WARM_UP_MS if on_gpu and device not in _warm else WARM_UP_MS
    start, runs, batch = time.perf_counter(), 0, 1
    while runs < WARM_UP_RUNS or 1e3 * (time.perf_counter() - start) < wanted_ms:
        runner.run_untimed(batch)
        runs += batch
        if on_gpu:
            batch = min(2 * batch, WARM_UP_BATCH)
    if on_gpu:
        _warm.add(device)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Context in which Python's garbage collector does not run."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def random_inputs(shapes: Sequence[tuple[int, ...]], dtype: str = FLOAT) -> list[NDArray[Any]]:
    """Standard normal inputs, or pixels 0 to 255, the same for the same shapes: zeros can run faster than real data."""
    import numpy as np

    rng = np.random.default_rng(0)
    if dtype == PIXELS:
        return [rng.integers(0, 256, shape, np.uint8) for shape in shapes]
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
