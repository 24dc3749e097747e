"""Part in a child process, forked after the slow imports and killed with its children at its time limit."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import Part
from .record import Record, SkipPartError
from .settings import Settings

IMPORTS = (
    "torch",
    "onnx",
    "onnxruntime",
    "onnxslim",
    "scipy.stats",
    "pandas",
    "lgc.profiler.profile",
    "lgc.search.engine",
)
POLL_S = 0.02


@dataclass
class PartResult:
    """Result of a part.

    Attributes:
        status: `passed`, `failed` (a check failed), `skipped`, `error`, or `timed out`.
        words: reason in one line; empty if the part passed.
        seconds: running time.
        checks: name -> value, bound and `holds`, see `Record`.
        values: name -> other value measured before the end.
    """

    status: str
    words: str
    seconds: float
    checks: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


def warm_imports() -> None:
    """Import the packages of all parts without starting CUDA; a missing one fails in the parts that need it."""
    for name in IMPORTS:
        with suppress(Exception):
            importlib.import_module(name)


def run_part(part: Part, settings: Settings, limit_s: float, log: Path) -> PartResult:
    """Run a part for at most `limit_s` seconds; its output is appended to `log`."""
    file = settings.record_file
    start = time.monotonic()
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy's idle threads survive a fork
        pid = os.fork()
    if pid == 0:
        _child(part, settings, Record(file), log)
    try:
        code = _wait(pid, limit_s)
    finally:
        _kill(pid)
    seconds = time.monotonic() - start
    record = Record.read(file)
    if code is None:
        words = f"killed at its limit of {limit_s:.0f} s, in stage: {record.stage or 'start'}"
        return PartResult("timed out", words, seconds, record.checks, record.values)
    if record.status is None:
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        words = f"killed by {how} in stage: {record.stage or 'start'}; see the log"
        return PartResult("error", words, seconds, record.checks, record.values)
    return PartResult(record.status, record.words, seconds, record.checks, record.values)


def _child(part: Part, settings: Settings, record: Record, log: Path) -> None:
    """Run the part and exit; never returns."""
    os.setsid()
    with log.open("ab", buffering=0) as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    print(f"--- part {part.number}: {part.name}", flush=True)
    try:
        run_in_process(part, settings, record)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def run_in_process(part: Part, settings: Settings, record: Record) -> None:
    """Run a part in this process; the record holds its result."""
    try:
        importlib.import_module(f"checks.{part.module}").run(record, settings)
    except SkipPartError as reason:
        record.finish("skipped", str(reason))
    except ImportError as error:
        traceback.print_exc()
        record.finish("error", f"missing package: {error}; install it, or collect it with `make gpu-wheels`")
    except Exception as error:
        traceback.print_exc()
        record.finish("error", f"{type(error).__name__}: {error}".splitlines()[0])
    else:
        failed = [name for name, check in record.checks.items() if not check["holds"]]
        record.finish("failed" if failed else "passed", ", ".join(failed))


def _wait(pid: int, limit_s: float) -> int | None:
    """Return the exit code of a child, negative for a signal; None if it runs longer than `limit_s`."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(POLL_S)
    return None


def _kill(pid: int) -> None:
    """Kill a child and its process group, and reap it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)
