"""Benchmark of the search: does it land on its target, is it better than chance, what does it cost.

`make bench-search`.

Everything is made anew in a scratch folder: scenes, table, searches, trainings. Accuracies do not depend on the
machine's load and run side by side; what is timed runs alone.
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

import cost
import numpy as np
from parts import stamp, with_earlier_parts
from run import HERE, git, path_of, slug, write
from scipy import stats
from searchpage import page

from lgc.lut import LatencyTable, Predictor, Target
from lgc.models import Architecture, SearchSpace
from lgc.models.space.plan import DENSE
from lgc.profiler.backends import get_backend
from lgc.profiler.deployment.deploy import Network, make_latency_meter, time_network
from lgc.profiler.machine.environment import fingerprint
from lgc.profiler.profile import profile
from lgc.search.config import SearchConfig
from lgc.search.data.synthetic.writers import write_scenes
from lgc.search.engine import search
from lgc.search.training.config import TrainConfig
from lgc.search.training.train import train

SCENES = {"train": 256, "val": 64, "test": 0}
SCENES_SEED = 20
"""Of the generated scenes: not the ones that settings were tried on while the search was written."""
SEEDS = (0, 1, 2)
SHARES = (0.2, 0.5, 0.8)
"""Targets, as shares of the way from the fastest to the slowest architecture; accuracies are at the middle one."""
RANDOM = 16
WINDOW = 0.03
"""How far the latency of a random architecture may be from the target."""
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
    """What all jobs share."""

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
    parser.add_argument("--processes", type=int, default=2, help="searches and trainings side by side, a thread each")
    parser.add_argument("--scratch", type=Path, help="folder that is kept; what is finished in it is not made again")
    parser.add_argument("--ablations", nargs="*", default=list(ABLATIONS), help="which of them")
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS, help="others stay as the file has them")
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
        ProcessPoolExecutor(arguments.processes, initializer=one_thread) as pool,
    ):
        setting = prepare(Path(folder), target, arguments)
        result |= {"target_ms": setting.target_ms}
        if "front" in arguments.parts:
            keep(arguments.out, result | {"front": front(setting, target)}, target)
        if "chance" in arguments.parts or "ablations" in arguments.parts:
            names = arguments.ablations if "ablations" in arguments.parts else ["as it is"]
            found = searches(setting, pool, names)
            both = {"chance": chance(setting, pool, found), "ablations": ablations(found)}
            keep(arguments.out, result | both, target)
    if "cost" in arguments.parts:
        keep(arguments.out, result | {"cost": cost.costs()}, target)


def keep(out: Path, result: dict[str, Any], target: Target) -> None:
    """Write what is finished, beside what the file has."""
    alike = ("scenes", "seeds", "search_steps", "train_steps", "batch")
    whole = with_earlier_parts(result, path_of(out, result, target), PARTS, alike)
    write(out, whole, target, page(whole))


def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def prepare(scratch: Path, target: Target, arguments: argparse.Namespace) -> Setting:
    """Scenes and table; the target in the middle of the space's range."""
    space = SearchSpace.load(HERE / "street.yaml")
    scratch.mkdir(parents=True, exist_ok=True)
    made_by, commit = scratch / "commit", git("rev-parse", "HEAD")
    if made_by.exists() and made_by.read_text() != commit:
        sys.exit(f"{scratch} was begun by commit {made_by.read_text()}: name another folder")
    made_by.write_text(commit)
    if not (scratch / "t.lut").exists():
        write_scenes(scratch / "data", "camvid-segnet", SCENES, space.input, SCENES_SEED)
        profile(space, target, scratch / "t.lut")
    setting = Setting(scratch, 0.0, arguments.search_steps, arguments.train_steps, arguments.batch)
    middle = targets_of(setting.predictor())[SHARES.index(0.5)]
    return Setting(scratch, middle, arguments.search_steps, arguments.train_steps, arguments.batch)


def targets_of(predictor: Predictor) -> list[float]:
    fastest, slowest = (predictor.predict(end) for end in (predictor.fastest, predictor.slowest))
    return [round(fastest + share * (slowest - fastest), 3) for share in SHARES]


def front(setting: Setting, target: Target) -> dict[str, Any]:
    """Three targets in one run: predicted and measured against the target."""
    predictor = setting.predictor()
    points = tuple((ms,) for ms in targets_of(predictor))
    ruler = make_latency_meter(setting.lut, DENSE)
    found = search(predictor, setting.data, setting.scratch / "front", setting.config(0, points), measure=ruler)
    rows = []
    for one in found["front"]:
        architecture = Architecture.load(one["architecture"])
        with LatencyTable.open(setting.lut) as table:
            timed = time_network(Network(architecture, None, DENSE), target, table, seconds=TIMED_SECONDS)
        speed = timed.predicted_ms / timed.table_ms
        rows.append(
            {
                "target_ms": one["target_ms"],
                "landings": one["landings"],
                "table_ms": one["predicted_ms"],
                "table_off_pct": 100 * (one["predicted_ms"] / one["target_ms"] - 1),
                "predicted_ms": one["corrected_ms"],
                "predicted_off_pct": 100 * (one["corrected_ms"] / one["target_ms"] - 1),
                "measured_ms": timed.measured_ms,
                "measured_off_pct": 100 * (timed.measured_ms / one["target_ms"] - 1),
                "measured_at_the_tables_speed_off_pct": 100 * (timed.measured_ms / speed / one["target_ms"] - 1),
                "drift_pct": timed.drift_pct,
                "loss": one["loss_after"],
            }
        )
    return {"points": rows, "seconds": found["seconds"], "warm_up_steps": found["warm_up_steps"]}


