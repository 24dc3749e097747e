"""Training step: images a second of lgc's loop against a bare torch loop, in alternating rounds of one process.

Both train the same network from the same weights on the same views, with the same loss, learning rates and average.
Their averaged weights are compared after some steps: equal work gives equal weights, to within rounding.
"""

from __future__ import annotations

import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lgc.models import Architecture, SearchSpace
from lgc.models.nets.checks import check_training
from lgc.models.nets.definition import NetworkDefinition
from lgc.models.nets.sources import ArchitectureSource, NetworkSource, load_source
from lgc.search.data.cache.opening import cache_datasets
from lgc.search.data.datasets import SegmentationDataset, load_dataset
from lgc.search.runtime.batches import load_batches
from lgc.search.runtime.fabric import open_fabric
from lgc.search.runtime.run_folder import RunFolder
from lgc.search.runtime.training_loop import run_steps
from lgc.search.training.auxiliary import TrainingNetwork, build_training_network
from lgc.search.training.config import TrainConfig
from lgc.search.training.losses import compute_class_weights
from lgc.search.training.network_trainer import NetworkTrainer

from ..common.paired_timing import compare_rounds, time_in_turns
from .bare_loop import BareLoop

SIZE = (192, 256)
BATCH = 8
ROUNDS = 20
TURN_S = 4.0
"""Duration of a turn of one loop, in seconds."""
CHECKED_STEPS = 4
"""Number of steps after which the weights are compared."""
CALIBRATION_ROUNDS = 4
"""Turns of the bare loop in each memory format."""
KEEP_MEMORY = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
"""Variables by which glibc keeps freed memory; otherwise each step's page faults depend on the steps before."""
STEPS = 10**6
"""Length of the training that the steps belong to; only the learning rate depends on it."""
FORMS = Path(__file__).with_name("forms.py")
SAMPLES = 200
"""Number of random architectures of which that with the fewest multiply-accumulates is the fastest."""


def choose_networks() -> dict[str, NetworkSource]:
    """Return the networks by name: a peer, a user's with two auxiliary outputs, architectures of two presets."""
    camvid = SearchSpace.load("lgcnet-camvid").with_input(*SIZE)
    return {
        "fast-scnn": load_source("peer:fast-scnn"),
        "separable-64": load_source(f"{FORMS}:build_separable"),
        "tiny": ArchitectureSource(find_smallest(SearchSpace.load("tiny"))),
        "lgcnet-camvid": ArchitectureSource(camvid.sample(0)),
    }


def find_smallest(space: SearchSpace) -> Architecture:
    """Return the architecture with the fewest multiply-accumulates among random ones."""
    return min((space.sample(seed) for seed in range(SAMPLES)), key=lambda architecture: architecture.macs)


def measure_steps(data: Path, rounds: int = ROUNDS) -> dict[str, Any]:
    """Return name of the network -> images a second of both loops, and their ratio with a 95 % interval."""
    rows = {name: measure_network(source, data, rounds) for name, source in choose_networks().items()}
    return {
        "size": list(SIZE),
        "batch": BATCH,
        "threads": torch.get_num_threads(),
        "checked_steps": CHECKED_STEPS,
        "keeps_memory": all(name in os.environ for name in KEEP_MEMORY),
        "networks": rows,
    }


def measure_network(source: NetworkSource, data: Path, rounds: int) -> dict[str, Any]:
    """Return images a second of both loops for one network."""
    config = TrainConfig(steps=STEPS, batch=BATCH)
    dataset = load_dataset(data, "train", SIZE, augment=True, seed=config.seed)
    (dataset,) = cache_datasets([dataset], "ram", views=10**9, log=lambda _: None)
    weights = compute_class_weights(dataset) if config.balanced else None
    network = build_network(source, dataset, config)
    bares = {channels_last: make_bare_loop(network, config, weights, channels_last) for channels_last in (False, True)}
    with tempfile.TemporaryDirectory() as folder:
        trainer = NetworkTrainer(network, config, open_fabric(), weights)
        run = RunFolder(Path(folder) / "run", "train", {})
        lgc = Turn(lambda batches: run_steps(trainer, batches, STEPS, run, lambda step, steps: None), dataset)
        turns = {channels_last: Turn(bare.run, dataset) for channels_last, bare in bares.items()}
        for turn in (lgc, *turns.values()):
            turn()
        difference = min(compare_weights(trainer.network, bare.average) for bare in bares.values())
        channels_last = choose_faster(turns)
        lgc.steps = turns[channels_last].steps = max(4, round(TURN_S / lgc()))
        seconds = time_in_turns({"lgc": lgc, "bare": turns[channels_last]}, rounds)
    return {
        "rounds": rounds,
        "steps": lgc.steps * rounds,
        "images_per_s": {name: BATCH / statistics.median(values) for name, values in seconds.items()},
        **compare_rounds(seconds["bare"], seconds["lgc"]),
        "bare_channels_last": channels_last,
        "weights_differ_by": difference,
    }


class Turn:
    """Function that makes the next steps of a loop and returns the seconds of each."""

    def __init__(self, loop: Callable[[Iterator[Any]], object], dataset: SegmentationDataset) -> None:
        self._loop, self._dataset = loop, dataset
        self.start, self.steps = 0, CHECKED_STEPS

    def __call__(self) -> float:
        batches = load_batches(self._dataset, BATCH, 0, start=self.start, stop=self.start + self.steps)
        began = time.perf_counter()
        self._loop(batches)
        self.start += self.steps
        return (time.perf_counter() - began) / self.steps


def choose_faster(turns: Mapping[bool, Turn]) -> bool:
    """Return the key of the turn that takes less time."""
    seconds = time_in_turns(turns, CALIBRATION_ROUNDS)
    return min(turns, key=lambda key: statistics.median(seconds[key]))


def build_network(
    source: NetworkSource, dataset: SegmentationDataset, config: TrainConfig, size: tuple[int, int] = SIZE
) -> TrainingNetwork:
    """Return the network with its auxiliary outputs, as a training builds it."""
    definition = NetworkDefinition(source, size, dataset.num_classes, dataset.classes)
    network = build_training_network(definition, config)
    if definition.architecture is None:
        report = check_training(network.network, definition, config.batch, None)
        network.main, network.auxiliary_names = report.main, report.auxiliary
    return network


def make_bare_loop(
    network: TrainingNetwork, config: TrainConfig, weights: Tensor | None, channels_last: bool
) -> BareLoop:
    """Return a bare loop on a copy of a network."""
    copied = copy.deepcopy(network)
    return BareLoop(copied, copied.network, config, weights, channels_last)


def compare_weights(ours: nn.Module, theirs: nn.Module) -> float:
    """Return the length of the difference of two networks' weights, relative to that of the weights."""
    weights = [
        torch.cat([value.flatten() for value in network.state_dict().values() if value.is_floating_point()])
        for network in (ours, theirs)
    ]
    return float((weights[0] - weights[1]).norm() / weights[1].norm())
