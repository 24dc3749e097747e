"""Time the same program in two ways, alternately, so that drift affects both equally."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from lgc.lut import Target
from lgc.profiler.backends import Workload, get_backend
from lgc.profiler.machine.devices import torch_threads
from lgc.profiler.machine.environment import pinned

Name = TypeVar("Name")
ROUNDS = 20
ROUND_MS = 200.0
"""Duration of each kind in a round, in milliseconds."""
MAX_RUNS, MIN_RUNS = 200, 5
"""Runs of each kind in a round."""


def time_alternately(ours: Callable[[], float], theirs: Callable[[], float], rounds: int) -> dict[str, Any]:
    """Return the medians of both in milliseconds, and quartiles of the ratio ours / theirs within rounds.

    The order alternates from round to round.
    """
    pairs = []
    for number in range(rounds):
        if number % 2:
            mine = ours()
            pairs.append((mine, theirs()))
        else:
            other = theirs()
            pairs.append((ours(), other))
    low, middle, high = np.quantile([a / b for a, b in pairs], [0.25, 0.5, 0.75]).tolist()
    ours_ms, theirs_ms = np.median(pairs, axis=0).tolist()
    ratios = {"ratio": middle, "ratio_q25": low, "ratio_q75": high}
    return {"rounds": rounds, "ours_ms": ours_ms, "theirs_ms": theirs_ms, **ratios}


def time_in_turns(programs: Mapping[Name, Callable[[], float]], rounds: int) -> dict[Name, list[float]]:
    """Return what each program returns in each round; the order is reversed from round to round."""
    values: dict[Name, list[float]] = {name: [] for name in programs}
    for number in range(rounds):
        for name in list(programs)[:: -1 if number % 2 else 1]:
            values[name].append(programs[name]())
    return values


def compare_rounds(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Return the median of the ratio ours / theirs within rounds, and its 95 % interval.

    The interval is between two order statistics, without an assumption on the distribution. With fewer than 6 rounds
    it is the range.
    """
    from scipy.stats import binom

    ratios = np.sort(np.divide(ours, theirs))
    outside = max(int(binom.ppf(0.025, len(ratios), 0.5)) - 1, 0)
    low, high = float(ratios[outside]), float(ratios[-1 - outside])
    return {"ratio": float(np.median(ratios)), "ratio_low": low, "ratio_high": high}


def against_bare_loop(workload: Workload, target: Target, rounds: int | None = None) -> dict[str, Any]:
    """Compare the mean of lgc's timing with a bare loop over the same program, timed by the host's clock.

    On a GPU the loop launches all runs and waits once after the last, which gives the throughput of a stream of images.
    ONNX Runtime waits in every run. The default is `ROUNDS` rounds.
    """
    runner: Any = get_backend(target.backend).compile(workload, target)
    try:
        with pinned(target):
            runner.prepare()
            runs = min(MAX_RUNS, max(MIN_RUNS, round(ROUND_MS / float(np.median(runner.run(MIN_RUNS))))))

            def loop() -> float:
                with _bare_calls(runner, target) as (launch, wait):
                    start = time.perf_counter()
                    for _ in range(runs):
                        launch()
                    wait()
                    return 1000 * (time.perf_counter() - start) / runs

            return time_alternately(lambda: float(np.mean(runner.run(runs))), loop, rounds or ROUNDS) | {
                "runs_a_round": runs
            }
    finally:
        runner.close()


@contextmanager
def _bare_calls(runner: Any, target: Target) -> Iterator[tuple[Callable[[], object], Callable[[], object]]]:
    """Yield a function that launches a run of a runner's program directly, and one that waits for the last run."""
    if target.backend.startswith("onnxruntime"):
        session, binding = runner._session, runner._binding
        yield (lambda: session.run_with_iobinding(binding)), (lambda: None)
    elif target.backend == "tensorrt":
        with runner._device.activate():
            yield runner._open_graph.launch, runner._device.synchronize
    elif target.device == "cpu":
        import torch

        with torch.inference_mode(), torch_threads(target.threads):
            yield (lambda: runner._module(*runner._inputs)), (lambda: None)
    else:
        yield runner._graph.replay, runner._graph.synchronize
