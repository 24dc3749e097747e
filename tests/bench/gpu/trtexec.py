"""Time an engine file with TensorRT's command `trtexec`, alternating with lgc's timing of the same file."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from lgc.device import Device
from lgc.errors import MeasurementError
from lgc.profiler.backends import get_backend
from lgc.profiler.backends.base import MIN_FIRST_WARM_UP_MS, warm_up
from lgc.profiler.backends.trt.loader import FULL, RTX

from ..common.paired_timing import time_alternately

NAMES = {FULL: "trtexec", RTX: "tensorrt_rtx"}
"""Command of each flavour of TensorRT; an engine of one flavour does not run in the other."""
ROUNDS = 7
WARM_UP_MS = 500
LIMIT_S = 300
_MEDIAN = re.compile(r"GPU Compute Time: .*?\bmedian = ([0-9.eE+-]+) ms")
_VERSION = re.compile(r"\[TensorRT v(\d+)\]")
_ERROR, _WARNING = (re.compile(rf"^(?:\[[^\]]*\] )?\[{kind}\] (.+)$", re.MULTILINE) for kind in "EW")


def find_program(flavour: str) -> str | None:
    """Return `$TRTEXEC`, or the flavour's command on PATH."""
    return os.environ.get("TRTEXEC") or shutil.which(NAMES[flavour])


def build_command(program: str, engine: Path, device: str, seconds: int) -> list[str]:
    """Return a command that runs an engine as lgc does: CUDA graph, no copies, spin wait."""
    return [
        program,
        f"--loadEngine={engine}",
        f"--device={device.partition(':')[2] or 0}",
        "--useCudaGraph",
        "--noDataTransfers",
        "--useSpinWait",
        f"--warmUp={WARM_UP_MS}",
        f"--duration={seconds}",
    ]


def parse_median_ms(output: str) -> float:
    """Return the median of `GPU Compute Time` in trtexec's output.

    Raises:
        MeasurementError: The output has none; the message has trtexec's errors.
    """
    match = _MEDIAN.search(output)
    if match is None:
        lines = _ERROR.findall(output) or output.strip().splitlines()[-1:] or ["no output"]
        raise MeasurementError(f"trtexec reports no GPU Compute Time: {'; '.join(dict.fromkeys(lines))}")
    return float(match[1])


def parse_notes(output: str) -> dict[str, Any]:
    """Return version and warnings of trtexec; it warns if it cannot use a CUDA graph."""
    version = _VERSION.search(output)
    return {"version": version and version[1], "warnings": list(dict.fromkeys(_WARNING.findall(output)))}


def against_trtexec(engine: Path, flavour: str, device: str, seconds: float) -> dict[str, Any]:
    """Compare the medians over about `seconds` each, in `ROUNDS` rounds; return `left_out` without trtexec.

    Raises:
        MeasurementError: trtexec cannot run the engine.
    """
    program = find_program(flavour)
    if program is None:
        return {"left_out": f"{NAMES[flavour]} is not on PATH, and TRTEXEC is not set"}
    share = max(1, round(seconds / ROUNDS))
    backend: Any = get_backend("tensorrt")
    runner = backend.open(engine, device)
    outputs: list[str] = []

    def theirs() -> float:
        command = build_command(program, engine, device, share)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
        outputs.append(done.stdout + done.stderr)
        return parse_median_ms(outputs[-1])

    def ours() -> float:
        warm_up(runner, Device(device), MIN_FIRST_WARM_UP_MS)  # the device idled while trtexec started and exited
        times: list[float] = []
        while sum(times) < 1000 * share:
            times += runner.run(100)
        return float(np.median(times))

    try:
        runner.prepare()
        result = time_alternately(ours, theirs, ROUNDS)
    finally:
        runner.close()
    return result | {
        "command": " ".join(build_command(NAMES[flavour], Path(engine.name), device, share)),
        **parse_notes(outputs[-1]),
    }
