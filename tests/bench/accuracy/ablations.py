"""Parts of the search left out, on CamVid: several searches of each, each result trained with several seeds.

`make bench-ablations DATA=DIR` takes about eight hours of a core. Each finished search and training is a file in
`--work`; run the same command again to resume, with `--parts` for some ablations.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from lgc.lut import Target
from lgc.profiler.backends import get_backend
from lgc.profiler.machine.environment import fingerprint

from ..common.results import page_header, stamp, write_result
from .camvid import SPACE, open_bench, parse_arguments, run_stages, search_and_train
from .camvid_page import compare, summarise
from .trainings import Setting

WHOLE = "whole"
ABLATIONS: dict[str, tuple[str, ...]] = {
    WHOLE: (),
    "no-latency-term": ("--no-latency-term",),
    "shared-cells": ("--cells", "shared"),
    "linear-communication": ("--communication", "linear"),
    "no-communication": ("--communication", "none"),
    "fixed-fusion": ("--fusion", "fixed"),
    "no-trials": ("--trials", "0"),
}
"""Name -> options of `lgc-search`, in addition to `--strategy gradient`."""
LEVEL, SEEDS = "fast", 2
"""Latency of the searches, and trainings of each result."""


def main() -> None:
    arguments = parse_arguments(__doc__, tuple(ABLATIONS))
    setting, bench = open_bench(arguments)
    chosen = {name: ("--strategy", "gradient", *ABLATIONS[name]) for name in ABLATIONS if name in arguments.parts}
    failures = run_stages(search_and_train(bench, chosen, LEVEL, SEEDS), setting, arguments.jobs)
    if arguments.out is not None:
        write_ablations(setting, bench.targets[LEVEL], arguments.out)
    sys.exit(failures > 0)


def write_ablations(setting: Setting, target_ms: float, out: Path) -> None:
    """Write the result of everything that is finished in a work folder, and its page."""
    target = Target("cpu", "onnxruntime")
    trainings = [json.loads(path.read_text()) for path in sorted(setting.work.glob("*-seed-*.json"))]
    names = {row["network"] for row in trainings}
    searches = {name: json.loads((setting.work / f"{name}.json").read_text()) for name in sorted(names)}
    groups = summarise(trainings, searches, {}, {})["groups"]
    result = {
        "name": ["ablations", "camvid", "x".join(map(str, setting.size))],
        **stamp(),
        "environment": fingerprint(target, get_backend(target.backend)),
        "settings": {**setting.list_settings(), "space": SPACE, "target_ms": target_ms, "ablations": ABLATIONS},
        "trainings": trainings,
        "searches": searches,
        "groups": groups,
    }
    write_result(out, result, target, render_page(result))


def render_page(result: dict[str, Any]) -> str:
    """Return the page of a result."""
    groups, settings = result["groups"], result["settings"]
    whole = groups.get(f"{LEVEL}-{WHOLE}")
    lines = [
        *page_header(f"Ablations of the search: CamVid, {result['name'][-1]}", result),
        "Written by `make bench-ablations DATA=DIR` (`tests/bench/accuracy/ablations.py`): searches of "
        f"`{settings['space']}` by gradients at {settings['target_ms']:.2f} ms, {settings['epochs']} epochs of the "
        "default recipe for each result. Differences are those of the means over the searches, with their 95 % "
        "interval (Welch's t).",
        "",
        "| search | options | of each search, test mIoU, % | mean val | mean test | difference on test |",
        "|" + " --- |" * 6,
    ]
    for name, options in ABLATIONS.items():
        group = groups.get(f"{LEVEL}-{name}")
        if group is None:
            continue
        difference = ""
        if whole is not None and name != WHOLE:
            own = compare(group, whole)
            difference = f"{own['difference']:+.1f}"
            difference += "" if own["low"] is None else f" ({own['low']:+.1f} to {own['high']:+.1f})"
        units = ", ".join(f"{statistics.mean(values):.1f}" for values in group["test"]["networks"].values())
        scores = f"{group['val']['mean']:.1f} | {group['test']['mean']:.1f}"
        lines.append(f"| {name} | {' '.join(options) or '-'} | {units} | {scores} | {difference} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
