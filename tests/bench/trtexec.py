"""An engine file under TensorRT's own command, `trtexec`, in turn with our timing of the same file."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from turns import in_turns

from lgc.device import Device
from lgc.errors import MeasurementError
from lgc.profiler.backends import get_backend
from lgc.profiler.backends.base import MIN_FIRST_WARM_UP_MS, warm_up
from lgc.profiler.backends.trt.loader import FULL, RTX

NAMES = {FULL: "trtexec", RTX: "tensorrt_rtx"}
"""Flavour of TensorRT -> its command; an engine of one does not run in the other."""
ROUNDS = 7
WARM_UP_MS = 500
LIMIT_S = 300
_MEDIAN = re.compile(r"GPU Compute Time: .*?\bmedian = ([0-9.eE+-]+) ms")
_VERSION = re.compile(r"\[TensorRT v(\d+)\]")
_ERROR, _WARNING = (re.compile(rf"^(?:\[[^\]]*\] )?\[{kind}\] (.+)$", re.MULTILINE) for kind in "EW")


def find(flavour: str) -> str | None:
    """The command: `$TRTEXEC`, else the flavour's own on PATH."""
    return os.environ.get("TRTEXEC") or shutil.which(NAMES[flavour])


def command(program: str, engine: Path, device: str, seconds: int) -> list[str]:
    """Runs an engine as ours is run: a CUDA graph, tensors that stay on the device, waiting by spinning."""
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


def median_ms(output: str) -> float:
    """The median of `GPU Compute Time` in what trtexec prints.

    Raises:
        MeasurementError: there is none; the message has trtexec's own errors.
    """
    found = _MEDIAN.search(output)
    if found is None:
        lines = _ERROR.findall(output) or output.strip().splitlines()[-1:] or ["nothing"]
        raise MeasurementError(f"trtexec gives no GPU Compute Time, it says: {'; '.join(dict.fromkeys(lines))}")
    return float(found[1])


def told(output: str) -> dict[str, Any]:
    """What else is worth keeping of it: its version, and its warnings, among them that there is no CUDA graph."""
    version = _VERSION.search(output)
    return {"version": version and version[1], "warnings": list(dict.fromkeys(_WARNING.findall(output)))}


def against_trtexec(engine: Path, flavour: str, device: str, seconds: float) -> dict[str, Any]:
    """Medians of both over about `seconds` each, in `ROUNDS` rounds; `left_out` where there is no trtexec.

    Raises:
        MeasurementError: trtexec refuses the engine.
    """
    program = find(flavour)
    if program is None:
        return {"left_out": f"there is no {NAMES[flavour]} on PATH, and TRTEXEC names none"}
    share = max(1, round(seconds / ROUNDS))
    backend: Any = get_backend("tensorrt")
    runner = backend.open(engine, device)
    outputs: list[str] = []

    def theirs() -> float:
        call = command(program, engine, device, share)
        done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=LIMIT_S)
        outputs.append(done.stdout + done.stderr)
        return median_ms(outputs[-1])

    def ours() -> float:
        warm_up(runner, Device(device), MIN_FIRST_WARM_UP_MS)  # the device has idled while trtexec started and ended
        times: list[float] = []
        while sum(times) < 1000 * share:
            times += runner.run(100)
        return float(np.median(times))

    try:
        runner.prepare()
        found = in_turns(ours, theirs, ROUNDS)
    finally:
        runner.close()
    return found | {"command": " ".join(command(NAMES[flavour], Path(engine.name), device, share)), **told(outputs[-1])}
