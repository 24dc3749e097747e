"""Progress bars on stderr."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .console import is_first_process, say

if TYPE_CHECKING:
    from ...profiler.timing.observer import RoundProgress

REFRESH_S = 0.25
"""Seconds between two redraws."""


@contextmanager
def progress_bar() -> Iterator[Callable[[RoundProgress], None]]:
    """Show a progress bar with the remaining time on stderr; without a terminal, print the losses of a training.

    The caller's thread draws the bar between measurements: a thread of its own would disturb them.
    """
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal or not is_first_process():
        with _print_losses():
            yield lambda progress: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[left]}"))
    with Bar(*columns, console=console, transient=True, auto_refresh=False) as bar:
        task = bar.add_task("", total=1.0, left="")
        drawn = 0.0

        def show(progress: RoundProgress) -> None:
            nonlocal drawn
            left = "" if progress.left_s is None else f"{_format_clock(progress.left_s)} left"
            bar.update(task, description=progress.label, completed=progress.done, left=left)
            if time.monotonic() - drawn > REFRESH_S or progress.done >= 1:
                drawn = time.monotonic()
                bar.refresh()

        yield show


@contextmanager
def _print_losses() -> Iterator[None]:
    """Print the lines of the logger `lgc.training` on stderr."""
    logger, handler = logging.getLogger("lgc.training"), _StderrHandler()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _StderrHandler(logging.Handler):
    """Prints lines of a log like other messages."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line."""
        say(record.getMessage())


def make_step_progress(label: str, on_progress: Callable[[RoundProgress], None]) -> Callable[[int, int], None]:
    """Return a callback for (step, steps) that reports progress, with the remaining time from the pace since its start.

    The first call only sets the start: a resumed loop begins in the middle.
    """
    from ...profiler.timing.observer import RoundProgress

    start, first = time.monotonic(), -1

    def on_step(step: int, steps: int) -> None:
        nonlocal first
        first = step - 1 if first < 0 else first
        left = (time.monotonic() - start) / (step - first) * (steps - step)
        on_progress(RoundProgress(label, step / steps, left))

    return on_step


def make_repeated_progress(label: str, on_progress: Callable[[RoundProgress], None]) -> Callable[[int, int], None]:
    """Return a callback like `make_step_progress` for a loop that runs several times, each with its own pace."""
    latest, on_step = math.inf, make_step_progress(label, on_progress)

    def restart(step: int, steps: int) -> None:
        nonlocal latest, on_step
        if step <= latest:
            on_step = make_step_progress(label, on_progress)
        latest = step
        on_step(step, steps)

    return restart


def announce_resumption(on_step: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """Return a callback that says, before its first call of `on_step`, at which step a run is resumed."""
    is_first = True

    def announce(step: int, steps: int) -> None:
        nonlocal is_first
        if is_first and step > 1:
            say(f"resumed at step {step - 1} of {steps}")
        is_first = False
        on_step(step, steps)

    return announce


def make_item_progress(label: str, total: int, on_progress: Callable[[RoundProgress], None]) -> Callable[[], None]:
    """Return a callback that counts one finished item of `total` per call."""
    on_step, done = make_step_progress(label, on_progress), 0

    def advance() -> None:
        nonlocal done
        done += 1
        on_step(done, total)

    return advance


def _format_clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
