"""Helpers for tests of whole searches and trainings: interrupt them, read their files, compare them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

from lgc.lut import Predictor
from lgc.models import Architecture
from lgc.search.config import SearchConfig


class KilledError(Exception):
    """Stand-in for a `kill` at a step."""


def kill_at(step: int) -> Callable[[int, int], None]:
    """Return a callback that raises `KilledError` after a step."""

    def on_step(finished: int, steps: int) -> None:
        if finished == step:
            raise KilledError

    return on_step


def read_log(run: Path, stage: str = "search") -> list[dict]:
    return [json.loads(line) for line in (run / f"{stage}.jsonl").read_text().splitlines()]


LOSSES = {"search": ("weight_loss", "arch_loss"), "train": ("loss", "aux_loss")}
"""Stage -> names of the losses in its metrics log."""
TOLERANCES = {"fp32": (1e-4, 2e-3), "bf16": (5e-3, 2e-2), "fp16": (5e-3, 2e-2)}
"""Precision -> relative difference from a CPU's fp32 losses, in the first step and in the few after it.

The first step compares forward passes. Then rounding grows with each step: weights that differ by 1e-6 give losses that
differ by 6e-4 after 3 steps of 0.001, bf16 on a CPU differs from fp32 by 1e-3 and 5e-3, and another seed by 4e-2. In
fp16 the first steps may be skipped because gradients overflow. TF32 must be off.
"""


def read_losses(run: Path, stage: str) -> dict[str, dict[int, float]]:
    """Return losses by name and step from the metrics log of a stage (`search` or `train`)."""
    records = read_log(run, stage)
    return {name: {row["step"]: row[name] for row in records if name in row} for name in LOSSES[stage]}


def require_like_losses(run: Path, reference: Path, stage: str, precision: str = "fp32") -> None:
    """Check that every loss of every step equals the reference's, within `TOLERANCES`."""
    losses, expected = read_losses(run, stage), read_losses(reference, stage)
    assert {name: list(steps) for name, steps in losses.items()} == {
        name: list(steps) for name, steps in expected.items()
    }
    assert all(expected.values()), f"{reference} has no losses"
    first, later = TOLERANCES[precision]
    for name, steps in expected.items():
        for step, loss in steps.items():
            difference = losses[name][step] / loss - 1
            limit = later if step else first
            assert abs(difference) <= limit, f"{name} of step {step} differs by {difference:+.1e}, limit {limit:.0e}"


def load_checkpoint(run: Path, stage: str = "search") -> dict:
    return torch.load(run / f"{stage}.ckpt", weights_only=True)


def require_equal_tensors(state: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Check that two states have the same tensors, bit for bit."""
    assert state.keys() == other.keys()
    assert [name for name, value in state.items() if not torch.equal(value, other[name])] == []


def require_equal_runs(run: Path, other: Path) -> None:
    """Check that two searches have bit-identical results."""
    a, b = load_checkpoint(run), load_checkpoint(other)
    for part in ("net", "alphas"):
        require_equal_tensors(a[part], b[part])
    assert (a["step"], a["multiplier"]) == (b["step"], b["multiplier"])
    assert read_log(run) == read_log(other)
    architectures = [Architecture.load(path / "architecture.json") for path in (run, other)]
    assert architectures[0].choices == architectures[1].choices
    assert architectures[0].choices[-1] == architectures[1].choices[-1]
    results = [json.loads((path / "search-result.json").read_text()) for path in (run, other)]
    for result in results:
        for name in ("seconds", "supernet_seconds", "architecture", "waiting_pct"):
            result.pop(name, None)
    assert results[0] == results[1]


def find_target(predictor: Predictor, share: float) -> float:
    """Return the latency (ms) at a share of the range from the fastest to the slowest architecture."""
    low, high = predictor.predict(predictor.fastest), predictor.predict(predictor.slowest)
    return low + share * (high - low)


def change(config: SearchConfig, **changes: object) -> SearchConfig:
    """Return validated settings with some changes."""
    return SearchConfig(**(config.model_dump() | changes))
