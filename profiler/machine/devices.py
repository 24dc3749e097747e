"""Which devices there are, by the names users give them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ...errors import DeviceError

_OLDEST_DRIVERS = {"12": "525.60.13", "13": "580"}
"""Major version of CUDA -> oldest driver that runs it: NVIDIA's "CUDA Compatibility", minor version compatibility."""


def list_devices() -> dict[str, str]:
    """Device name -> what it is: `cpu`, and each CUDA device that torch sees."""
    import torch

    found = {"cpu": cpu_model()}
    for index in range(torch.cuda.device_count()):
        found[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    return found


def check_device(device: str) -> str:
    """Return `device` if it is there; `cuda` stands for `cuda:0`.

    Raises:
        DeviceError: there is no such device; the message names the ones there are.
    """
    if device == "cpu":
        return device  # always there, and to know it takes no torch
    name = "cuda:0" if device == "cuda" else device
    found = list_devices()
    if name not in found:
        there = ", ".join(f"{key} ({what})" for key, what in found.items())
        reason = f" ({cuda_missing(name)})" if name.startswith("cuda:") and len(found) == 1 else ""
        raise DeviceError(f"no device {device!r} here{reason}; there is: {there}")
    return name


def cuda_missing(device: str) -> str | None:
    """Return why torch cannot use the CUDA device, in its words, and the mend; None if it can."""
    import torch

    if torch.version.cuda is None:
        return "this torch is a CPU build; install a CUDA build of torch"
    if not torch.cuda.is_available():
        return _why_not_initialised()
    index = int(device.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        names = ", ".join(f"cuda:{number}" for number in range(torch.cuda.device_count()))
        return f"there is no {device}, only {names}"
    return None


def _why_not_initialised() -> str:
    """The first sentence of what torch raises where it finds no CUDA device, and the driver that it needs."""
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        words = str(error).strip().partition(". ")[0].rstrip(".")
    else:
        words = "it finds no CUDA device"
    cuda = str(torch.version.cuda)
    needed = _OLDEST_DRIVERS.get(cuda.partition(".")[0])
    mend = f"; its CUDA {cuda} needs driver {needed} or later" if needed and "driver" in words.lower() else ""
    return f"torch cannot use CUDA: {words}{mend}"


def cpu_model() -> str:
    """The CPU's name as the kernel gives it."""
    import platform
    from pathlib import Path

    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Context in which torch uses `threads` CPU threads inside an operator."""
    import torch

    before = torch.get_num_threads()
    if threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def default_device(table_devices: Sequence[str]) -> tuple[str, str | None]:
    """Return the device to train on where the user names none, and why a GPU is not used where one was expected.

    Args:
        table_devices: devices of the latency tables, in the user's order; empty where they are unknown.

    Returns:
        The first GPU among `table_devices` that is present here, else `cpu`. The reason is None where all tables are
        of a CPU, and where no table is known on a machine without a GPU.
    """
    gpus = [device for device in table_devices if device != "cpu"]
    if table_devices and not gpus:
        return "cpu", None  # to know that takes no torch
    present = list_devices()
    for device in gpus:
        if device in present:
            return device, None
    if gpus:
        return "cpu", f"the table's device {gpus[0]} is not present ({cuda_missing(gpus[0])})"
    return "cpu", "the device of its latency table is unknown" if len(present) > 1 else None
