"""What tests of whole searches have in common: killing them, reading what they left, comparing two."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from lgc.lut import Predictor
from lgc.models import Architecture
from lgc.search.config import SearchConfig


class KilledError(Exception):
    """Stands for a `kill` at a step."""


def killer(at: int):
    def on_step(step: int, steps: int) -> None:
        if step == at:
            raise KilledError

    return on_step


def log_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "search.jsonl").read_text().splitlines()]


LOSSES = {"search": ("weight_loss", "arch_loss"), "train": ("loss", "aux_loss")}
"""Stage -> what its journal calls losses."""
TOLERANCES = {"fp32": (1e-4, 2e-3), "bf16": (5e-3, 2e-2), "fp16": (5e-3, 2e-2)}
"""Precision -> relative difference from a CPU's fp32 losses, in the first step and in the few after it.

The first step tells forward passes apart. From there on rounding grows with each step: weights that differ by 1e-6 give
losses that differ by 6e-4 after 3 steps of 0.001, and bf16 on a CPU differs from fp32 by 1e-3 and 5e-3; another seed
by 4e-2. In fp16 the first steps may find their gradients too large and be left out. TF32 has to be off.
"""


def losses_of(run: Path, stage: str) -> dict[str, dict[int, float]]:
    """Losses by name and step, from the journal of a stage (`search` or `train`)."""
    records = [json.loads(line) for line in (run / f"{stage}.jsonl").read_text().splitlines()]
    return {name: {row["step"]: row[name] for row in records if name in row} for name in LOSSES[stage]}


def require_like_losses(run: Path, reference: Path, stage: str, precision: str = "fp32") -> None:
    """Show that every loss of every step is that of the reference, within `TOLERANCES`."""
    found, wanted = losses_of(run, stage), losses_of(reference, stage)
    assert {name: list(steps) for name, steps in found.items()} == {name: list(steps) for name, steps in wanted.items()}
    assert all(wanted.values()), f"{reference} has no losses"
    first, later = TOLERANCES[precision]
    for name, steps in wanted.items():
        for step, loss in steps.items():
            difference = found[name][step] / loss - 1
            limit = later if step else first
            assert abs(difference) <= limit, f"{name} of step {step} differs by {difference:+.1e}, limit {limit:.0e}"


def checkpoint_of(run: Path) -> dict:
    return torch.load(run / "search.ckpt", weights_only=True)


def require_equal_runs(one: Path, other: Path) -> None:
    """Show that two runs ended with the same bits."""
    a, b = checkpoint_of(one), checkpoint_of(other)
    for part in ("net", "alphas"):
        assert a[part].keys() == b[part].keys()
        assert all(torch.equal(value, b[part][name]) for name, value in a[part].items()), part
    assert (a["step"], a["multiplier"]) == (b["step"], b["multiplier"])
    assert log_of(one) == log_of(other)
    found = [Architecture.load(run / "architecture.json") for run in (one, other)]
    assert found[0].choices == found[1].choices
    assert found[0].head == found[1].head
    results = [json.loads((run / "search-result.json").read_text()) for run in (one, other)]
    for result in results:
        for name in ("seconds", "supernet_seconds", "architecture"):
            del result[name]
    assert results[0] == results[1]


def target_at(predictor: Predictor, share: float) -> float:
    low, high = predictor.predict(predictor.fastest), predictor.predict(predictor.slowest)
    return low + share * (high - low)


def config(short: SearchConfig, **changes: object) -> SearchConfig:
    return SearchConfig(**(short.model_dump() | changes))
