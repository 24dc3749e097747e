"""Which devices there are, by the names users give them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ...device import CPU, Device
from ...errors import DeviceError, UsageError

_OLDEST_DRIVERS = {"12": "525.60.13", "13": "580"}
"""Major version of CUDA -> oldest driver that runs it: NVIDIA's "CUDA Compatibility", minor version compatibility."""


def list_devices() -> dict[Device, str]:
    """Return the devices of this machine with their models: the CPU, and each CUDA device that torch sees."""
    import torch

    devices = {CPU: read_cpu_model()}
    for index in range(torch.cuda.device_count()):
        devices[Device(f"cuda:{index}")] = torch.cuda.get_device_name(index)
    return devices


def check_device(name: str) -> Device:
    """Return the device called `name`, after checking that this machine has it.

    Raises:
        DeviceError: no such device; the message lists the available ones.
    """
    try:
        device = Device(name)
    except UsageError:
        device = None
    if device == CPU:
        return CPU  # always present; importing torch to check takes seconds
    available = list_devices()
    if device is None or device not in available:
        listed = ", ".join(f"{known} ({model})" for known, model in available.items())
        reason = f" ({diagnose_cuda(device)})" if device is not None and len(available) == 1 else ""
        raise DeviceError(f"no device {name!r} on this machine{reason}; available: {listed}")
    return device


def diagnose_cuda(device: Device) -> str | None:
    """Return why torch cannot use the CUDA device, in its words, and the mend; None if it can."""
    import torch

    if torch.version.cuda is None:
        return "this torch is a CPU build; install a CUDA build of torch"
    if not torch.cuda.is_available():
        return _diagnose_initialization()
    index = device.ordinal
    if index >= torch.cuda.device_count():
        names = ", ".join(f"cuda:{number}" for number in range(torch.cuda.device_count()))
        return f"there is no {device}, only {names}"
    return None


def _diagnose_initialization() -> str:
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


def read_cpu_model() -> str:
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


def default_device(table_devices: Sequence[Device]) -> tuple[Device, str | None]:
    """Return the device to train on where the user names none, and why a GPU is not used where one was expected.

    Args:
        table_devices: devices of the latency tables, in the user's order; empty where they are unknown.

    Returns:
        The first GPU among `table_devices` that is present here, else `cpu`. The reason is None where all tables are
        of a CPU, and where no table is known on a machine without a GPU.
    """
    gpus = [device for device in table_devices if not device.is_cpu]
    if table_devices and not gpus:
        return CPU, None  # to know that takes no torch
    present = list_devices()
    for device in gpus:
        if device in present:
            return device, None
    if gpus:
        return CPU, f"the table's device {gpus[0]} is not present ({diagnose_cuda(gpus[0])})"
    return CPU, "the device of its latency table is unknown" if len(present) > 1 else None
