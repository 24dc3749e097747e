"""Benchmark of the user's own data and networks: layouts of datasets, any network, the whole pipeline.

`make bench-data` on generated scenes. A real dataset: `--data DIR --title TITLE`, with more steps. Of the dataset, the
result has counts and scores only.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from lgc.lut import Target
from lgc.profiler.backends import get_backend
from lgc.profiler.machine.environment import fingerprint

from ..common.results import merge_parts, result_path, slug, stamp, write_result
from .commands import Commands
from .layouts import score_layouts
from .networks import Setting, measure_networks, time_networks
from .page import render_page
from .pipeline import run_pipeline, searched_run

PARTS = ("layouts", "networks", "pipeline", "bench")
SCENES = ("--train", 48, "--val", 16, "--test", 0, "--size", "96x128")
TITLE = "generated scenes"


def main() -> None:
    arguments = parse_arguments()
    target = Target("cpu", "onnxruntime")
    size = tuple(arguments.input)
    result: dict[str, Any] = {
        "name": ["data", slug(arguments.title), "x".join(map(str, size))],
        **stamp(),
        "environment": fingerprint(target, get_backend(target.backend)),
        "title": arguments.title,
        "settings": {name: getattr(arguments, name) for name in ("steps", "search_steps", "batch", "seconds", "space")},
    }
    with nullcontext(arguments.scratch) if arguments.scratch else tempfile.TemporaryDirectory() as folder:
        commands = Commands(Path(folder).resolve(), arguments.threads)
        require_same_settings(commands.scratch / "settings.json", {**result["settings"], "input": list(size)})
        setting = Setting(arguments.data, size, arguments.steps, arguments.batch, arguments.seconds)
        if arguments.data is None:
            scenes = commands.scratch / "scenes"
            commands.run("scenes", "lgc-scenes", *SCENES, "--out", scenes)
            setting = replace(setting, data=scenes)
        measure = {
            "layouts": score_layouts,
            "networks": lambda: measure_networks(commands, setting),
            "pipeline": lambda: run_pipeline(commands, setting, arguments.space, arguments.search_steps),
            "bench": lambda: time_networks(commands, setting, [searched_run(commands)]),
        }
        for part in arguments.parts:
            result[part] = measure[part]()
    result = merge_parts(result, result_path(arguments.out, result, target), PARTS, ("settings",))
    write_result(arguments.out, result, target, render_page(result))


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="dataset; default: generated scenes")
    parser.add_argument("--title", default=TITLE, help="name of the dataset on the page")
    parser.add_argument("--input", nargs=2, type=int, default=(96, 128), help="height and width")
    parser.add_argument("--steps", type=int, default=60, help="steps of each training")
    parser.add_argument("--search-steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--space", default="tiny")
    parser.add_argument("--seconds", type=float, default=10.0, help="duration per network in lgc-bench")
    parser.add_argument("--threads", type=int, default=2, help="threads of the trainings; timings have one")
    parser.add_argument("--scratch", type=Path, help="folder to keep: an interrupted benchmark goes on there")
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    return parser.parse_args()


def require_same_settings(path: Path, settings: dict[str, Any]) -> None:
    """Stop if the scratch folder holds results of other settings."""
    if path.exists() and json.loads(path.read_text()) != settings:
        sys.exit(f"{path.parent} has results of other settings: choose another --scratch")
    path.write_text(json.dumps(settings))


if __name__ == "__main__":
    main()
