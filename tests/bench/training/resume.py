"""Trainings killed and resumed in each setting, bit by bit; and two processes against one.

Each setting is trained twice: once without interruption, once killed after some steps and started again.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lgc.search.data.synthetic.writers import write_scenes

from ..common import trees

SCENES = {"train": 27, "val": 4, "test": 0}
SCENES_SIZE, SIZE = (192, 256), (96, 128)
BATCH = 8
STEPS = (40, 160, 640)
"""Length of the trainings: the first that is still running when it is killed."""
MIN_STEPS = 8
"""Number of logged steps after which a training is killed."""
PATIENCE_S = 600
"""Longest wait for them."""
NETWORK = f"{Path(__file__).parents[1] / 'data' / 'unet.py'}:build"
"""It has batch normalisation, dropout and an auxiliary output."""
PROCESSES, CACHES, WORKERS = (1, 2), ("off", "ram", "disk"), (0, 2)


@dataclass(frozen=True)
class Setting:
    """What must not change the weights, but for the number of processes."""

    processes: int
    cache: str
    workers: int

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"processes-{self.processes}-cache-{self.cache}-workers-{self.workers}"


def measure_resuming(scratch: Path) -> dict[str, Any]:
    """Return rows of the settings, and the comparison of two processes with one."""
    if scratch.exists():
        shutil.rmtree(scratch)
    data = scratch / "scenes"
    write_scenes(data, "camvid-segnet", SCENES, SCENES_SIZE)
    rows, weights = [], dict[Setting, bytes]()
    for processes, cache, workers in itertools.product(PROCESSES, CACHES, WORKERS):
        setting = Setting(processes, cache, workers)
        row, weights[setting] = compare_resumed(scratch, data, setting)
        first = Setting(processes, CACHES[0], WORKERS[0])
        row["equal_to_first"] = weights[setting] == weights[first]
        rows.append(row)
        print(f"{setting.name}: {row}", flush=True)
    one, two = (scratch / Setting(count, CACHES[0], WORKERS[0]).name / "straight" for count in PROCESSES)
    return {"size": list(SIZE), "batch": BATCH, "rows": rows, "processes": compare_processes(one, two)}


def compare_resumed(scratch: Path, data: Path, setting: Setting) -> tuple[dict[str, Any], bytes]:
    """Train twice, once killed and resumed; return the result, and the weights of the uninterrupted training."""
    for steps in STEPS:
        straight, resumed = (scratch / setting.name / name for name in ("straight", "resumed"))
        arguments = [
            *("--network", NETWORK, "--data", str(data), "--input", "x".join(map(str, SIZE)), "--batch", str(BATCH)),
            *("--steps", str(steps), "--cache", setting.cache, "--workers", str(setting.workers), "--json"),
        ]
        killed_at = kill_training(resumed, arguments, setting)
        if killed_at < steps:
            break
        shutil.rmtree(resumed)
    else:
        sys.exit(f"{setting.name}: every training ended before it was killed")
    for run in (straight, resumed):
        process = start_training(run, arguments, setting)
        if process.wait():
            sys.exit(f"{run}: exit code {process.returncode}, see {run}.log")
    weights = [(run / "weights.safetensors").read_bytes() for run in (straight, resumed)]
    logs = [read_log(run) for run in (straight, resumed)]
    row = {
        **vars(setting),
        "steps": steps,
        "killed_at": killed_at,
        "resumed_equal": weights[0] == weights[1],
        "losses_equal": logs[0] == logs[1],
    }
    return row, weights[0]


def start_training(run: Path, arguments: list[str], setting: Setting) -> subprocess.Popen[bytes]:
    """Start a training; its messages go to a log beside the run folder."""
    records = run.with_name(f"{run.name}-records")
    records.mkdir(parents=True, exist_ok=True)
    paths = os.pathsep.join(map(str, (trees.link_checkout(), trees.TESTS)))
    environment = trees.environment(paths, 1) | {"BENCH_RECORDS": str(records), "LGC_CACHE": str(run.parent / "cache")}
    line = [sys.executable, "-m"]
    if setting.processes > 1:
        line += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(setting.processes), "-m"]
    with run.with_name(f"{run.name}.log").open("ab") as log:
        line += ["bench.training.train_process", *arguments, "--out", str(run)]
        return subprocess.Popen(line, env=environment, stdout=log, stderr=log)


def kill_training(run: Path, arguments: list[str], setting: Setting) -> int:
    """Start a training, kill its processes after a checkpoint, and return the number of its logged steps."""
    process = start_training(run, arguments, setting)
    end = time.monotonic() + PATIENCE_S
    while count_steps(run) < MIN_STEPS and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    process.kill()
    for path in run.with_name(f"{run.name}-records").glob("pid-*"):
        with suppress(ProcessLookupError):
            os.kill(int(path.read_text()), signal.SIGKILL)  # torchrun starts each in a session of its own
    process.wait()
    if not (run / "train.ckpt").exists():
        sys.exit(f"{run}: no checkpoint, see {run}.log")
    return count_steps(run)


def count_steps(run: Path) -> int:
    """Return the number of steps in the metrics log, which is written just before a checkpoint."""
    log = run / "train.jsonl"
    return len(log.read_text().splitlines()) if (run / "train.ckpt").exists() and log.exists() else 0


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the metrics of each step."""
    return [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]


def read_views(run: Path) -> dict[int, list[list[int]]]:
    """Return the views of each step, of all processes together."""
    views: dict[int, list[list[int]]] = {}
    for path in run.with_name(f"{run.name}-records").glob("views-*.jsonl"):
        for step, keys in map(json.loads, path.read_text().splitlines()):
            views.setdefault(step, []).extend(keys)
    return {step: sorted(keys) for step, keys in views.items()}


def compare_processes(one: Path, two: Path) -> dict[str, Any]:
    """Return updates, learning rates and views of a training by one process, and whether two had the same."""
    logs, views = [read_log(run) for run in (one, two)], [read_views(run) for run in (one, two)]
    rates = [[row["lr"] for row in log] for log in logs]
    losses = [[row["loss"] for row in log] for log in logs]
    return {
        "updates": [len(log) for log in logs],
        "images_seen": [sum(map(len, part.values())) for part in views],
        "learning_rates_equal": rates[0] == rates[1],
        "views_equal": views[0] == views[1],
        "largest_loss_difference": max(abs(a - b) / abs(a) for a, b in zip(*losses, strict=True)),
    }
