"""Try TensorRT-RTX on a GPU, even one that its documentation does not list.

`python -m bench.gpu.rtx_support cuda:0` prints one line. It runs in a new process, since an error may leave the GPU's
state undefined.
"""

from __future__ import annotations

import subprocess
import sys

import torch

from lgc.device import Device
from lgc.errors import LgcError
from lgc.models import SearchSpace
from lgc.models.space.protocol import DENSE
from lgc.profiler.backends.trt.engine import EngineBuilder, get_device_capability
from lgc.profiler.backends.trt.loader import load_tensorrt
from lgc.profiler.backends.trt.runner import EngineRunner
from lgc.profiler.deployment.network import Network

LIMIT_S = 300
ERRORS = (LgcError, RuntimeError, ImportError)


def main() -> None:
    print(try_device(sys.argv[1]))


def try_device(device: str) -> str:
    """Build and run an engine; return the outcome as text."""
    model = Network(SearchSpace.load("tiny").sample(0), None, DENSE).model()
    try:
        library = load_tensorrt(without_gpu=True)
        with torch.cuda.device(device):
            engine = EngineBuilder(library, get_device_capability() or "", False, None).build(model, "fp32")
    except ERRORS as error:
        return f"failed: {error}"
    built = f"{library} builds an engine of preset tiny for compute capability {engine.compute_capability}"
    try:
        EngineRunner(library, engine, Device(device)).close()
    except ERRORS as error:
        return f"{built}, which does not run: {error}"
    return f"{built}, and runs it"


def query_rtx(device: str) -> str | None:
    """Return the outcome of `try_device` in a new process; None on a CPU."""
    if device == "cpu":
        return None
    command = [sys.executable, "-m", "bench.gpu.rtx_support", device]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return f"timed out after {LIMIT_S} s"
    return last_line(done.returncode, done.stdout if done.returncode == 0 else done.stderr)


def last_line(code: int, text: str) -> str:
    """Return the last line of a process's output, with its exit code unless 0."""
    line = (text.strip().splitlines() or ["no output"])[-1].strip()
    if code == 0:
        return line
    return f"{line} (ended by signal {-code})" if code < 0 else f"{line} (exit code {code})"


if __name__ == "__main__":
    main()
