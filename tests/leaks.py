"""What a test may leave behind in its process, read before and after it."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import threading
import time
from contextlib import suppress
from multiprocessing import resource_tracker
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GRACE_S = 5.0
"""Time in which threads and processes that were told to end may do so."""
OTHERS = {"PYTEST_CURRENT_TEST", "COVERAGE_PROCESS_START", "KMP_INIT_AT_FORK", "PYTORCH_NVML_BASED_CUDA_CHECK"}
"""Environment variables set by pytest and by libraries, once they are loaded."""
LASTING = (".", "_", "lgc-tensorrt-", "pymp-")
"""Beginnings of file names that may stay: caches, and folders that lgc and multiprocessing remove at exit."""
State = dict[str, object]


def read_state() -> State:
    """Return what outlives a test: by name, in a form that can be compared."""
    state: State = {f"variable {name}": value for name, value in os.environ.items() if name not in OTHERS}
    state["working directory"] = Path.cwd()
    state |= {f"thread {thread.name} ({thread.ident})": None for thread in threading.enumerate()}
    state |= {f"process {pid}": None for pid in list_children()}
    for folder in (Path(tempfile.gettempdir()), ROOT):
        state |= {f"file {path}": None for path in folder.iterdir() if not path.name.startswith(LASTING)}
    return state | read_torch_state()


def read_torch_state() -> State:
    """Return torch's settings; nothing of a process that has not imported it."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "compile"):  # `compile` is among the last names that its import sets
        return {}
    return {
        "torch threads": torch.get_num_threads(),
        "torch default dtype": torch.get_default_dtype(),
        "torch gradients": torch.is_grad_enabled(),
        "torch deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "torch TF32 of matmul": torch.backends.cuda.matmul.fp32_precision,
        "torch TF32 of convolutions": torch.backends.cudnn.conv.fp32_precision,
        "torch cudnn benchmark": torch.backends.cudnn.benchmark,
        "torch cudnn deterministic": torch.backends.cudnn.deterministic,
        "torch process group": torch.distributed.is_available() and torch.distributed.is_initialized(),
    }


def list_children() -> set[int]:
    """Return the numbers of the child processes, without the one in which `multiprocessing` keeps its names."""
    children: set[int] = set()
    for task in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # a thread that ended meanwhile
            children.update(map(int, task.read_text().split()))
    return children - {resource_tracker._resource_tracker._pid}


def find_leaks(before: State) -> list[str]:
    """Return what differs from an earlier state, in words; waits a little for what is about to end."""
    deadline = time.monotonic() + GRACE_S
    while (changes := compare_states(before, read_state())) and time.monotonic() < deadline:
        if not any(change.startswith(("new thread", "new process", "new file")) for change in changes):
            break
        gc.collect()
        time.sleep(0.05)
    return changes


def compare_states(before: State, after: State) -> list[str]:
    """Return what was added or changed. A thread, process or file that is gone is no leak, a lost variable is."""
    torch_loaded_before = "torch threads" in before
    changes = []
    for name, value in after.items():
        if name.startswith("torch") and not torch_loaded_before:
            continue
        if name not in before:
            changes.append(f"new {name}")
        elif before[name] != value:
            changes.append(f"{name} was {before[name]!r}, is {value!r}")
    lost = [name for name in before if name not in after and name.startswith("variable")]
    return changes + [f"lost {name}" for name in lost]
