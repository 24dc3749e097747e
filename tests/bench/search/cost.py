"""Cost of a search step, relative to a training step and to a step of a supernet that computes all operators.

Steps are timed alternately in one process; the peak memory of each kind is measured in a separate process.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROUNDS = 4
NETWORKS = 6
"""Random architectures near the target, whose mean a search step is compared with."""
KINDS = ("search", "training", "mixed")
CASES = {
    "tiny 192x256, batch 8": ("tiny", (192, 256), 8),
    "lgcnet-camvid 192x256, batch 4": ("lgcnet-camvid", (192, 256), 4),
    "rapid 192x256, batch 8": ("rapid", (192, 256), 8),
}
"""Name -> preset, image size, batch."""


def measure_costs() -> dict[str, Any]:
    """Return ratios of time and memory for every case, measured in new processes with one thread."""
    return {name: measure_case(name) for name in CASES}


def measure_case(name: str) -> dict[str, Any]:
    """Return time and memory of each kind of step."""
    kinds = list_kinds(name)
    timed = run_child(name, "times")
    peaks = {kind: [run_child(name, kind, str(seed))["peak_bytes"] for seed in range(NETWORKS)] for kind in kinds}
    base = run_child(name, "nothing")["peak_bytes"]
    memory = {kind: statistics.mean(values) - base for kind, values in peaks.items()}
    ratios = {kind: [row["search"] / row[kind] for row in timed["rounds"]] for kind in kinds if kind != "search"}
    costs = {
        "search_step_s": statistics.median(row["search"] for row in timed["rounds"]),
        "times_a_training_step": statistics.median(ratios["training"]),
        "times_a_training_step_range": [min(ratios["training"]), max(ratios["training"])],
        "memory_times_training": memory["search"] / memory["training"],
    }
    if "mixed" in kinds:
        costs |= {
            "mixed_is_slower_by": 1 / statistics.median(ratios["mixed"]),
            "mixed_is_slower_by_range": [1 / max(ratios["mixed"]), 1 / min(ratios["mixed"])],
            "mixed_memory_times_training": memory["mixed"] / memory["training"],
        }
    return costs


def list_kinds(name: str) -> tuple[str, ...]:
    """Return the kinds of steps of a case; a supernet that computes all operators at once has no searched widths."""
    from lgc.models import SearchSpace

    return KINDS if not getattr(SearchSpace.load(CASES[name][0]), "searches_widths", False) else KINDS[:2]


def run_child(name: str, *arguments: str) -> dict[str, Any]:
    """Run this module in a new process and return its JSON output."""
    command = [sys.executable, "-m", "bench.search.cost", name, *arguments]
    environment = {"OMP_NUM_THREADS": "1", "PATH": "", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **environment})
    return dict(json.loads(done.stdout.splitlines()[-1]))


class Bench:
    """The three kinds of step on one space, with random images."""

    def __init__(self, name: str) -> None:
        import torch

        from lgc.models import SearchSpace
        from lgc.search.runtime.fabric import open_fabric

        preset, size, batch = CASES[name]
        torch.manual_seed(0)
        self.space = SearchSpace.load(preset).with_input(*size)
        self.batches = [
            (torch.randn(batch, 3, *size), torch.randint(self.space.classes, (batch, *size))) for _ in range(2)
        ]
        self.fabric = open_fabric("cpu")

    def search(self) -> Callable[[], None]:
        """Return a step of `SupernetTrainer`, weights and architecture."""
        from lgc.search.config import SearchConfig
        from lgc.search.supernet.blocks import BlockDecisions
        from lgc.search.supernet.supernet_trainer import SupernetTrainer

        config = SearchConfig(steps=1000, batch=len(self.batches[0][0]), warm_up=0.0, targets_ms=((1.0,),))
        trainer = SupernetTrainer(BlockDecisions(self.space), config, self.fabric, make_constraint(self.space))
        return lambda: trainer.train_step((self.batches[0], self.batches[1]))

    def training(self, seed: int) -> Callable[[], None]:
        """Return a training step of a random architecture."""
        import torch

        from lgc.models import LGCNet
        from lgc.search.constraint.exploration import draw_paths
        from lgc.search.training.losses import SegmentationLoss

        constraint = make_constraint(self.space)
        paths = draw_paths([constraint], 0)
        choices = constraint.decisions.expand(paths[seed * len(paths) // NETWORKS][None])[0]
        network = LGCNet(self.space, self.space.build(choices.tolist()))
        optimiser = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)

        def step() -> None:
            images, labels = self.batches[0]
            loss = SegmentationLoss(False)([network(images)], labels)[0]
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimiser.step()

        return step

    def mixed(self) -> Callable[[], None]:
        """Return a step of a DARTS supernet (arXiv 1806.09055), in which every edge computes all operators."""
        import torch

        from lgc.search.training.losses import SegmentationLoss

        from .mixed import MixedNet

        network = MixedNet(self.space)
        weights = torch.optim.SGD(network.weights(), 0.01, momentum=0.9, weight_decay=3e-4)
        adam = torch.optim.Adam([network.alpha], 1e-3, betas=(0.5, 0.999))

        def step() -> None:
            for (images, labels), optimiser, inputs in zip(
                self.batches, (weights, adam), (network.weights(), [network.alpha]), strict=True
            ):
                loss = SegmentationLoss(False)([network(images)], labels)[0]
                optimiser.zero_grad(set_to_none=True)
                loss.backward(inputs=inputs)
                optimiser.step()

        return step


def make_constraint(space: Any) -> Any:
    """Return a constraint on multiply-accumulates, without a table: the geometric mean of the space's range."""
    from lgc.models.space.costs import count_cost
    from lgc.search.constraint.constraint import CostConstraint
    from lgc.search.supernet.blocks import BlockDecisions

    decisions, cost = BlockDecisions(space), count_cost(space, "macs")
    free = CostConstraint(decisions, [cost])
    low, high = (float(free.evaluate(choices)[0, 0]) for choices in (free.cheapest, free.costliest))
    return CostConstraint(decisions, [cost.scale(1 / (low * high) ** 0.5)], (1.0,))


def measure_times(name: str) -> dict[str, Any]:
    """Return the seconds of each kind of step per round; a training step is the mean over networks."""
    bench = Bench(name)
    trainings = [bench.training(seed) for seed in range(NETWORKS)]
    steps = {"search": [bench.search()], "training": trainings}
    if "mixed" in list_kinds(name):
        steps["mixed"] = [bench.mixed()]
    rounds = []
    for number in range(ROUNDS + 1):
        row = {}
        for kind, variants in steps.items():
            start = time.perf_counter()
            for _ in range(NETWORKS // len(variants)):  # equal numbers of steps
                for step in variants:
                    step()
            row[kind] = (time.perf_counter() - start) / NETWORKS
        if number:
            rounds.append(row)
    return {"rounds": rounds}


def measure_peak(name: str, kind: str, seed: int) -> dict[str, Any]:
    """Return the peak resident memory of this process after three steps of a kind."""
    bench = Bench(name)
    if kind != "nothing":
        step = {"search": bench.search, "training": lambda: bench.training(seed), "mixed": bench.mixed}[kind]()
        for _ in range(3):
            step()
    return {"peak_bytes": peak_resident_bytes()}


def peak_resident_bytes() -> int:
    """Return the peak resident memory in bytes; `getrusage` would include the parent process."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    result = (
        measure_times(sys.argv[1])
        if sys.argv[2] == "times"
        else measure_peak(sys.argv[1], sys.argv[2], int((sys.argv[3:] or ["0"])[0]))
    )
    print(json.dumps(result))
