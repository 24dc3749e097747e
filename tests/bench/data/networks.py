"""Five peers and a network of a user's: train, interrupt and resume, score, export and time them by one protocol."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lgc.models.nets.peers import PEERS

from .commands import Commands

FACTORY = f"{Path(__file__).with_name('unet.py')}:build"
REFERENCES = {**{name: f"peer:{name}" for name in PEERS}, "unet (a user's)": FACTORY}
"""Name -> `--network`."""
TRAINED = ("miou", "per_class", "pixel_accuracy", "scored_on", "scored_at", "images", "seconds")
"""Keys of a training's result."""
BENCH = (
    *("name", "input", "backend", "precision", "threads", "miou", "fps", "median_ms", "p99_ms", "relative"),
    *("relative_low", "relative_high", "parameters", "macs", "runs"),
)
"""Keys of a row of `lgc-bench`."""
RESUMED_STEPS = (24, 96, 384)
"""Length of the trainings that are compared bit by bit: the first that is still running at its first checkpoint."""


@dataclass(frozen=True)
class Setting:
    """What all networks have in common.

    Attributes:
        data: dataset.
        size: height and width of the images that networks are trained, evaluated and timed at.
        steps: steps of a training.
        batch: images of a step.
        seconds: duration per network in the comparison of frame rates.
    """

    data: Path
    size: tuple[int, int]
    steps: int
    batch: int
    seconds: float

    @property
    def input(self) -> str:
        """Value of `--input`."""
        return "x".join(map(str, self.size))


def measure_networks(commands: Commands, setting: Setting) -> dict[str, Any]:
    """Return name -> results of the network."""
    return {name: measure_network(commands, setting, name, reference) for name, reference in REFERENCES.items()}


def measure_network(commands: Commands, setting: Setting, name: str, reference: str) -> dict[str, Any]:
    """Train a network, score its weights again, and export it; return the results of the commands.

    `resumed_equal` is True if a training of `resumed_steps` that was killed at step `killed_at` and resumed gave the
    same weights, bit by bit, as one that was not.
    """
    run = run_folder(commands, name)
    common = ("--network", reference, "--data", setting.data)
    train = (*common, "--input", setting.input, "--batch", setting.batch)
    trained = commands.run(f"train {run.name}", "lgc-train", *train, "--steps", setting.steps, "--out", run)
    scored = commands.run(f"score {run.name}", "lgc-train", run, *common, "--evaluate")
    exported = commands.run(f"export {run.name}", "lgc-export", run, *common, "--backend", "onnxruntime")
    return {
        **select(trained, TRAINED),
        "scored_again": scored["miou"],
        "agreement": exported["files"][0]["agreement"],
        **compare_resumed(commands, run, train),
    }


def select(result: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """Return some keys of a command's result, whose others may name files."""
    return {key: result[key] for key in keys}


def run_folder(commands: Commands, name: str) -> Path:
    """Return the folder of a training."""
    return commands.scratch / "runs" / name.split()[0]


def compare_resumed(commands: Commands, run: Path, train: tuple[object, ...]) -> dict[str, Any]:
    """Train twice for some steps, once killed and resumed, and compare the weights."""
    for steps in RESUMED_STEPS:
        straight, resumed = (run.with_name(f"{run.name}-{kind}-{steps}") for kind in ("straight", "resumed"))
        arguments = (*train, "--steps", steps)
        killed_at = commands.interrupt(f"kill {resumed.name}", resumed, *arguments)
        if killed_at < steps:
            break
    else:
        sys.exit(f"{run.name}: every training ended before it was killed")
    for folder in (straight, resumed):
        commands.run(folder.name, "lgc-train", *arguments, "--out", folder)
    weights = [(folder / "weights.safetensors").read_bytes() for folder in (straight, resumed)]
    return {"resumed_equal": weights[0] == weights[1], "killed_at": killed_at, "resumed_steps": steps}


def time_networks(commands: Commands, setting: Setting, others: list[Path]) -> list[dict[str, Any]]:
    """Return the rows of `lgc-bench` with all trained networks, and others."""
    runs = [*(run_folder(commands, name) for name in REFERENCES), *others]
    rows: list[dict[str, Any]] = commands.run(
        "bench", "lgc-bench", *runs, "--network", FACTORY, "--seconds", setting.seconds
    )["results"]
    return [select(row, BENCH) for row in rows]
