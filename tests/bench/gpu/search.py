"""Benchmark a search on a GPU in bf16: steps per second, memory, and target against measurement. `make gpu-check`."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from lgc.device import Device
from lgc.lut import LatencyTable, Predictor, Target
from lgc.models import Architecture, SearchSpace
from lgc.models.space.protocol import DENSE
from lgc.profiler.backends import get_backend
from lgc.profiler.backends.default import default_backend
from lgc.profiler.deployment.latency import time_network
from lgc.profiler.deployment.network import Network
from lgc.profiler.machine.devices import check_device
from lgc.profiler.machine.environment import fingerprint
from lgc.profiler.profile import profile
from lgc.search.config import SearchConfig
from lgc.search.data.synthetic.writers import write_scenes
from lgc.search.engine import search

from ..common.results import page_header, stamp, write_result

LAYOUTS = {11: "camvid-segnet", 19: "cityscapes"}
SCENES = {"train": 32, "val": 2, "test": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--space", default="lgcnet-cityscapes")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    device = check_device(arguments.device)
    target = Target(device, default_backend(Device(device)))
    result: dict[str, Any] = {
        "name": ["search", arguments.space, arguments.precision],
        **stamp(),
        "environment": fingerprint(target, get_backend(target.backend)) | {"torch": torch.__version__},
        "target": str(target),
    }
    with tempfile.TemporaryDirectory() as folder:
        result |= measure_search(Path(folder), SearchSpace.load(arguments.space), target, arguments)
    write_result(arguments.out, result, target, render_page(result))


def measure_search(scratch: Path, space: SearchSpace, target: Target, arguments: argparse.Namespace) -> dict[str, Any]:
    """Profile a table, search for its middle latency, and measure the result."""
    write_scenes(scratch / "data", LAYOUTS[space.classes], SCENES, space.input, 0)
    profile(space, target, scratch / "t.lut")
    with LatencyTable.open(scratch / "t.lut") as table:
        predictor = Predictor(space, table)
        workers = 0 if target.device == "cpu" else 8
        ends = [predictor.predict(end) for end in (predictor.fastest, predictor.slowest)]
        config = SearchConfig(
            steps=arguments.steps, batch=arguments.batch, targets_ms=((sum(ends) / 2,),), workers=workers, finalists=16
        )
        if target.device != "cpu":
            torch.cuda.reset_peak_memory_stats(target.device)
        device, precision = target.device, arguments.precision
        result = search(predictor, scratch / "data", scratch / "run", config, device=device, precision=precision)
        memory = None if target.device == "cpu" else torch.cuda.max_memory_allocated(target.device)
        records = [json.loads(line) for line in (scratch / "run" / "search.jsonl").read_text().splitlines()]
        architecture = Architecture.load(result.architecture)
        timed = time_network(Network(architecture, None, DENSE), target, table)
    return {
        "steps": len(records),
        "batch": config.batch,
        "steps_per_second": result.steps / result.supernet_seconds,
        "memory_bytes": memory,
        "target_ms": result.target_ms,
        "predicted_ms": result.predicted_ms,
        "measured_ms": timed.measured_ms,
        "measured_off_pct": 100 * (timed.measured_ms / result.target_ms - 1),
        "drift_pct": timed.drift_pct,
    }


def render_page(result: dict[str, Any]) -> str:
    """Return the page of a result."""
    names = [name for name in result if name not in ("name", "commit", "date", "environment", "target")]
    rows = [f"| {name} | {result[name]:.5g} |" for name in names if result[name] is not None]
    title = f"{' '.join(result['name'])} on {result['target']}"
    return "\n".join([*page_header(title, result), "| | |", "| --- | --- |", *rows]) + "\n"


if __name__ == "__main__":
    main()
