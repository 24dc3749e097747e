"""What every backend offers: a `Backend` turns a `Workload` into a `Runner` on a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from ...lut.target import Target

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Workload:
    """One computation to be run and timed: an operator of the table or a whole network.

    `build` returns the module in evaluation mode with its batch normalisation folded; its forward takes one float32
    tensor of shape `input_shapes[i]` each. Every backend gets the same module; those that want ONNX take `onnx`.
    """

    name: str
    input_shapes: tuple[tuple[int, ...], ...]
    build: Callable[[], torch.nn.Module]

    @cached_property
    def onnx(self) -> bytes:
        """The module as a serialised ONNX model with static shapes; inputs are `input_0`..., outputs `output_0`...."""
        from ...models.onnx_export import to_onnx

        return to_onnx(self.build(), self.input_shapes)


class Runner(Protocol):
    """A workload made ready on a device. Narrow on purpose: a runner may one day sit on another machine."""

    def prepare(self) -> None:
        """Do all that must not be timed: allocate, fill the inputs with random values, run until caches are warm."""

    def run(self, repeats: int) -> list[float]:
        """Run `repeats` times back to back; the duration of each in milliseconds, device work included to its end."""

    def infer(self, inputs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.generic]]:
        """Outputs for the given inputs, from the very program that `run` times."""

    def close(self) -> None:
        """Give the device's memory back; the runner is of no use afterwards."""


class Backend(Protocol):
    """A way of running networks: torch, ONNX Runtime, TensorRT. Stateless; made anew wherever one is needed."""

    name: str

    def precisions(self, device: str) -> tuple[str, ...]:
        """Of `fp32`, `fp16` and `bf16`, those in which this backend computes on `device`, as far as it runs there."""

    def unavailable(self, device: str) -> str | None:
        """None if this backend runs on `device` here, else the reason and what to install, in one sentence."""

    def versions(self) -> dict[str, str]:
        """Versions of the libraries that decide the speed, for the table's fingerprint."""

    def compile(self, workload: Workload, target: Target) -> Runner:
        """Make `workload` ready to run on `target`; never on anything else.

        Raises:
            BackendUnavailableError: `target` cannot be used here.
            MeasurementError: the backend refuses the workload.
        """


WARM_UP_RUNS = 3
WARM_UP_CPU_MS = 5.0
WARM_UP_GPU_MS = 200.0
WARM_UP_BATCH = 64


def warm_up(runner: Runner, *, on_gpu: bool) -> None:
    """Run until allocations, caches and, on a GPU, clocks have settled: `WARM_UP_RUNS` and the time above.

    On a GPU up to `WARM_UP_BATCH` runs are asked for at once: one by one, a short operator's 200 ms would take seconds
    of waiting for the host, with the device idle between.
    """
    wanted = WARM_UP_GPU_MS if on_gpu else WARM_UP_CPU_MS
    spent, runs, batch = 0.0, 0, 1
    while runs < WARM_UP_RUNS or spent < wanted:
        spent += sum(runner.run(batch))
        runs += batch
        if on_gpu:
            batch = min(2 * batch, WARM_UP_BATCH)


def random_inputs(shapes: Sequence[tuple[int, ...]]) -> list[NDArray[np.float32]]:
    """Standard normal inputs, the same for the same shapes: zeros can run faster than real data."""
    import numpy as np

    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
