"""Which device it is."""

from __future__ import annotations

from typing import Any

from .record import Record


def run(record: Record, settings: dict[str, Any]) -> None:
    """Record the device's name."""
    from lgc.profiler.devices import check_device, list_devices

    record.value("device_name", list_devices()[check_device(settings["device"])])
