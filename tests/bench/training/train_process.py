"""`lgc-train` for the benchmark of resuming: with checkpoints every half second, and a record of all views.

The folder `BENCH_RECORDS` gets `pid-RANK`, and `views-RANK.jsonl` with a line [step, [[epoch, image], ...]] per batch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CHECKPOINT_S = 0.5


def main() -> None:
    from lgc.search.runtime import batches, run_folder, training_loop

    folder, rank = Path(os.environ["BENCH_RECORDS"]), os.environ.get("RANK", "0")
    (folder / f"pid-{rank}").write_text(str(os.getpid()))
    for module in (run_folder, training_loop):
        module.CHECKPOINT_S = CHECKPOINT_S
    batches._plan_views = record(batches._plan_views, folder / f"views-{rank}.jsonl")
    from lgc.tools.train import main as run_command

    run_command()


def record(plan: Callable[..., Iterator[Any]], path: Path) -> Callable[..., Iterator[Any]]:
    """Return a function that plans the same views, and writes them to a file."""

    def plan_and_write(images: int, batch: int, seed: int, start: int, *others: Any) -> Iterator[Any]:
        for step, views in enumerate(plan(images, batch, seed, start, *others), start):
            with path.open("a") as file:
                file.write(f"{json.dumps([step, views])}\n")
            yield views

    return plan_and_write


if __name__ == "__main__":
    main()
