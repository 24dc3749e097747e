"""Result and page of the recipes: all seeds, means, and differences from the baseline, paired by seed."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lgc.lut import Target
from lgc.profiler.backends import get_backend
from lgc.profiler.machine.environment import fingerprint
from lgc.search.data.datasets import load_dataset

from ..common.results import page_header, stamp, write_result
from .trainings import SPLITS

BASELINE = "baseline"
SCORES = ("miou", "pixel_accuracy")
CONFIDENCE = 0.95


def write_recipes(work: Path, out: Path, data: Path) -> None:
    """Write the result of all finished trainings of a work folder, and its page."""
    images = [pair.image for pair in load_dataset(data, "train").pairs]
    target = Target("cpu", "torch")
    settings = json.loads((work / "settings.json").read_text())
    trainings = [read_training(path) for path in sorted(work.glob("*-seed-*.json"))]
    trainings.sort(key=lambda row: (row["network"], row["recipe"], row["seed"]))
    size = "x".join(map(str, settings["input"]))
    result = {
        "name": ["recipe", "camvid", size],
        **stamp(),
        "environment": fingerprint(target, get_backend(target.backend)),
        "settings": settings,
        "images": {"count": len(images), "formats": sorted({image.suffix[1:].lower() for image in images})},
        "recipes": {
            path.name.removesuffix(".recipe.json"): json.loads(path.read_text())
            for path in sorted(work.glob("*.recipe.json"))
        },
        "trainings": trainings,
        "summary": summarise(trainings),
    }
    write_result(out, result, target, render_page(result))


def read_training(path: Path) -> dict[str, Any]:
    """Return the result of a training."""
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def summarise(trainings: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return network -> recipe -> scores of each split: seeds, mean, difference from the baseline."""
    seeds: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}
    for row in trainings:
        seeds.setdefault(row["network"], {}).setdefault(row["recipe"], {})[row["seed"]] = row
    return {
        network: {recipe: summarise_recipe(rows, recipes.get(BASELINE, {})) for recipe, rows in recipes.items()}
        for network, recipes in seeds.items()
    }


def summarise_recipe(rows: dict[int, dict[str, Any]], baseline: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Return the scores of a recipe on each split, compared with the baseline's of the same seeds."""
    summary: dict[str, Any] = {"seeds": list(rows)}
    paired = [seed for seed in rows if seed in baseline] if rows is not baseline else []
    for split in SPLITS:
        for score in SCORES:
            values = [row[split][score] for row in rows.values()]
            differences = [rows[seed][split][score] - baseline[seed][split][score] for seed in paired]
            summary[f"{split}_{score}"] = {
                "values": values,
                "mean": statistics.mean(values),
                **({"difference": estimate_mean(differences)} if differences else {}),
            }
    return summary


def estimate_mean(values: Sequence[float]) -> dict[str, float | None]:
    """Return the mean of normally distributed values, and its 95 % interval (Student's t); None for a single value."""
    from scipy.stats import t

    mean = statistics.mean(values)
    if len(values) < 2:
        return {"mean": mean, "low": None, "high": None}
    error = statistics.stdev(values) / math.sqrt(len(values))
    half = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return {"mean": mean, "low": mean - half, "high": mean + half}


def render_page(result: dict[str, Any]) -> str:
    """Return the page of a result."""
    settings = result["settings"]
    machines = ", ".join(sorted({row.get("machine", "unknown") for row in result["trainings"]}))
    lines = [
        *page_header(f"Recipes of training: CamVid, {result['name'][-1]}", result),
        "Written by `make bench-recipe DATA=DIR` (`tests/bench/accuracy/recipe.py`), on the "
        f"{result['images']['count']} training images of CamVid ({', '.join(result['images']['formats'])}), which are "
        f"not part of the repository: {settings['epochs']} epochs at {result['name'][-1]}, batch {settings['batch']}, "
        f"from random weights on a CPU ({machines}). A recipe is chosen by the scores on val; those on test report "
        "it. Each network is trained the same way, with the same seeds; differences from the "
        "baseline are paired by seed, with their 95 % interval (Student's t over the seeds).",
        "",
        "`fast-scnn` is the peer; `separable-64` and `residual-32` are forms of a space with a stem to 1/8 and cells "
        "of one node (`tests/bench/accuracy/forms.py`), with an auxiliary output at 1/16 and at 1/32.",
        "",
        "| recipe | commit | options of `lgc-train` |",
        "|" + " --- |" * 3,
        *(
            f"| {name} | {recipe['commit']} | {' '.join(recipe['options']) or '-'} |"
            for name, recipe in result["recipes"].items()
        ),
        "",
    ]
    for split in SPLITS:
        lines += _table(split, result["summary"])
    lines += _list_norms(result["trainings"])
    return "\n".join(lines).rstrip() + "\n"


def _table(split: str, summary: dict[str, dict[str, Any]]) -> list[str]:
    return [
        f"## {'Chosen on val' if split == 'val' else 'Reported on test'}",
        "",
        "| network | recipe | mIoU of each seed, % | mean | difference | pixel accuracy, % | difference |",
        "|" + " --- |" * 7,
        *(
            f"| {network} | {recipe} | {_list(row[f'{split}_miou']['values'])} | {row[f'{split}_miou']['mean']:.2f} "
            f"| {_difference(row[f'{split}_miou'])} | {row[f'{split}_pixel_accuracy']['mean']:.2f} "
            f"| {_difference(row[f'{split}_pixel_accuracy'])} |"
            for network, recipes in summary.items()
            for recipe, row in recipes.items()
        ),
        "",
    ]


def _list_norms(trainings: Sequence[dict[str, Any]]) -> list[str]:
    """Return the section on gradient norms; nothing if no training logged them."""
    norms: dict[tuple[str, str], list[dict[str, float]]] = {}
    for row in trainings:
        if row.get("gradient_norm"):
            norms.setdefault((row["network"], row["recipe"]), []).append(row["gradient_norm"])
    if not norms:
        return []
    return [
        "## Gradient norms",
        "",
        "Norm of all gradients of a step, before clipping; mean over the seeds of median and 99th percentile, and the "
        "largest of all.",
        "",
        "| network | recipe | median | 99th percentile | maximum |",
        "|" + " --- |" * 5,
        *(
            f"| {network} | {recipe} | {statistics.mean(row['median'] for row in rows):.1f} "
            f"| {statistics.mean(row['p99'] for row in rows):.1f} | {max(row['max'] for row in rows):.1f} |"
            for (network, recipe), rows in norms.items()
        ),
        "",
    ]


def _difference(score: dict[str, Any]) -> str:
    difference = score.get("difference")
    if difference is None:
        return ""
    if difference["low"] is None:
        return f"{difference['mean']:+.2f} (one seed)"
    return f"{difference['mean']:+.2f} ({difference['low']:+.2f} to {difference['high']:+.2f})"


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)
