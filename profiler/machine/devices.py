"""Available devices, CUDA diagnosis and the default device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ...device import CPU, Device
from ...errors import DeviceError, UsageError

_OLDEST_DRIVERS = {"12": "525.60.13", "13": "580"}
"""Major version of CUDA -> oldest driver that supports it (NVIDIA's "CUDA Compatibility", minor versions)."""


def list_devices() -> dict[Device, str]:
    """Return device -> model name for the CPU and every CUDA device that torch sees."""
    import torch

    devices = {CPU: read_cpu_model()}
    for index in range(torch.cuda.device_count()):
        devices[Device(f"cuda:{index}")] = torch.cuda.get_device_name(index)
    return devices


def check_device(name: str) -> Device:
    """Return the device called `name`, which must exist on this machine.

    Raises:
        DeviceError: no such device; the message lists the available devices.
    """
    try:
        device = Device(name)
    except UsageError:
        device = None
    if device == CPU:
        return CPU  # always available; importing torch takes seconds
    available = list_devices()
    if device is None or device not in available:
        listed = ", ".join(f"{known} ({model})" for known, model in available.items())
        reason = f" ({diagnose_cuda(device)})" if device is not None and len(available) == 1 else ""
        raise DeviceError(f"no device {name!r} on this machine{reason}; available: {listed}")
    return device


def diagnose_cuda(device: Device) -> str | None:
    """Return the reason why torch cannot use a CUDA device, with torch's error and the fix; None if it can."""
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
    """Return the first sentence of torch's error when it initializes CUDA, and the driver that it requires."""
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        cause = str(error).strip().partition(". ")[0].rstrip(".")
    else:
        cause = "it finds no CUDA device"
    cuda = str(torch.version.cuda)
    driver = _OLDEST_DRIVERS.get(cuda.partition(".")[0])
    fix = f"; its CUDA {cuda} needs driver {driver} or later" if driver and "driver" in cause.lower() else ""
    return f"torch cannot use CUDA: {cause}{fix}"


def read_cpu_model() -> str:
    """Return the CPU's model name as the kernel reports it."""
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
    """Limit torch to `threads` CPU threads inside an operator while the context is active."""
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
    """Return the device to train on by default, and the reason if an expected GPU is not used.

    Args:
        table_devices: devices of the latency tables, in the user's order; empty if unknown.

    Returns:
        The first GPU of `table_devices` that this machine has, else `cpu`. The reason is None if this machine has no
        GPU and no table was measured on one.
    """
    gpus = [device for device in table_devices if not device.is_cpu]
    available = list_devices()
    for device in gpus:
        if device in available:
            return device, None
    if gpus:
        return CPU, f"the table's device {gpus[0]} is not present ({diagnose_cuda(gpus[0])})"
    if len(available) == 1:
        return CPU, None
    return CPU, "its latency table is of a CPU" if table_devices else "the device of its latency table is unknown"
