"""Geometry 2 against 1 on real CamVid: mIoU of the same architectures, and the time of the exported upsampling.

`make bench-geometry DATA=DIR` takes an hour. Each finished training is a file in `--work`; run the same command again
to resume. Of the dataset, the result has counts and scores only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lgc.lut import Target
from lgc.models.geometry import Geometry
from lgc.models.space.lgcnet import LGCNetSpace
from lgc.profiler.backends import get_backend
from lgc.profiler.machine.environment import fingerprint

from ..common import trees
from ..common.paired_timing import compare_rounds, time_in_turns
from ..common.results import page_header, stamp, write_result
from .recipe_page import estimate_mean
from .trainings import SPLITS, Setting, keep, place_architecture, run_once, train_and_score

PRESET = "lgcnet-camvid"
ROUNDS = 30
"""Interleaved runs of each graph."""
MAPS = {
    "logits, 19 classes, 1024x2048": (19, 8, (1024, 2048)),
    "logits, 19 classes, 769x1537": (19, 8, (769, 1537)),
    "logits, 11 classes, 720x960": (11, 8, (720, 960)),
    "fusion, 32 channels, 90x120 from 45x60": (32, 2, (90, 120)),
    "fusion, 32 channels, 90x120 from 23x30": (32, 4, (90, 120)),
    "fusion, 32 channels, 97x193 from 49x97": (32, 2, (97, 193)),
    "fusion, 32 channels, 97x193 from 25x49": (32, 4, (97, 193)),
}
"""Name -> channels, ratio, size of the result."""


@dataclass(frozen=True)
class Case:
    """How networks are trained and deployed.

    Attributes:
        input: height and width of the deployed images.
        crop: height and width of the training's crops; None for the same.
    """

    input: tuple[int, int]
    crop: tuple[int, int] | None = None


CASES = {
    "whole images, 192x256": Case((192, 256)),
    "crops of 160x224, deployed at 193x257": Case((193, 257), (160, 224)),
}


def main() -> None:
    arguments = parse_arguments()
    if arguments.data is None or not arguments.data.is_dir():
        sys.exit(f"no folder {arguments.data}: CamVid cannot be downloaded here, pass its folder with --data")
    repository = arguments.repository.resolve()
    setting = Setting(
        arguments.data.resolve(), arguments.work.resolve(), (0, 0), arguments.batch, arguments.epochs, 1, repository
    )
    setting.work.mkdir(parents=True, exist_ok=True)
    recorded = setting.work / "settings.json"
    commit = (
        json.loads(recorded.read_text())["commit"] if recorded.exists() else trees.resolve_commit("HEAD", repository)
    )
    keep(recorded, {"commit": commit, "batch": setting.batch, "epochs": setting.epochs, "space": PRESET})
    tree = trees.check_out(commit, setting.work / "trees", repository)
    trainings = [(case, int(geometry), seed) for seed in arguments.seeds for case in CASES for geometry in Geometry]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for message in pool.map(lambda row: run_training(*row, setting, tree), trainings):
            print(message, flush=True)
    if arguments.out is not None:
        write_page(setting, commit, arguments.out)


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of the result and its page; default: train only")
    parser.add_argument("--data", type=Path, help="folder of CamVid, 360x480")
    parser.add_argument("--work", type=Path, required=True, help="folder of the trainings, which is kept")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at the same time, one thread each")
    parser.add_argument("--repository", type=Path, default=trees.REPOSITORY, help="repository with the commit")
    return parser.parse_args()


def run_training(case: str, geometry: int, seed: int, setting: Setting, tree: Path) -> str:
    """Train the architecture of a seed and score it on each split; a finished training is not repeated."""
    chosen, name = CASES[case], f"{list(CASES).index(case)}-geometry-{geometry}-seed-{seed}"
    preset = LGCNetSpace.load(PRESET).with_input(*chosen.input)
    space = LGCNetSpace.from_dict({**preset.to_dict(), "geometry": geometry}, PRESET)
    options = [] if chosen.crop is None else ["--crop", "x".join(map(str, chosen.crop))]

    def make(held: int) -> dict[str, Any]:
        place_architecture(space.sample(seed), setting.work / "runs" / name)
        scores = train_and_score(name, setting, tree, held, seed, options=options)
        return {"case": case, "geometry": geometry, **scores}

    return run_once(name, setting, make)


def make_graph(channels: int, ratio: int, size: tuple[int, int], geometry: Geometry) -> Callable[[], float]:
    """Return a timed run of a map's upsampling as exported, by ONNX Runtime with one thread, in milliseconds."""
    import onnxruntime
    import torch
    from torch import nn

    from lgc.models.nets.layers import build_module
    from lgc.models.onnx.export import simplify, to_onnx
    from lgc.models.space.operators import UPSAMPLE_STRIDED
    from lgc.models.space.opspec import OpSpec

    operator = UPSAMPLE_STRIDED if geometry == Geometry.STRIDED else "upsample"
    spec = OpSpec(operator, channels, channels, *size, ratio)
    torch.manual_seed(0)
    convolution, after = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
    tail = after if ratio < 8 else nn.Identity()
    shape = (1, channels, *spec.coarse)
    model = simplify(to_onnx(nn.Sequential(convolution, build_module(spec), tail), [shape]))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {"input_0": np.random.default_rng(0).normal(size=shape).astype(np.float32)}

    def run() -> float:
        session.run(None, feed)
        start = time.perf_counter()
        session.run(None, feed)
        return 1000 * (time.perf_counter() - start)

    return run


