"""What all commands share: running an app, options in the forms users write them, results, progress."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import LgcError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from ...device import Device
    from ...profiler.timing.rounds import RoundProgress

JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
REFRESH_S = 0.25
INTERRUPT_CODE = 130
INTERRUPTED = "interrupted; what is finished is kept, the same command goes on from there"
FROM_CHECKPOINT = "interrupted; the same command goes on from its last checkpoint"
STARTS_ANEW = "interrupted; files that are written are whole, the same command starts anew"
PIPE_WIDTH = 400
"""Columns of a table where stdout is no terminal."""


def new_app() -> typer.Typer:
    """An app without completion options and with plain tracebacks."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def run(app: typer.Typer, interrupted: str = INTERRUPTED) -> None:
    """Execute `app` and leave: 0 done, 1 a check failed, 2 wrong use or bad input, 130 `interrupted`.

    What went wrong by the user's hand, or by the machine's, is told in one line on stderr.
    """
    program = Path(sys.argv[0]).name
    try:
        code = int(app(standalone_mode=False, prog_name=program) or 0)
        message = interrupted if code == INTERRUPT_CODE else ""
    except LgcError as error:
        code, message = error.exit_code, str(error)
    except BrokenPipeError:
        sys.stderr.close()
        code, message = 1, ""
    except OSError as error:
        code, message = 2, f"{error.filename or 'the machine'}: {error.strerror or error}"
    except Exception as error:
        code, message = 2, f"{_refusal(error)} (see {program} --help)"
    if message:
        print(f"{program}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _refusal(error: Exception) -> str:
    """What is wrong with an option, as typer or a settings model says it; any other error is a bug and goes on."""
    if hasattr(error, "format_message"):
        return str(error.format_message())
    from pydantic import ValidationError

    from ...models.space.settings import format_validation_error

    if isinstance(error, ValidationError):
        return format_validation_error(error, lambda field: f"--{field.split('.')[0].replace('_', '-')}")
    raise error


def share_cores() -> None:
    """Let torch's threads sleep while they wait, unless the user has settled it; call it before torch is imported.

    By default they wait spinning, which on a machine with anything else to do makes a training several times slower.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def is_first() -> bool:
    """Whether this process is the one of those that torchrun started which speaks for all; always if it is alone."""
    return int(os.environ.get("RANK", "0")) == 0


def processes() -> int:
    """How many processes torchrun started, all of which run the same command; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def say(message: str) -> None:
    """A line for people, on stderr."""
    if is_first():
        print(message, file=sys.stderr, flush=True)


def pick_device(asked: str | None, table_devices: Sequence[Device], activity: str) -> Device:
    """Return the device that was asked for, else the tables' GPU; say so where that is not present.

    Args:
        asked: value of `--device`; None if left out.
        table_devices: devices of the latency tables; empty where they are unknown.
        activity: what runs there, say `searching`.

    Raises:
        DeviceError: the device that was asked for is not present.
    """
    from ...device import Device
    from ...profiler.machine.devices import check_device, default_device

    if asked is not None:
        return check_device(asked)
    if processes() > 1:  # each process takes the GPU of its own rank
        table_devices = [Device(device.kind) for device in table_devices]
    device, reason = default_device(table_devices)
    if reason is not None:
        say(f"{activity} on {device}: {reason}; --device chooses another")
    return device


def emit(result: dict[str, Any], as_json: bool, *tables: Table | str) -> None:
    """Print a result on stdout: as one JSON object (numbers that are not finite as null), or as tables for people."""
    if not is_first():
        return
    if as_json:
        print(json.dumps(finite(result), indent=2))
        return
    from rich.console import Console

    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    for table in tables:
        if not isinstance(table, str) and table.title:
            console.print(f"\n[bold]{table.title}[/bold]", soft_wrap=True)
            table.title = None
        console.print(table, soft_wrap=isinstance(table, str))


def finite(value: Any) -> Any:
    """The value with every infinity and NaN in it replaced by None, which JSON can hold."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) in pixels from `HxW`.

    Raises:
        UsageError: it is not of that form.
    """
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None or not all(int(part) for part in match.groups()):
        raise UsageError(f"{text!r} is no size; write height and width as in 720x960")
    return int(match[1]), int(match[2])


def parse_seconds(text: str) -> float:
    """Seconds from `90`, `90s`, `4m` or `1.5h`.

    Raises:
        UsageError: it is not of that form, or zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None or float(match[1]) == 0:
        raise UsageError(f"{text!r} is no duration; write it as 90s, 4m or 1h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def parse_percent(text: str) -> float:
    """Percent from `5%` or `5`.

    Raises:
        UsageError: it is not of that form.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%?", text)
    if match is None:
        raise UsageError(f"{text!r} is no percentage; write it as 5%")
    return float(match[1])


def grid(title: str, *columns: str, numbers: int = 0) -> Table:
    """An empty table; the last `numbers` columns are aligned to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, name in enumerate(columns):
        right = index >= len(columns) - numbers
        table.add_column(name, justify="right" if right else "left", no_wrap=True, overflow="fold")
    return table


@contextmanager
def progress_bar() -> Iterator[Callable[[RoundProgress], None]]:
    """A progress bar on stderr with the time left; nothing where stderr is no terminal.

    It is drawn by the caller's thread between measurements, never by a thread of its own that would disturb them.
    """
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal or not is_first():
        yield lambda progress: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[left]}"))
    with Bar(*columns, console=console, transient=True, auto_refresh=False) as bar:
        task = bar.add_task("", total=1.0, left="")
        drawn = 0.0

        def show(progress: RoundProgress) -> None:
            nonlocal drawn
            left = "" if progress.left_s is None else f"{_clock(progress.left_s)} left"
            bar.update(task, description=progress.label, completed=progress.done, left=left)
            if time.monotonic() - drawn > REFRESH_S or progress.done >= 1:
                drawn = time.monotonic()
                bar.refresh()

        yield show


def step_progress(label: str, on_progress: Callable[[RoundProgress], None]) -> Callable[[int, int], None]:
    """Turn (step, steps) of a loop into progress with the time left; steps before the first call cost nothing here."""
    from ...profiler.timing.rounds import RoundProgress

    start, first = time.monotonic(), -1

    def on_step(step: int, steps: int) -> None:
        nonlocal first
        first = step - 1 if first < 0 else first
        left = (time.monotonic() - start) / (step - first) * (steps - step)
        on_progress(RoundProgress(label, step / steps, left))

    return on_step


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