def searches(setting: Setting, pool: ProcessPoolExecutor, names: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Searches and trainings of their results: for each setting, one for each seed."""
    jobs = {
        (name, seed): pool.submit(searched_and_trained, setting, f"{slug(name)}-{seed}", seed, ABLATIONS[name])
        for name in names
        for seed in SEEDS
    }
    return {name: [jobs[name, seed].result() for seed in SEEDS] for name in names}


def searched_and_trained(setting: Setting, name: str, seed: int, switches: dict[str, Any]) -> dict[str, Any]:
    config = setting.config(seed, ((setting.target_ms,),), **switches)
    found = search(setting.predictor(), setting.data, setting.scratch / name, config)
    training_seeds = SEEDS if not switches else (seed,)
    mious = [trained(setting, Path(found["architecture"]), training_seed)[0] for training_seed in training_seeds]
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
    return {"seed": seed, "mious": mious, **{key: found[key] for key in kept}}


def trained(setting: Setting, architecture: Path, seed: int) -> tuple[float, float]:
    """mIoU and seconds of an architecture, trained from scratch; all architectures alike."""
    config = TrainConfig(steps=setting.train_steps, batch=setting.batch, lr=0.05, warm_up=20, seed=seed)
    out = architecture.parent / f"training-{seed}"
    result = train(architecture.parent, setting.data, config, out=out)
    return float(result["miou"]), float(result["seconds"])


def chance(setting: Setting, pool: ProcessPoolExecutor, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Random architectures of equal latency, trained alike: their spread, and where the results stand in it.

    They are drawn evenly from the space, and those outside the target's window left out.
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
        jobs.append((ms, [pool.submit(trained, setting, file, seed) for seed in SEEDS]))
        if len(jobs) == RANDOM:
            break
    drawn = [
        {
            "predicted_ms": ms,
            "mious": [job.result()[0] for job in seeds],
            "seconds": statistics.mean(job.result()[1] for job in seeds),
        }
        for ms, seeds in jobs
    ]
    mious, seconds = [row["mious"] for row in drawn], statistics.mean(row["seconds"] for row in drawn)
    results = {name: compared(mious, rows) | worth(mious, rows, seconds) for name, rows in found.items()}
    return {"random": drawn, "spread": spread(mious), "against_random": results}


def worth(random: list[list[float]], rows: list[dict[str, Any]], seconds: float) -> dict[str, float]:
    """What the search's computation would have bought in random trainings: k of them, the best one kept.

    The expected best of k of the random architectures, by an oracle that knows their mIoU; no real choice does better.
    """
    k = statistics.mean(row["seconds"] for row in rows) / seconds
    means = np.sort(np.array(random).mean(axis=1))
    return {"trainings": k, "best_of_so_many": float(np.diff(np.linspace(0, 1, len(means) + 1) ** k) @ means)}


def spread(mious: list[list[float]]) -> dict[str, float]:
    """How much architectures differ, and how much one differs from itself under another seed (percent of mIoU)."""
    table = np.array(mious)
    within = table.var(axis=1, ddof=1).mean()
    between = max(table.mean(axis=1).var(ddof=1) - within / table.shape[1], 0.0)
    return {
        "mean": float(table.mean()),
        "lowest": float(table.mean(axis=1).min()),
        "p75": float(np.quantile(table.mean(axis=1), 0.75)),
        "highest": float(table.mean(axis=1).max()),
        "between_architectures_sd": float(np.sqrt(between)),
        "between_seeds_sd": float(np.sqrt(within)),
        "share_of_architecture": float(between / (between + within)),
    }


def compared(random: list[list[float]], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Results of a search for each of its seeds, against the random architectures; means over the trainings' seeds.

    Of the ablations each result is trained once, which makes them noisier. The interval of the mean difference is
    Welch's, over searches on one side and architectures on the other.
    """
    drawn, results = np.array(random).mean(axis=1), np.array([row["mious"] for row in rows]).mean(axis=1)
    test = stats.ttest_ind(results, drawn, equal_var=False)
    low, high = test.confidence_interval(0.95)
    return {
        "mious": results.tolist(),
        "mean": float(results.mean()),
        "percentiles": [float(100 * (drawn < one).mean()) for one in results],
        "percentile_of_mean": float(100 * (drawn < results.mean()).mean()),
        "difference": float(results.mean() - drawn.mean()),
        "difference_low": float(low),
        "difference_high": float(high),
    }


def ablations(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """What each switch changes: mean over searches of the mIoU after one training with the search's seed."""
    table = {}
    for name, rows in found.items():
        means = [row["mious"][SEEDS.index(row["seed"]) if len(row["mious"]) > 1 else 0] for row in rows]
        table[name] = {
            "miou": statistics.mean(means),
            "standard_error": statistics.stdev(means) / len(means) ** 0.5,
            "loss_after": statistics.mean(row["loss_after"] for row in rows),
            "predicted_ms": statistics.mean(row["predicted_ms"] for row in rows),
            "seconds": statistics.mean(row["seconds"] for row in rows),
            "searches": rows,
        }
    return table


if __name__ == "__main__":
    main()