def time_maps() -> list[dict[str, Any]]:
    """Return the time of each map's upsampling in geometry 2 relative to that in geometry 1."""
    rows = []
    for name, (channels, ratio, size) in MAPS.items():
        runs = {str(int(geometry)): make_graph(channels, ratio, size, geometry) for geometry in Geometry}
        times = time_in_turns(runs, ROUNDS)
        rows.append({"map": name, "ms": statistics.median(times["2"]), **compare_rounds(times["2"], times["1"])})
    return rows


def summarise(trainings: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return case -> split -> mIoU of each seed by geometry, and their difference, paired by seed."""
    summary: dict[str, dict[str, Any]] = {}
    for case in dict.fromkeys(row["case"] for row in trainings):
        rows = {(row["geometry"], row["seed"]): row for row in trainings if row["case"] == case}
        seeds = sorted(seed for geometry, seed in rows if geometry == 1 and (2, seed) in rows)
        summary[case] = {"seeds": seeds}
        for split in SPLITS:
            old, new = ([rows[geometry, seed][split]["miou"] for seed in seeds] for geometry in (1, 2))
            differences = [b - a for a, b in zip(old, new, strict=True)]
            summary[case][split] = {"1": old, "2": new, "difference": estimate_mean(differences)}
    return summary


def write_page(setting: Setting, commit: str, out: Path) -> None:
    """Write the result of all finished trainings and of the timing, and its page."""
    trainings = [json.loads(path.read_text()) for path in sorted(setting.work.glob("*-seed-*.json"))]
    target = Target("cpu", "onnxruntime")
    result = {
        "name": ["geometry", "camvid"],
        **stamp(),
        "environment": fingerprint(target, get_backend(target.backend)),
        "settings": {"batch": setting.batch, "epochs": setting.epochs, "space": PRESET, "trained_at": commit},
        "trainings": trainings,
        "summary": summarise(trainings),
        "upsampling": time_maps(),
    }
    write_result(out, result, target, render_page(result))


def render_page(result: dict[str, Any]) -> str:
    """Return the page of a result."""
    settings = result["settings"]
    lines = [
        *page_header("Geometry of feature maps: CamVid", result),
        f"Written by `make bench-geometry DATA=DIR` (`tests/bench/accuracy/geometry.py`). Random architectures "
        f"of `{settings['space']}`, one a seed, {settings['epochs']} epochs, batch {settings['batch']}, the default "
        f"recipe at {settings['trained_at']}. In geometry 1, resizes have half-pixel centres; in geometry 2, pixel p "
        "reads feature p / ratio. Differences are paired by seed, with their 95 % interval (Student's t).",
        "",
        "| case | split | geometry 1, mIoU of each seed | geometry 2 | difference |",
        "|" + " --- |" * 5,
    ]
    for case, row in result["summary"].items():
        for split in SPLITS:
            scores = row[split]
            values = [", ".join(f"{value:.2f}" for value in scores[key]) for key in ("1", "2")]
            change = scores["difference"]
            interval = "" if change["low"] is None else f" ({change['low']:+.2f} to {change['high']:+.2f})"
            lines.append(f"| {case} | {split} | {values[0]} | {values[1]} | {change['mean']:+.2f}{interval} |")
    lines += [
        "",
        "## Time of the exported upsampling",
        "",
        f"Behind a 1x1 convolution, and in the fusion before another one; ONNX Runtime, one thread, {ROUNDS} "
        "interleaved runs. The ratio is the median of geometry 2's time over geometry 1's, with its 95 % interval.",
        "",
        "| map | geometry 2, ms | ratio |",
        "| --- | --- | --- |",
        *(
            f"| {row['map']} | {row['ms']:.2f} | {row['ratio']:.2f} "
            f"({row['ratio_low']:.2f} to {row['ratio_high']:.2f}) |"
            for row in result["upsampling"]
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
