"""Waiting for data, as a share of a training step of the fastest preset on a CPU, by defaults."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lgc.models import SearchSpace
from lgc.models.nets.sources import ArchitectureSource
from lgc.search.data.cache.opening import cache_datasets
from lgc.search.data.datasets import load_dataset
from lgc.search.runtime.batches import Batch, load_batches
from lgc.search.runtime.fabric import open_fabric
from lgc.search.runtime.run_folder import RunFolder
from lgc.search.runtime.training_loop import run_steps
from lgc.search.training.config import TrainConfig
from lgc.search.training.network_trainer import NetworkTrainer

from .step import build_network, find_smallest

PRESET = "tiny"
WARM_UP, STEPS = 5, 60


def measure_waiting(data: Path) -> dict[str, Any]:
    """Return the share of the time of steps that passed before their batch was there, in percent."""
    space = SearchSpace.load(PRESET)
    config = TrainConfig(steps=WARM_UP + STEPS)
    dataset = load_dataset(data, "train", space.input, augment=True, seed=config.seed)
    (dataset,) = cache_datasets(
        [dataset], None, views=config.steps * config.batch + 2 * len(dataset), log=lambda _: None
    )
    network = build_network(ArchitectureSource(find_smallest(space)), dataset, config, space.input)
    with tempfile.TemporaryDirectory() as folder:
        trainer = NetworkTrainer(network, config, open_fabric())
        run = RunFolder(Path(folder) / "run", "train", {})
        batches = load_batches(
            dataset, config.batch, config.seed, start=0, stop=config.steps, workers=config.workers or 0
        )
        clock = Clock()
        run_steps(trainer, clock.watch(batches), config.steps, run, lambda step, steps: None)
    return {
        "preset": PRESET,
        "size": list(space.input),
        "batch": config.batch,
        "threads": torch.get_num_threads(),
        "steps": STEPS,
        "step_ms": 1000 * clock.total_s / STEPS,
        "waiting_pct": 100 * clock.waiting_s / clock.total_s,
    }


class Clock:
    """Time that passed until each batch was there, and in all, after the warm-up."""

    def __init__(self) -> None:
        self.waiting_s = self.total_s = 0.0

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches."""
        began = time.perf_counter()
        for step in range(WARM_UP + STEPS):
            if step == WARM_UP:
                began, self.waiting_s = time.perf_counter(), 0.0
            asked = time.perf_counter()
            batch = next(batches)
            self.waiting_s += time.perf_counter() - asked
            yield batch
        self.total_s = time.perf_counter() - began
