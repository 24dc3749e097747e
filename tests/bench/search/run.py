"""Benchmark of the search: meeting the target, accuracy against random architectures, ablations, cost.

`make bench-search`. Scenes, table, searches and trainings are made in a temporary folder. Accuracies do not depend on
the machine's load and are computed in parallel; timings run alone.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lgc.lut import LatencyTable, Predictor, Target
from lgc.models import Architecture, SearchSpace
from lgc.models.space.protocol import DENSE
from lgc.profiler.backends import get_backend
from lgc.profiler.deployment.latency import make_latency_meter, time_network
from lgc.profiler.deployment.network import Network
from lgc.profiler.machine.environment import fingerprint
from lgc.profiler.profile import profile
from lgc.search.config import SearchConfig
from lgc.search.data.synthetic.writers import write_scenes
from lgc.search.engine import search
from lgc.search.training.config import TrainConfig
from lgc.search.training.train import train

from ..common.results import git, merge_parts, result_path, slug, stamp, write_result
from . import cost
from .accuracy import compare_with_random, equal_compute, summarise_ablations, variation
from .page import render_page

SCENES = {"train": 256, "val": 64, "test": 0}
SCENES_SEED = 20
"""Seed of the generated scenes; different from that of the scenes used during development."""
SEEDS = (0, 1, 2)
SHARES = (0.2, 0.5, 0.8)
"""Targets as positions between the fastest and the slowest architecture; accuracies are at the middle one."""
RANDOM = 16
"""Number of random architectures."""
WINDOW = 0.03
"""Maximum relative difference of a random architecture's latency from the target."""
TIMED_SECONDS = 10.0
PARTS = ("front", "chance", "ablations", "cost")
ABLATIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "no short trainings at the end": {"trials": 0},
    "cells share parameters": {"cells": "shared"},
    "no communication between cells": {"communication": "none"},
    "linear communication": {"communication": "linear"},
    "fusion cell fixed": {"fusion": "fixed"},
    "no latency term while searching": {"latency_term": False},
    "strategy random": {"strategy": "random"},
    "strategy evolution": {"strategy": "evolution"},
}


