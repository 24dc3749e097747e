"""A CUDA device as NVML sees it. Asks only: nothing here changes a setting of the device."""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import Any, Self

CLOCK_SM, CLOCK_MEMORY = 1, 2
"""NVML's numbers of the two clocks."""
_GPU_SENSOR = 0
_UUID_PREFIXES = ("GPU", "MIG")


class Gpu:
    """What NVML tells of one device; None wherever it does not. A context: left, it lets NVML go.

    Attributes:
        uuid: as NVML writes it, by which the device is found: its numbering is not torch's. On a Jetson torch's, since
            NVML finds no device by it there; the only device is taken.
        problem: why NVML tells nothing at all of the device; None if it does.
    """

    def __init__(self, index: int) -> None:
        """Find torch's CUDA device number `index`."""
        import torch

        digits = torch.cuda.get_device_properties(index).uuid
        self.uuid = f"{_UUID_PREFIXES[0]}-{digits}"
        self.error: str | None = None
        self._nvml: Any = None
        self._handle: Any = None
        try:
            import pynvml

            pynvml.nvmlInit()
            self._nvml = pynvml
            self._handle = self._find(digits)
        except Exception as error:  # NVML's own, and a missing library's: a device can be measured without either
            self.error = str(error) or type(error).__name__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let NVML go; from then on every answer is None. More than once does no harm."""
        nvml, self._nvml, self._handle = self._nvml, None, None
        if nvml is not None:
            with suppress(nvml.NVMLError):
                nvml.nvmlShutdown()

    def query(self, question: str, *arguments: Any) -> Any:
        """What NVML's function `question` answers for this device; None if it, its bindings or the device cannot."""
        if self._handle is None:
            return None
        try:
            return getattr(self._nvml, question)(self._handle, *arguments)
        except Exception:  # NVMLError, or AttributeError and a class of its own where the Python package lacks it
            return None

    @property
    def driver(self) -> str | None:
        """Version of the driver."""
        with suppress(Exception):  # as in `ask`
            return str(self._nvml.nvmlSystemGetDriverVersion())
        return None

    @property
    def temperature_c(self) -> int | None:
        """Temperature of the chip in degrees Celsius."""
        found: int | None = self.query("nvmlDeviceGetTemperatureV", _GPU_SENSOR)  # the name since driver 570
        return self.query("nvmlDeviceGetTemperature", _GPU_SENSOR) if found is None else found

    def clock_mhz(self, clock: int) -> int | None:
        """`CLOCK_SM` or `CLOCK_MEMORY` right now, in MHz."""
        found: int | None = self.query("nvmlDeviceGetClockInfo", clock)
        return found

    def max_clock_mhz(self, clock: int) -> int | None:
        """The highest that `CLOCK_SM` or `CLOCK_MEMORY` can go, in MHz."""
        found: int | None = self.query("nvmlDeviceGetMaxClockInfo", clock)
        return found

    def _find(self, digits: Any) -> Any:
        """NVML's handle of the device, or of the part of one that torch calls a device."""
        for prefix in _UUID_PREFIXES:
            uuid = f"{prefix}-{digits}"
            with suppress(self._nvml.NVMLError):
                handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
                self.uuid = uuid
                return handle
        if self._nvml.nvmlDeviceGetCount() == 1:
            return self._nvml.nvmlDeviceGetHandleByIndex(0)
        raise LookupError(f"NVML finds no device {self.uuid}")
