"""Part 10: a search and a training in bf16 at full resolution, and their fp32 losses compared with a CPU's."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from .common import import_file, load_space
from .record import Record, SkipPartError
from .settings import Settings

STEPS, COMPARED = 20, 3
SHARED_BYTES = 1 << 30
LAYOUTS = {11: "camvid-segnet", 19: "cityscapes"}
SMALL = (96, 192)
"""Size of the images in the comparison with a CPU."""
LEARNING_RATE = 3e-3
"""Learning rate of the comparison, by SGD: rounding errors grow faster at higher rates, and by AdamW."""


def run(record: Record, settings: Settings) -> None:
    from lgc.lut import LatencyTable, Predictor
    from lgc.search.data.synthetic.writers import write_scenes

    path = settings.table("fp16")
    if not path.exists():
        raise SkipPartError("needs the table of part 5 in --out")
    space, scratch = load_space(settings), settings.scratch / "search"
    with LatencyTable.open(path) as table:
        predictor = Predictor(space, table)
    record.enter("scenes")
    write_scenes(scratch / "data", LAYOUTS[space.classes], {"train": 4, "val": 1, "test": 0}, space.input, 0)
    precision, batch = "bf16", 2 if settings.rehearsal else 4
    steps = COMPARED if settings.rehearsal else STEPS
    record.add_value("settings", {"input": list(space.input), "batch": batch, "steps": steps, "precision": precision})
    if settings.on_gpu:
        record.enter("losses against the CPU's")
        compare_losses(record, scratch, settings.device)
    for name, stage in (("search", search_stage), ("training", train_stage)):
        record.enter(name)
        record.add_value(name, time_stage(stage, predictor, scratch, steps, batch, settings.device, precision))


def search_stage(
    predictor: Any, scratch: Path, steps: int, batch: int, device: str, precision: str, on_step: Any
) -> Path:
    """Search for `steps` steps without short trainings at the end, and return the metrics file."""
    from lgc.search.config import SearchConfig
    from lgc.search.engine import search

    ends = [predictor.predict(end) for end in (predictor.fastest, predictor.slowest)]
    config = SearchConfig(
        steps=steps,
        batch=batch,
        targets_ms=((sum(ends) / 2,),),
        samples=8,
        finalists=2,
        trials=0,
        workers=count_workers(),
    )
    search(predictor, scratch / "data", scratch / "run", config, device=device, precision=precision, on_step=on_step)
    return scratch / "run" / "search.jsonl"


def train_stage(
    predictor: Any, scratch: Path, steps: int, batch: int, device: str, precision: str, on_step: Any
) -> Path:
    """Train the architecture of the search, and return the metrics file."""
    from lgc.search.training.config import TrainConfig
    from lgc.search.training.train import train

    config = TrainConfig(steps=steps, batch=batch, precision=precision, workers=count_workers())
    train(scratch / "run", scratch / "data", config, device=device, on_step=on_step)
    return scratch / "run" / "train.jsonl"


def time_stage(stage: Any, predictor: Any, scratch: Path, steps: int, batch: int, device: str, precision: str) -> Any:
    """Return steps per second in the second half, the share of time spent waiting for data, and the peak memory."""
    import torch

    if device != "cpu":
        torch.cuda.init()  # resetting the statistics does not start CUDA
        torch.cuda.reset_peak_memory_stats(device)
    done: dict[int, float] = {}

    def on_step(step: int, _: int) -> None:
        synchronise()
        done.setdefault(step, time.perf_counter())

    with record_loading() as loads:
        records = stage(predictor, scratch, steps, batch, device, precision, on_step)
    losses = [json.loads(line) for line in records.read_text().splitlines()]
    half = steps // 2  # in the first steps cuDNN benchmarks its kernels
    begin, end = done[half], done[steps]
    waited = sum(came - asked for asked, came in loads if begin <= asked and came <= end)
    return {
        "steps": len(losses),
        "steps a second": (steps - half) / (end - begin),
        "waiting for data, %": 100 * waited / (end - begin),
        "peak memory, MiB": None if device == "cpu" else torch.cuda.max_memory_allocated(device) / 2**20,
        "last loss": losses[-1].get("loss"),
    }


def count_workers() -> int:
    """Return 2 data loading processes, or 0 if shared memory is too small for two batches."""
    return 2 if shutil.disk_usage("/dev/shm").free > SHARED_BYTES else 0


def synchronise() -> None:
    """Wait for the GPU, if one is in use."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


@contextmanager
def record_loading() -> Iterator[list[tuple[float, float]]]:
    """Record when each batch is requested and when it arrives, inside the context."""
    from lgc.search.runtime import batches

    marks: list[tuple[float, float]] = []
    prefetch = batches._prefetch

    def prefetch_and_record(*arguments: Any) -> Any:
        with closing(prefetch(*arguments)) as loader:
            while True:
                synchronise()  # else a wait for the device would count as a wait for data
                begun = time.perf_counter()
                batch = next(loader, None)
                if batch is None:
                    return
                marks.append((begun, time.perf_counter()))
                yield batch

    batches._prefetch = prefetch_and_record
    try:
        yield marks
    finally:
        batches._prefetch = prefetch


def compare_losses(record: Record, scratch: Path, device: str) -> None:
    """Compare the losses of the first training steps in fp32 at a batch size of 2 with the CPU's."""
    from lgc.models import SearchSpace
    from lgc.precisions import disable_tf32
    from lgc.search.data.synthetic.writers import write_scenes
    from lgc.search.training.config import TrainConfig
    from lgc.search.training.train import train

    disable_tf32()
    space, runs = SearchSpace.load("lgcnet-cityscapes").with_input(*SMALL), import_file("tests/search/runs.py")
    write_scenes(scratch / "small", "cityscapes", {"train": 4, "val": 1, "test": 0}, SMALL, 1)
    losses, config = {}, TrainConfig(steps=COMPARED, batch=2, optimiser="sgd", lr=LEARNING_RATE)
    for name in ("cpu", device):
        run = scratch / f"compared-{name.partition(':')[0]}"
        run.mkdir()
        space.sample(0).save(run / "architecture.json")
        train(run, scratch / "small", config, device=name)
        losses[name] = runs.read_losses(run, "train")
    record.add_value("losses", losses)
    first, later = runs.TOLERANCES["fp32"]
    for name, steps in losses["cpu"].items():
        for step, loss in steps.items():
            difference = abs(losses[device][name][step] / loss - 1)
            record.add_check(
                f"{name} of step {step}: relative difference", difference, max_value=later if step else first
            )
