"""Two ways of timing the same thing, in turn: what the machine does meanwhile, it does to both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from lgc.lut import Target
from lgc.profiler.backends import Workload, get_backend
from lgc.profiler.machine.devices import torch_threads
from lgc.profiler.machine.environment import pinned

ROUNDS = 20
ROUND_MS = 200.0
"""Time of each kind in a round, and the most and fewest runs in it."""
MOST, FEWEST = 200, 5


def in_turns(ours: Callable[[], float], theirs: Callable[[], float], rounds: int) -> dict[str, Any]:
    """Milliseconds of both, each first in every other round; the ratio ours / theirs is taken within a round."""
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


def against_bare_loop(workload: Workload, target: Target, rounds: int | None = None) -> dict[str, Any]:
    """The mean of our timing of a program against a bare loop over the same program, by the host's clock.

    On a GPU the loop launches all runs and waits once, at the end of the last: the time by which a stream of images
    gets on. ONNX Runtime's call waits in every run. `ROUNDS` rounds, unless `rounds` says how many.
    """
    runner: Any = get_backend(target.backend).compile(workload, target)
    try:
        with pinned(target):
            runner.prepare()
            runs = min(MOST, max(FEWEST, round(ROUND_MS / float(np.median(runner.run(FEWEST))))))

            def loop() -> float:
                with _bare(runner, target) as (launch, wait):
                    start = time.perf_counter()
                    for _ in range(runs):
                        launch()
                    wait()
                    return 1000 * (time.perf_counter() - start) / runs

            return in_turns(lambda: float(np.mean(runner.run(runs))), loop, rounds or ROUNDS) | {"runs_a_round": runs}
    finally:
        runner.close()


@contextmanager
def _bare(runner: Any, target: Target) -> Iterator[tuple[Callable[[], object], Callable[[], object]]]:
    """What launches a run of a runner's program with nothing of ours around it, and what waits for the last one."""
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
