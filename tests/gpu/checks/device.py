"""Name of the device."""

from __future__ import annotations

from .record import Record
from .settings import Settings


def run(record: Record, settings: Settings) -> None:
    """Record the device's name."""
    from lgc.profiler.machine.devices import check_device, list_devices

    record.add_value("device_name", list_devices()[check_device(settings.device)])
