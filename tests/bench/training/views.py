"""Training views a second: lgc's loader against the baseline's and against torch's own DataLoader.

Each loader has a process on the same cores; they take turns, so that the machine's drift affects all alike. A turn
begins with an idle loader and ends when its last view is finished.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ..common import trees
from ..common.paired_timing import compare_rounds, time_in_turns
from . import street

BASELINE = "55c2501"
BATCH = 8
ROUNDS = 12
TURN_S = 3.0
"""Duration of a loader's turn, in seconds."""
IMAGES = 300
"""Number of images of the made-up Cityscapes."""
CASES = {
    "cityscapes": ((1024, 2048), (512, 1024)),
    "camvid": ((360, 480), (360, 480)),
}
"""Size of the scaled image at factor 1, and crop."""
COMPARATORS = {
    "lgc": "lgc",
    "baseline": f"baseline, `SegmentationDataset.view` of {BASELINE}",
    "pillow": "torch's DataLoader, Pillow",
    "pillow, decoded": "the same, images decoded beforehand",
    "kornia": "torch's DataLoader, kornia, images decoded beforehand",
}
"""Loader -> its name on the page."""
WORKERS = (0, 2)


def measure_views(
    scratch: Path, camvid: Path | None, packages: Path | None, kornia: bool, rounds: int = ROUNDS
) -> dict[str, Any]:
    """Return views a second by dataset, number of workers and loader.

    Args:
        scratch: folder of the datasets and caches, which is kept.
        camvid: folder of CamVid; None for generated scenes of its size.
        packages: folder with kornia; None for that of the environment.
        kornia: Include kornia.
        rounds: turns of each loader.
    """
    data = {
        "cityscapes": street.make_cityscapes(scratch / "cityscapes", IMAGES),
        "camvid": street.make_camvid(scratch / ("camvid" if camvid else "scenes"), camvid, IMAGES),
    }
    result: dict[str, Any] = {
        "baseline": trees.resolve_commit(BASELINE),
        "batch": BATCH,
        "rounds": rounds,
        "turn_s": TURN_S,
    }
    for case, folder in data.items():
        decoded = street.decode(folder, scratch / f"{folder.name}-decoded")
        loaders = [name for name in COMPARATORS if name != "kornia" or kornia]
        setting = {"data": str(folder), "decoded": str(decoded), "size": CASES[case][0], "crop": CASES[case][1]}
        rows = {
            str(workers): compare_loaders(scratch, setting, loaders, workers, packages, rounds) for workers in WORKERS
        }
        result[case] = {
            **street.describe(folder),
            "size": list(CASES[case][0]),
            "crop": list(CASES[case][1]),
            "generated": case == "cityscapes" or camvid is None,
            "decode_ms": time_decoding(folder),
            "bytes": {name: ask_bytes(scratch, setting, name) for name in ("lgc", "baseline")},
            "workers": rows,
        }
    return result


def compare_loaders(
    scratch: Path, setting: dict[str, Any], loaders: Sequence[str], workers: int, packages: Path | None, rounds: int
) -> dict[str, Any]:
    """Return views a second of each loader, and how many times as many lgc has, with a 95 % interval."""
    names = [name for name in loaders if not (name == "baseline" and workers)]
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(open_loader(scratch, setting, name, workers, packages)) for name in names
        }
        turns = {name: partial(take_turn, process) for name, process in calibrate(processes).items()}
        seconds = time_in_turns(turns, rounds)
    rows: dict[str, Any] = {}
    for name, values in seconds.items():
        rows[name] = {"views_per_s": 1 / statistics.median(values)}
        if name != "lgc":
            rows[name] |= compare_rounds(values, seconds["lgc"])
    return rows


class Process:
    """A process of `views_process`, and the length of its turns."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.step, self.batches = 0, 1

    def ask(self, line: str) -> float:
        """Send a line, and return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit(f"a loader's process ended with exit code {self._process.wait()}: see its messages above")
        return float(answer)

    def run(self, batches: int) -> float:
        """Return the duration of the next batches in seconds."""
        self.step += batches
        return self.ask(f"{self.step - batches} {batches}")


def calibrate(processes: dict[str, Process]) -> dict[str, Process]:
    """Set the number of batches of each turn, after a warm-up."""
    for process in processes.values():
        process.run(1)
        seconds = process.run(2) / 2
        process.batches = max(2, round(TURN_S / seconds))
    return processes


def take_turn(process: Process) -> float:
    """Return the seconds per view of a turn."""
    return process.run(process.batches) / (process.batches * BATCH)


@contextmanager
def open_loader(
    scratch: Path, setting: dict[str, Any], kind: str, workers: int, packages: Path | None = None
) -> Iterator[Process]:
    """Start the process of a loader on one core, or with workers on as many cores as there are workers."""
    cores = sorted(os.sched_getaffinity(0))[: max(workers, 1)]
    content = json.dumps({**setting, "kind": kind, "workers": workers, "batch": BATCH, "cores": cores})
    tree = trees.check_out(BASELINE) if kind == "baseline" else trees.link_checkout()
    folders = [tree, trees.TESTS, *([packages] if kind == "kornia" and packages is not None else [])]
    environment = trees.environment(os.pathsep.join(map(str, folders)), 1) | {"LGC_CACHE": str(scratch / "cache")}
    line = [sys.executable, "-m", "bench.training.views_process", content]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield Process(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def ask_bytes(scratch: Path, setting: dict[str, Any], kind: str) -> float:
    """Return the bytes per view that go to the device."""
    with open_loader(scratch, setting, kind, 0) as process:
        return process.ask("bytes")


def time_decoding(data: Path) -> float:
    """Return the median time that Pillow takes to decode an image, in milliseconds of the processor."""
    import time

    import numpy as np
    from PIL import Image

    times = []
    for path in sorted([*data.glob("leftImg8bit/train/*/*.png"), *data.glob("CamVid/train/*.png")])[:20]:
        start = time.process_time()
        with Image.open(path) as image:
            np.asarray(image.convert("RGB"))
        times.append(time.process_time() - start)
    return 1000 * statistics.median(times)
