"""First steps with few values in batch norms, where gradients explode: losses with and without clipping."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from lgc.models.nets.sources import load_source
from lgc.search.data.datasets import load_dataset
from lgc.search.runtime.batches import load_batches
from lgc.search.runtime.fabric import open_fabric
from lgc.search.training import network_trainer
from lgc.search.training.config import TrainConfig
from lgc.search.training.losses import compute_class_weights

from .step import build_network

NETWORK = "peer:fast-scnn"
SIZE, BATCH, STEPS = (32, 32), 2, 100
SEEDS = range(16)
SETTINGS = tuple((optimiser, precision) for optimiser in ("adamw", "sgd") for precision in ("fp32", "bf16"))


def measure_clipping(data: Path) -> dict[str, Any]:
    """Return rows of optimiser, precision and clipping: norms of the first gradients, and trainings that failed."""
    rows = []
    for optimiser, precision in SETTINGS:
        for clipped in (True, False):
            row = {"optimiser": optimiser, "precision": precision, "clipped": clipped}
            norms, failed = zip(*(train(data, seed=seed, **row) for seed in SEEDS), strict=True)
            rows.append(row | {"median": statistics.median(norms), "max": max(norms), "failed": sum(failed)})
            print(rows[-1], flush=True)
    return {"network": NETWORK, "size": list(SIZE), "batch": BATCH, "steps": STEPS, "seeds": len(SEEDS), "rows": rows}


def train(data: Path, *, optimiser: str, precision: str, clipped: bool, seed: int) -> tuple[float, bool]:
    """Return the norm of the first gradients of a training, and whether one of its losses is NaN or infinite."""
    config = TrainConfig(steps=STEPS, batch=BATCH, seed=seed, optimiser=optimiser, precision=precision)
    dataset = load_dataset(data, "train", SIZE, augment=True, seed=seed)
    torch.manual_seed(seed)
    network = build_network(load_source(NETWORK), dataset, config, SIZE)
    norm = network_trainer.MAX_GRADIENT_NORM if clipped else math.inf
    with mock.patch.object(network_trainer, "MAX_GRADIENT_NORM", norm):
        weights = compute_class_weights(dataset)
        trainer = network_trainer.NetworkTrainer(network, config, open_fabric(precision=precision), weights)
    records = [trainer.train_step(batch) for batch in load_batches(dataset, BATCH, seed, start=0, stop=STEPS)]
    return float(records[0]["gradient_norm"]), not all(math.isfinite(float(record["loss"])) for record in records)
