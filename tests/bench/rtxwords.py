"""What TensorRT-RTX itself says of a GPU: an engine is built there even if its list of devices lacks that GPU.

`python rtxwords.py cuda:0` prints one line. A process of its own, since nobody knows what a refusal leaves behind.
"""

from __future__ import annotations

import subprocess
import sys

import torch

from lgc.device import Device
from lgc.errors import LgcError
from lgc.models import SearchSpace
from lgc.models.space.plan import DENSE
from lgc.profiler.backends.trt.engine import EngineBuilder, get_device_capability
from lgc.profiler.backends.trt.loader import load_tensorrt
from lgc.profiler.backends.trt.runner import EngineRunner
from lgc.profiler.deployment.network import Network

LIMIT_S = 300


REFUSALS = (LgcError, RuntimeError, ImportError)


def main() -> None:
    print(tried(sys.argv[1]))


def tried(device: str) -> str:
    model = Network(SearchSpace.load("tiny").sample(0), None, DENSE).model()
    try:
        library = load_tensorrt(without_gpu=True)
        with torch.cuda.device(device):
            engine = EngineBuilder(library, get_device_capability() or "", False, None).build(model, "fp32")
    except REFUSALS as error:
        return f"refused: {error}"
    built = f"{library} builds an engine of preset tiny for compute capability {engine.compute_capability}"
    try:
        EngineRunner(library, engine, Device(device)).close()
    except REFUSALS as error:
        return f"{built}, which does not run: {error}"
    return f"{built}, and runs it"


def rtx_words(device: str) -> str | None:
    """What that process says, or how it ended; None on a CPU."""
    if device == "cpu":
        return None
    call = [sys.executable, __file__, device]
    try:
        done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return f"no answer after {LIMIT_S} s"
    return last_words(done.returncode, done.stdout if done.returncode == 0 else done.stderr)


def last_words(code: int, text: str) -> str:
    """The last line of what a process printed, and its exit code where that is not 0."""
    line = (text.strip().splitlines() or ["it printed nothing"])[-1].strip()
    if code == 0:
        return line
    return f"{line} (ended by signal {-code})" if code < 0 else f"{line} (exit code {code})"


if __name__ == "__main__":
    main()
