"""Frame of every command: exit codes, errors in one line, messages on stderr, results on stdout."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import TextIOWrapper
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import typer

from ...errors import LgcError
from ...files import replace_non_finite
from .interrupts import keep_interrupts

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ...device import Device
    from ...search.data.description import DatasetSpec

INTERRUPT_CODE = 130
RESUMES = "interrupted: finished work is kept; run the same command again to resume"
RESUMES_FROM_CHECKPOINT = "interrupted: run the same command again to resume from the last checkpoint"
RESTARTS = "interrupted: finished files are complete; run the same command again to start over"
PIPE_WIDTH = 400
"""Columns of a table where stdout is not a terminal."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_stdout: TextIO | None = None
"""Standard output while prints are redirected; None outside of commands."""
Command = TypeVar("Command", bound=Callable[..., Any])


class App(typer.Typer):
    """App without completion options, with plain tracebacks; only `emit` writes to stdout in its commands."""

    def __init__(self) -> None:
        super().__init__(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

    def command(self, *arguments: Any, **options: Any) -> Callable[[Command], Command]:
        """Return the decorator of a command."""
        register = super().command(*arguments, **options)

        def decorate(function: Command) -> Command:
            @functools.wraps(function)
            def call(*values: Any, **named: Any) -> Any:
                with redirect_prints():
                    return function(*values, **named)

            register(call)
            return function

        return decorate


def new_app() -> typer.Typer:
    """Return an app without commands."""
    return App()


@contextmanager
def redirect_prints() -> Iterator[None]:
    """Send what the user's code prints to stderr inside the context, so that stdout has the result alone."""
    global _stdout
    outer, _stdout = _stdout, _stdout or sys.stdout
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _stdout = outer


def run(app: typer.Typer, interrupted: str = RESUMES) -> None:
    """Execute `app` and exit: 0 done, 1 a check failed, 2 wrong usage or bad input, 130 interrupted.

    Errors of usage, input and machine are printed as one line on stderr; bugs keep their traceback.

    Args:
        app: command to execute.
        interrupted: message after Ctrl-C.
    """
    program = Path(sys.argv[0]).name
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # imported by torchmetrics; warns without a home folder
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a locale may lack e.g. the block of a legend's colour
    with keep_interrupts() as interrupts:
        try:
            code, message = int(app(standalone_mode=False, prog_name=program) or 0), ""
            sys.stdout.flush()
        except LgcError as error:
            code, message = error.exit_code, str(error)
        except (BrokenPipeError, SystemExit) as error:
            from ...plugins import describe_error

            if BrokenPipeError in (type(error), type(error.__context__)):  # typer and rich turn it into a SystemExit
                sys.stderr.close()
                code, message = 1, ""
            else:
                code, message = 2, describe_error(error)
        except MemoryError:
            code, message = 2, "not enough memory: choose a smaller input or network, or close other programs"
        except OSError as error:
            code, message = 2, f"{error.filename or 'operating system'}: {error.strerror or error}"
        except Exception as error:
            code, message = 2, ""
            if not interrupts.received:
                command = getattr(getattr(error, "ctx", None), "command_path", program)
                message = f"{_format_usage_error(error)} (see {command} --help)"
        if code == INTERRUPT_CODE or (code and interrupts.received):  # an interrupted import raises ImportError
            code, message = INTERRUPT_CODE, interrupted
    if message:
        print(f"{program}: {escape_controls(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(code)


def _format_usage_error(error: Exception) -> str:
    """Return the message of an invalid option, from typer or from a settings model; re-raise any other error."""
    if hasattr(error, "format_message"):
        return str(error.format_message()).replace("Value error, ", "")  # pydantic's prefix
    from pydantic import ValidationError

    from ...models.space.settings import format_validation_error

    if isinstance(error, ValidationError):
        return format_validation_error(error, lambda field: f"--{field.split('.')[0].replace('_', '-')}")
    raise error


def share_cores() -> None:
    """Fit torch's threads to the machine, unless the environment says otherwise; call this before torch is imported.

    By default idle threads spin, which slows training down several times on a machine with other work. Threads beyond
    the CPU quota of a container are throttled together with the others.
    """
    from ...profiler.machine.cpu_limits import read_cpu_limits

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    limits = read_cpu_limits()
    if limits.quota is not None and limits.quota < limits.allowed:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(int(limits.quota), 1)))


