"""Trainings on real data that take hours: each is a file in a work folder, so that the same command resumes."""

from __future__ import annotations

import fcntl
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lgc.models.space.protocol import ARCHITECTURE_FILE, Architecture
from lgc.profiler.machine.devices import read_cpu_model

from ..common import trees

TRAINED = ("miou", "pixel_accuracy", "seconds", "images", "curve", "best_step", "last_miou")
SCORED = ("miou", "pixel_accuracy", "per_class", "images", "scored_at")
"""Keys of the results of `lgc-train` that are kept, where the version has them."""
RECIPE = ("optimiser", "lr", "weight_decay", "ohem", "balanced", "aux", "aux_heads", "ema", "keep", "pretrain")
"""Settings of a training that must be equal where networks are compared."""
SPLITS = ("val", "test")


@dataclass(frozen=True)
class Setting:
    """What all trainings have in common.

    Attributes:
        data: folder of CamVid.
        work: folder of the trainings.
        size: height and width of the images.
        batch: images of a step.
        epochs: passes over the training images.
        threads: threads of a training.
        repository: repository with the commits of the recipes.
    """

    data: Path
    work: Path
    size: tuple[int, int]
    batch: int
    epochs: int
    threads: int
    repository: Path

    def list_settings(self) -> dict[str, Any]:
        """Return what determines the results."""
        return {"input": list(self.size), "batch": self.batch, "epochs": self.epochs}


class TrainingFailedError(Exception):
    """A training that ended with an error; the others go on."""


@contextmanager
def lock(path: Path) -> Iterator[int | None]:
    """Yield a descriptor that holds a lock, which child processes inherit; None if another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield descriptor
    finally:
        os.close(descriptor)


def run_once(name: str, setting: Setting, make: Callable[[int], dict[str, Any]]) -> str:
    """Write what `make` returns to `NAME.json` in the work folder, unless it exists or another process makes it.

    Args:
        name: name of the file.
        setting: work folder.
        make: called with a descriptor for `call`, which keeps the lock until the last child process ends.

    Returns:
        A message.
    """
    path = setting.work / f"{name}.json"
    with lock(path.with_suffix(".lock")) as held:
        if path.exists():
            return f"{name}: finished before"
        if held is None:
            return f"{name}: runs in another process"
        content = make(held)
        write_json(path, content)
    return describe_scores(name, content) if "test" in content else f"{name}: finished"


def train_and_score(
    name: str,
    setting: Setting,
    tree: Path,
    held: int,
    seed: int,
    network: str | None = None,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """Train in the folder `runs/NAME` by `lgc-train` of a source tree, score on each split, and return all results.

    Args:
        name: name of the training.
        setting: data, work folder, size, length and batch.
        tree: source tree.
        held: descriptor of a lock.
        seed: seed of the training.
        network: value of `--network`; None for the architecture in the folder.
        options: options of the training.
    """
    run, data = setting.work / "runs" / name, ("--data", str(setting.data))
    own = () if network is None else ("--network", network)
    size = () if network is None else ("--input", "x".join(map(str, setting.size)))
    lengths = ("--batch", str(setting.batch), "--steps", str(count_steps(setting)), "--seed", str(seed))
    folder = (str(run),) if network is None else ("--out", str(run))
    trained = call(name, setting, tree, held, *folder, *own, *size, *data, *options, *lengths)
    scored = {
        split: call(name, setting, tree, held, str(run), *own, *data, "--evaluate", "--split", split)
        for split in SPLITS
    }
    return {
        "seed": seed,
        "steps": count_steps(setting),
        "threads": setting.threads,
        "machine": read_cpu_model(),
        "train": select(trained, TRAINED),
        "settings": select(trained, RECIPE),
        "gradient_norm": describe_norms(run / "train.jsonl"),
        **{split: select(scored[split], SCORED) for split in SPLITS},
    }


def place_architecture(architecture: Architecture, run: Path) -> None:
    """Write an architecture into the folder of its training, unless it is there."""
    if not (run / ARCHITECTURE_FILE).exists():
        run.mkdir(parents=True, exist_ok=True)
        architecture.save(run / ARCHITECTURE_FILE)


def describe_scores(name: str, content: dict[str, Any]) -> str:
    """Return a message on a finished training."""
    scores = ", ".join(f"{split} mIoU {content[split]['miou']:.2f} %" for split in SPLITS)
    return f"{name}: {scores}, {content['train']['seconds']:.0f} s"


def call(name: str, setting: Setting, tree: Path, held: int, *arguments: str, tool: str = "train") -> dict[str, Any]:
    """Return the result of a command of a source tree; stop if it fails. What it prints is in the work folder's log."""
    line = [*trees.command(tool), *arguments, "--json"]
    log = setting.work / f"{name}.log"
    with log.open("a") as file:
        done = subprocess.run(
            line,
            cwd=setting.work,
            env=trees.environment(tree, setting.threads),
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            check=False,
            pass_fds=(held,),
        )
    if done.returncode:
        raise TrainingFailedError(f"{name}: exit code {done.returncode}, see {log}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def describe_norms(log: Path) -> dict[str, float] | None:
    """Return median, 99th percentile and maximum of the finite gradient norms of a log; None without any."""
    records = map(json.loads, log.read_text().splitlines())
    norms = sorted(norm for record in records if math.isfinite(norm := record.get("gradient_norm") or math.nan))
    if not norms:
        return None
    return {"median": statistics.median(norms), "p99": norms[math.ceil(0.99 * len(norms)) - 1], "max": norms[-1]}


def count_steps(setting: Setting) -> int:
    """Return the steps of the training: full batches of each epoch."""
    from lgc.search.data.datasets import load_dataset

    return setting.epochs * max(len(load_dataset(setting.data, "train")) // setting.batch, 1)


def select(result: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Return those keys of a result that its version has."""
    return {key: result[key] for key in keys if key in result}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file in one step, so that a kill leaves none half-written."""
    scratch = path.with_name(f"{path.name}.part")
    scratch.write_text(json.dumps(content, indent=2) + "\n")
    scratch.replace(path)


def keep(path: Path, content: dict[str, Any]) -> None:
    """Write a file, or stop if it exists with other content."""
    if path.exists() and json.loads(path.read_text()) != content:
        sys.exit(f"{path} has {path.read_text()}, not {json.dumps(content)}: choose another --work or recipe name")
    write_json(path, content)
