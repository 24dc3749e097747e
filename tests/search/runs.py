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
