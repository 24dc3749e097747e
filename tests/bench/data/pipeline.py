"""A dataset of a user's through every command: check, profile, search, train, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lgc.lut import LatencyTable, Predictor

from .commands import Commands
from .networks import TRAINED, Setting, select

RANDOM = 101
"""Random architectures whose median latency is the target of the search."""


def run_pipeline(commands: Commands, setting: Setting, space: str, search_steps: int) -> dict[str, Any]:
    """Return the results of the commands, and the target of the search in ms."""
    run, lut = searched_run(commands), commands.scratch / "table.lut"
    data = ("--data", setting.data)
    overlays = commands.scratch / "overlays.png"
    check = commands.run("check", "lgc-data", "check", setting.data, "--overlays", overlays)
    profiled = commands.run(
        "profile", "lgc-profile", "--device", "cpu", "--space", space, "--input", setting.input, *data, "--out", lut
    )
    target_ms = find_median_ms(lut)
    search = ("--target-ms", target_ms, "--steps", search_steps, "--batch", setting.batch, "--out", run)
    train = ("--steps", setting.steps, "--batch", setting.batch)
    searched = commands.run("search", "lgc-search", "--lut", lut, *data, *search)
    trained = commands.run("train", "lgc-train", run, *data, *train)
    exported = commands.run("export", "lgc-export", run, *data, "--backend", "onnxruntime")
    problems = {kind: len(found) for kind, found in check["problems"].items()}
    return {
        "check": {"splits": check["splits"], "problems": problems, "wall_s": check["wall_s"]},
        "profile": select(profiled, ("entries", "noisy", "seconds", "verification")),
        "target_ms": target_ms,
        "search": select(searched, ("predicted_ms", "predicted_low_ms", "predicted_high_ms", "wall_s")),
        "train": select(trained, TRAINED),
        "agreement": exported["files"][0]["agreement"],
        "export": select(exported["results"][0], ("predicted_ms", "measured_ms", "error_pct")),
    }


def searched_run(commands: Commands) -> Path:
    """Return the run folder of the search."""
    return commands.scratch / "runs" / "searched"


def find_median_ms(lut: Path) -> float:
    """Return the median latency of random architectures, as the table predicts it, in ms."""
    with LatencyTable.open(lut) as table:
        space = table.space
        predictor = Predictor(space, table)
        return round(float(np.median([predictor.predict(space.sample(seed)) for seed in range(RANDOM)])), 3)
