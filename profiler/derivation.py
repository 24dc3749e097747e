"""Measure what a table lacks for another number of classes, into a derived table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..lut.exchange.derive import derive_table, require_derived
from ..lut.statistics.calibration import MIN_NETWORKS
from ..lut.table.schema import WITH_LATENCY
from ..lut.table.table import FINISHED, LatencyTable
from ..models.space.protocol import DENSE
from ..precisions import PRECISIONS
from .backends import require_backend
from .machine.devices import check_device
from .machine.environment import fingerprint
from .machine_match import require_machine, require_versions
from .profile import ProfileResult, ProfileSettings, profile
from .timing.observer import OnProgress, quiet


def require_measurable(table: LatencyTable) -> None:
    """Check that this machine can add measurements to a table.

    Raises:
        DeviceError: the table's device is not present.
        BackendUnavailableError: its backend does not run on the device.
        MismatchError: the device model or a library version differs from the table's.
    """
    check_device(table.target.device)
    environment = fingerprint(table.target, require_backend(table.target, PRECISIONS))
    require_machine(table, environment)
    require_versions(table, environment)


def has_derived(table: LatencyTable, classes: int, out: Path) -> bool:
    """Return True if `out` is a complete table derived from `table` for `classes` classes.

    Raises:
        MismatchError: `out` is another table.
        FileFormatError: `out` is not a table, or is damaged.
    """
    if not out.exists():
        return False
    with LatencyTable.open(out) as derived:
        require_derived(derived, table, classes)
        complete = all(entry.status in WITH_LATENCY for entry in derived.entries())
        return complete and derived.metadata(FINISHED) is not None


def profile_derived(
    table: LatencyTable,
    classes: int,
    out: Path,
    *,
    on_open: Callable[[], None] = lambda: None,
    on_progress: OnProgress = quiet,
    **changes: Any,
) -> ProfileResult:
    """Derive a table for another number of classes and measure what is pending on the table's own device.

    Benchmarks of the source are measured along, so that all entries refer to the same speed of the machine; their new
    samples count, so the source's entries change too. As many networks as the source has are measured: the corrections
    of the source were fitted to networks with its own number of classes, so the derived table gets corrections and a
    verification of its own. Call it again to resume.

    Args:
        table: table to derive from; it stays unchanged.
        classes: number of classes.
        out: derived table, created if missing.
        on_open: called when everything that can be refused is checked.
        on_progress: receives the progress.
        changes: fields of `ProfileSettings` to replace, e.g. `rounds=4`.

    Raises:
        DeviceError, BackendUnavailableError, MismatchError: see `require_measurable`.
        MismatchError: `out` is another table.
    """
    require_measurable(table)
    if not out.exists():
        derive_table(table, classes, out)
    with LatencyTable.open(out) as derived:
        require_derived(derived, table, classes)
        space = derived.space
    count = sum(scope == DENSE for _, _, scope in table.networks())
    settings = ProfileSettings(networks=count if count >= MIN_NETWORKS else 0)
    return profile(space, table.target, out, settings, on_open=on_open, on_progress=on_progress, **changes)