def is_first_process() -> bool:
    """Return True for the first of torchrun's processes, which prints for all; always True without torchrun."""
    return int(os.environ.get("RANK", "0")) == 0


def count_processes() -> int:
    """Return the number of processes that torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def say(message: str) -> None:
    """Print a line on stderr."""
    if is_first_process():
        print(escape_controls(message), file=sys.stderr, flush=True)


def escape_controls(text: str) -> str:
    """Return a text from a file or a user without the control characters that would steer the terminal."""
    return _CONTROLS.sub(lambda match: ascii(match[0])[1:-1], text)


def announce_dataset(data: Path, split: str | None = None) -> DatasetSpec:
    """Open a dataset and print what it is understood as, what was assumed, and what looks wrong.

    Args:
        data: The dataset.
        split: Split that is read afterwards, whose missing files are an error instead of a warning.

    Raises:
        LgcError: See `read_dataset`, and `DatasetSpec.pairs`.
    """
    from ...search.data.description import read_dataset

    spec = read_dataset(data)
    say(spec.summary)
    if split is not None:
        spec.pairs(split)
    for line in spec.remarks:
        say(line)
    return spec


def pick_device(requested: str | None, table_devices: Sequence[Device], activity: str) -> Device:
    """Return the requested device, else the tables' GPU, else the CPU with a message why.

    Args:
        requested: value of `--device`; None without the option.
        table_devices: devices of the latency tables; empty if unknown.
        activity: work on the device, e.g. `searching`.

    Raises:
        DeviceError: the requested device is not present.
    """
    from ...device import Device
    from ...profiler.machine.devices import check_device, default_device

    if requested is not None:
        return check_device(requested)
    if count_processes() > 1:  # each process uses the GPU of its own rank
        table_devices = [Device(device.kind) for device in table_devices]
    device, reason = default_device(table_devices)
    if reason is not None:
        say(f"{activity} on {device}: {reason}; choose another device with --device")
    return device


def emit(result: object, as_json: bool, *tables: Table | str) -> None:
    """Print a result on stdout: as one JSON object with null for NaN and infinity, or as tables and lines.

    In a terminal, tables are fitted to its width and lines wrap at words; in a file or a pipe no line is split.
    """
    if not is_first_process():
        return
    if as_json:
        print(json.dumps(replace_non_finite(result), indent=2), file=_stdout)
        return
    from rich.console import Console

    stdout = _stdout or sys.stdout
    is_terminal = stdout.isatty()
    console = Console(
        file=stdout, highlight=False, markup=False, emoji=False, width=None if is_terminal else PIPE_WIDTH
    )
    print_tables(console, tables, wrap=is_terminal)


def print_tables(console: Console, tables: Iterable[Table | str], *, wrap: bool = True) -> None:
    """Print tables with their titles, and lines; no word or number of either is split."""
    from rich.text import Text

    from ...report.terminal import fit_table

    def wrap_line(line: str) -> str:
        return fill(line, console.width, break_long_words=False, break_on_hyphens=False) if wrap and line else line

    for table in tables:
        if isinstance(table, str):
            console.print(wrap_line(table), soft_wrap=True)
            continue
        if table.title:
            console.print(Text(f"\n{wrap_line(str(table.title))}", "bold"), soft_wrap=True)
        for number, part in enumerate(fit_table(table, console.width)):
            if number and isinstance(part, type(table)):
                console.print()
            console.print(part, soft_wrap=isinstance(part, Text))


def grid(title: str, *columns: str, numbers: int = 0, wrap: Collection[str] = ()) -> Table:
    """Return an empty table whose last `numbers` columns are right-aligned; those of `wrap` may wrap at words."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for index, name in enumerate(columns):
        right = index >= len(columns) - numbers
        table.add_column(name, justify="right" if right else "left", no_wrap=name not in wrap, overflow="fold")
    return table


def format_count(count: int, noun: str) -> str:
    """Return a count with its noun: `1 image`, `2 images`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_number(value: float | None, form: str, unit: str = "") -> str:
    """Return a number in a format with its unit; `-` for None."""
    return "-" if value is None else f"{value:{form}}{unit}"
