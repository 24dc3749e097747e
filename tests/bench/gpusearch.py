"""A search on a GPU in bf16: steps a second, memory, and whether its result meets the target. `make gpu-check`."""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from run import git, write

from lgc.device import Device
from lgc.lut import LatencyTable, Predictor, Target
from lgc.models import Architecture, SearchSpace
from lgc.models.space.plan import DENSE
from lgc.profiler.backends import get_backend
from lgc.profiler.backends.default import default_backend
from lgc.profiler.deployment.deploy import Network, time_network
from lgc.profiler.machine.devices import check_device
from lgc.profiler.machine.environment import fingerprint
from lgc.profiler.profile import profile
from lgc.search.config import SearchConfig
from lgc.search.data.synthetic.writers import write_scenes
from lgc.search.engine import search
from report import head

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
        "commit": git("rev-parse", "--short", "HEAD") + ("-dirty" if git("status", "--porcelain") else ""),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": fingerprint(target, get_backend(target.backend)) | {"torch": torch.__version__},
        "target": str(target),
    }
    with tempfile.TemporaryDirectory() as folder:
        result |= measured(Path(folder), SearchSpace.load(arguments.space), target, arguments)
    write(arguments.out, result, target, page(result))


def measured(scratch: Path, space: SearchSpace, target: Target, arguments: argparse.Namespace) -> dict[str, Any]:
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
        found = search(predictor, scratch / "data", scratch / "run", config, device=device, precision=precision)
        memory = None if target.device == "cpu" else torch.cuda.max_memory_allocated(target.device)
        records = [json.loads(line) for line in (scratch / "run" / "search.jsonl").read_text().splitlines()]
        architecture = Architecture.load(found["architecture"])
        timed = time_network(Network(architecture, None, DENSE), target, table)
    return {
        "steps": len(records),
        "batch": config.batch,
        "steps_per_second": found["steps"] / found["supernet_seconds"],
        "memory_bytes": memory,
        "target_ms": found["target_ms"],
        "predicted_ms": found["predicted_ms"],
        "measured_ms": timed.measured_ms,
        "measured_off_pct": 100 * (timed.measured_ms / found["target_ms"] - 1),
        "drift_pct": timed.drift_pct,
    }


def page(result: dict[str, Any]) -> str:
    names = [name for name in result if name not in ("name", "commit", "date", "environment", "target")]
    rows = [f"| {name} | {result[name]:.5g} |" for name in names if result[name] is not None]
    title = f"{' '.join(result['name'])} on {result['target']}"
    return "\n".join([*head(title, result), "| | |", "| --- | --- |", *rows]) + "\n"


if __name__ == "__main__":
    main()
