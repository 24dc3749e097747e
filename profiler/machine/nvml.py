"""Read-only access to NVML for one CUDA device; no setting of the device is changed."""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import Any, Self

CLOCK_SM, CLOCK_MEMORY = 1, 2
"""NVML's clock types."""
_GPU_SENSOR = 0
_UUID_PREFIXES = ("GPU", "MIG")


class Gpu:
    """NVML handle of one device; a context manager that shuts NVML down on exit. Unavailable values are None.

    Attributes:
        uuid: UUID in NVML's form, which identifies the device, since NVML's indices differ from torch's. On a Jetson,
            where NVML finds no device by UUID, that of torch; NVML's only device is used.
        error: reason why NVML is unavailable for the device; None if it is available.
    """

    def __init__(self, index: int) -> None:
        """Open the CUDA device with torch's index `index`."""
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
        except Exception as error:  # of NVML or of a missing library; measuring does not require NVML
            self.error = str(error) or type(error).__name__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Shut NVML down, after which every query returns None; idempotent."""
        nvml, self._nvml, self._handle = self._nvml, None, None
        if nvml is not None:
            with suppress(nvml.NVMLError):
                nvml.nvmlShutdown()

    def query(self, function: str, *arguments: Any) -> Any:
        """Return the result of an NVML function for this device; None if driver, bindings or device lack it."""
        if self._handle is None:
            return None
        try:
            return getattr(self._nvml, function)(self._handle, *arguments)
        except Exception:  # NVMLError, or what the bindings raise for a function that they lack
            return None

    @property
    def driver(self) -> str | None:
        """Driver version."""
        with suppress(Exception):  # as in `query`
            return str(self._nvml.nvmlSystemGetDriverVersion())
        return None

    @property
    def temperature_c(self) -> int | None:
        """Chip temperature in degrees Celsius."""
        celsius: int | None = self.query("nvmlDeviceGetTemperatureV", _GPU_SENSOR)  # name since driver 570
        return self.query("nvmlDeviceGetTemperature", _GPU_SENSOR) if celsius is None else celsius

    def clock_mhz(self, clock: int) -> int | None:
        """Return the current frequency of `CLOCK_SM` or `CLOCK_MEMORY` in MHz."""
        frequency: int | None = self.query("nvmlDeviceGetClockInfo", clock)
        return frequency

    def max_clock_mhz(self, clock: int) -> int | None:
        """Return the maximum frequency of `CLOCK_SM` or `CLOCK_MEMORY` in MHz."""
        frequency: int | None = self.query("nvmlDeviceGetMaxClockInfo", clock)
        return frequency

    def _find(self, digits: Any) -> Any:
        """Return NVML's handle of the device, which may be a MIG partition."""
        for prefix in _UUID_PREFIXES:
            uuid = f"{prefix}-{digits}"
            with suppress(self._nvml.NVMLError):
                handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
                self.uuid = uuid
                return handle
        if self._nvml.nvmlDeviceGetCount() == 1:
            return self._nvml.nvmlDeviceGetHandleByIndex(0)
        raise LookupError(f"NVML finds no device {self.uuid}")