@dataclass(frozen=True)
class Setting:
    """Settings of all searches and trainings."""

    scratch: Path
    target_ms: float
    search_steps: int
    train_steps: int
    batch: int

    @property
    def data(self) -> Path:
        return self.scratch / "data"

    @property
    def lut(self) -> Path:
        return self.scratch / "t.lut"

    def predictor(self) -> Predictor:
        with LatencyTable.open(self.lut) as table:
            return Predictor(table.space, table)

    def config(self, seed: int, targets_ms: tuple[tuple[float, ...], ...], **switches: Any) -> SearchConfig:
        return SearchConfig(steps=self.search_steps, batch=self.batch, seed=seed, targets_ms=targets_ms, **switches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--search-steps", type=int, default=300)
    parser.add_argument("--train-steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--processes", type=int, default=2, help="parallel searches and trainings, one thread each")
    parser.add_argument("--scratch", type=Path, help="folder to keep; finished work in it is reused")
    parser.add_argument("--ablations", nargs="*", default=list(ABLATIONS), help="names of ablations; default: all")
    parser.add_argument(
        "--parts",
        nargs="*",
        default=PARTS,
        choices=PARTS,
        help="parts to run; the others are kept from the existing file",
    )
    arguments = parser.parse_args()
    target = Target("cpu", "onnxruntime")
    result: dict[str, Any] = {
        "name": ["search", "street", "96x128"],
        **stamp(),
        "environment": fingerprint(target, get_backend(target.backend)),
        "scenes": {**SCENES, "seed": SCENES_SEED},
        "seeds": list(SEEDS),
        "search_steps": arguments.search_steps,
        "train_steps": arguments.train_steps,
        "batch": arguments.batch,
    }
    with (
        nullcontext(arguments.scratch) if arguments.scratch else tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(arguments.processes, initializer=use_one_thread) as pool,
    ):
        setting = prepare(Path(folder), target, arguments)
        result |= {"target_ms": setting.target_ms}
        if "front" in arguments.parts:
            write_parts(arguments.out, result | {"front": measure_front(setting, target)}, target)
        if "chance" in arguments.parts or "ablations" in arguments.parts:
            names = arguments.ablations if "ablations" in arguments.parts else ["as it is"]
            searches = run_searches(setting, pool, names)
            parts = {
                "chance": compare_random(setting, pool, searches),
                "ablations": summarise_ablations(searches, SEEDS),
            }
            write_parts(arguments.out, result | parts, target)
    if "cost" in arguments.parts:
        write_parts(arguments.out, result | {"cost": cost.measure_costs()}, target)


def write_parts(out: Path, result: dict[str, Any], target: Target) -> None:
    """Write finished parts together with those of the existing file."""
    settings = ("scenes", "seeds", "search_steps", "train_steps", "batch")
    merged = merge_parts(result, result_path(out, result, target), PARTS, settings)
    write_result(out, merged, target, render_page(merged))


def use_one_thread() -> None:
    """Limit torch to one thread."""
    import torch

    torch.set_num_threads(1)


def prepare(scratch: Path, target: Target, arguments: argparse.Namespace) -> Setting:
    """Create scenes and table, and set the target in the middle of the space's range."""
    space = SearchSpace.load(Path(__file__).with_name("street.yaml"))
    scratch.mkdir(parents=True, exist_ok=True)
    made_by, commit = scratch / "commit", git("rev-parse", "HEAD")
    if made_by.exists() and made_by.read_text() != commit:
        sys.exit(f"{scratch} belongs to commit {made_by.read_text()}: choose another folder")
    made_by.write_text(commit)
    if not (scratch / "t.lut").exists():
        write_scenes(scratch / "data", "camvid-segnet", SCENES, space.input, SCENES_SEED)
        profile(space, target, scratch / "t.lut")
    setting = Setting(scratch, 0.0, arguments.search_steps, arguments.train_steps, arguments.batch)
    middle = list_targets(setting.predictor())[SHARES.index(0.5)]
    return Setting(scratch, middle, arguments.search_steps, arguments.train_steps, arguments.batch)


def list_targets(predictor: Predictor) -> list[float]:
    """Return the latency targets in milliseconds, at `SHARES`."""
    fastest, slowest = (predictor.predict(end) for end in (predictor.fastest, predictor.slowest))
    return [round(fastest + share * (slowest - fastest), 3) for share in SHARES]


def measure_front(setting: Setting, target: Target) -> dict[str, Any]:
    """Search for three targets in one run and compare prediction and measurement with each target."""
    predictor = setting.predictor()
    points = tuple((ms,) for ms in list_targets(predictor))
    reference = make_latency_meter(setting.lut, DENSE)
    result = search(predictor, setting.data, setting.scratch / "front", setting.config(0, points), measure=reference)
    rows = []
    for point in result.front:
        architecture = Architecture.load(point.architecture)
        with LatencyTable.open(setting.lut) as table:
            timed = time_network(Network(architecture, None, DENSE), target, table, seconds=TIMED_SECONDS)
        speed = timed.predicted_ms / timed.table_ms
        rows.append(
            {
                "target_ms": point.target_ms,
                "landings": point.refinements,
                "table_ms": point.predicted_ms,
                "table_off_pct": 100 * (point.predicted_ms / point.target_ms - 1),
                "predicted_ms": point.corrected_ms,
                "predicted_off_pct": 100 * (point.corrected_ms / point.target_ms - 1),
                "measured_ms": timed.measured_ms,
                "measured_off_pct": 100 * (timed.measured_ms / point.target_ms - 1),
                "measured_at_the_tables_speed_off_pct": 100 * (timed.measured_ms / speed / point.target_ms - 1),
                "drift_pct": timed.drift_pct,
                "loss": point.loss_after,
            }
        )
    return {"points": rows, "seconds": result.seconds, "warm_up_steps": result.warm_up_steps}


def run_searches(setting: Setting, pool: ProcessPoolExecutor, names: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Search and train with every seed, for each ablation."""
    jobs = {
        (name, seed): pool.submit(search_and_train, setting, f"{slug(name)}-{seed}", seed, ABLATIONS[name])
        for name in names
        for seed in SEEDS
    }
    return {name: [jobs[name, seed].result() for seed in SEEDS] for name in names}


def search_and_train(setting: Setting, name: str, seed: int, switches: dict[str, Any]) -> dict[str, Any]:
    """Search once and train the result; without switches, train it with every seed."""
    config = setting.config(seed, ((setting.target_ms,),), **switches)
    result = search(setting.predictor(), setting.data, setting.scratch / name, config)
    training_seeds = SEEDS if not switches else (seed,)
    mious = [train_from_scratch(setting, result.architecture, training_seed)[0] for training_seed in training_seeds]
    content = result.as_dict()
    kept = (
        "predicted_ms",
        "loss_before",
        "loss_after",
        "trial_losses",
        "operators",
        "head_channels",
        "passes",
        "tried",
        "seconds",
    )
    return {"seed": seed, "mious": mious, **{key: content[key] for key in kept}}


def train_from_scratch(setting: Setting, architecture: Path, seed: int) -> tuple[float, float]:
    """Train an architecture from scratch with the common settings; return mIoU and seconds."""
    config = TrainConfig(
        steps=setting.train_steps, batch=setting.batch, optimiser="sgd", lr=0.05, warm_up=20, seed=seed
    )
    out = architecture.parent / f"training-{seed}"
    result = train(architecture.parent, setting.data, config, out=out)
    return float(result.miou), result.seconds


def compare_random(
    setting: Setting, pool: ProcessPoolExecutor, searches: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """Train random architectures of equal latency and compare the results of the searches with them.

    They are sampled uniformly from the space; those outside the target's window are rejected.
    """
    predictor, jobs = setting.predictor(), []
    for seed in itertools.count():
        architecture = predictor.space.sample(seed)
        ms = predictor.predict(architecture)
        if abs(ms / setting.target_ms - 1) > WINDOW:
            continue
        folder = setting.scratch / f"random-{len(jobs)}"
        folder.mkdir(exist_ok=True)
        architecture.save(folder / "architecture.json")
        file = folder / "architecture.json"
        jobs.append((ms, [pool.submit(train_from_scratch, setting, file, seed) for seed in SEEDS]))
        if len(jobs) == RANDOM:
            break
    random = [
        {
            "predicted_ms": ms,
            "mious": [job.result()[0] for job in seeds],
            "seconds": statistics.mean(job.result()[1] for job in seeds),
        }
        for ms, seeds in jobs
    ]
    mious, seconds = [row["mious"] for row in random], statistics.mean(row["seconds"] for row in random)
    results = {
        name: compare_with_random(mious, rows) | equal_compute(mious, rows, seconds) for name, rows in searches.items()
    }
    return {"random": random, "spread": variation(mious), "against_random": results}


if __name__ == "__main__":
    main()
