"""Benchmark of training: loading of data, training step, clipping of gradients, resuming.

`make bench-training` on generated scenes; `--data DIR` has CamVid's real images for the views of its size. Recipes and
their scores are `bench.accuracy.recipe`. Datasets, caches and trainings are in a temporary folder, or in `--scratch`.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lgc.lut import Target
from lgc.profiler.backends import get_backend
from lgc.profiler.machine.environment import fingerprint

from ..common.results import merge_parts, result_path, stamp, write_result
from . import clipping, resume, step, street, views, waiting
from .page import render_page

PARTS = ("views", "waiting", "step", "clipping", "resume")
SCENES = 64
"""Number of generated images of CamVid's size for training steps."""


def main() -> None:
    arguments = parse_arguments()
    target = Target("cpu", "torch")
    for part in PARTS:
        if part not in arguments.parts:
            continue
        result: dict[str, Any] = {
            "name": ["training"],
            **stamp(),
            "environment": fingerprint(target, get_backend(target.backend)),
        }
        with nullcontext(arguments.scratch) if arguments.scratch else tempfile.TemporaryDirectory() as folder:
            result[part] = measure(part, Path(folder).resolve(), arguments)
        result = merge_parts(result, result_path(arguments.out, result, target), PARTS)
        write_result(arguments.out, result, target, render_page(result))


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="the others are kept from the file")
    parser.add_argument("--data", type=Path, help="folder of CamVid, 360x480; default: generated scenes of its size")
    parser.add_argument("--kornia", type=Path, help="folder with the package kornia, if it is installed there")
    parser.add_argument("--rounds", type=int, help="turns of each loader and loop; default: those of each part")
    parser.add_argument("--scratch", type=Path, help="folder to keep: datasets and caches are used again")
    return parser.parse_args()


def measure(part: str, scratch: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the result of a part."""
    if arguments.data is not None and not arguments.data.is_dir():
        sys.exit(f"no folder {arguments.data}: pass CamVid's with --data, or leave it out for generated scenes")
    if part == "views":
        packages = arguments.kornia if arguments.kornia and arguments.kornia.is_dir() else None
        installed = packages is not None or importlib.util.find_spec("kornia") is not None
        if not installed:
            print("without kornia: it is not installed, name its folder with --kornia", file=sys.stderr)
        return views.measure_views(scratch, arguments.data, packages, installed, arguments.rounds or views.ROUNDS)
    if part == "resume":
        return resume.measure_resuming(scratch / "resume")
    scenes = street.make_camvid(scratch / "steps", None, SCENES)
    if part == "waiting":
        return waiting.measure_waiting(scenes)
    if part == "clipping":
        return clipping.measure_clipping(scenes)
    return step.measure_steps(scenes, arguments.rounds or step.ROUNDS)


if __name__ == "__main__":
    main()
