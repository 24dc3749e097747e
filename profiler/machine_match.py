"""Checks that this machine is the one that a table was measured on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import MismatchError
from ..lut.table.table import LatencyTable
from .machine.environment import DEVICE_NAME


def require_machine(table: LatencyTable, environment: Mapping[str, Any]) -> None:
    """Check that this machine has the device model of the table.

    Args:
        table: table to use.
        environment: fingerprint of this machine.

    Raises:
        MismatchError: different device model.
    """
    if mismatch := find_machine_mismatch(table, environment):
        raise MismatchError(mismatch)


def find_machine_mismatch(table: LatencyTable, environment: Mapping[str, Any]) -> str | None:
    """Return a message if the table was measured on another device model than the environment's, else None."""
    expected = table.environment.get(DEVICE_NAME)
    if expected == environment[DEVICE_NAME]:
        return None
    return (
        f"{table.path} was measured on {expected}, this is {environment[DEVICE_NAME]}: make a table for this device "
        "with lgc-profile and another --out"
    )


def require_versions(table: LatencyTable, environment: Mapping[str, Any]) -> None:
    """Check that this machine has the library versions of the table.

    Raises:
        MismatchError: different versions.
    """
    if table.environment.get("versions") != environment["versions"]:
        expected, installed = (_list_versions(e.get("versions") or {}) for e in (table.environment, environment))
        raise MismatchError(
            f"{table.path} was measured with {expected}, installed is {installed}: install those versions to resume, "
            f"or choose another --out"
        )


def _list_versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or "unknown versions"
