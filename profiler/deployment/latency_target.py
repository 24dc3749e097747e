"""The latency target of the search that made an architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...lut.table.table import LatencyTable
from ...lut.target import Target


@dataclass(frozen=True)
class LatencyTarget:
    """Target of a search on one device.

    Attributes:
        ms: target by the table's statistic, at the machine's speed when the table was measured.
        fps: frame rate that it was converted from; None for a target in ms.
    """

    ms: float
    fps: float | None = None

    @classmethod
    def from_provenance(
        cls,
        provenance: Mapping[str, Any],
        target: Target,
        scope: str,
        table: LatencyTable | None,
        device_name: str | None = None,
    ) -> LatencyTarget | None:
        """Return the target of the search that made an architecture; None without one for this device and scope.

        Args:
            provenance: origin of the architecture.
            target: where the network runs.
            scope: scope of the measurement.
            table: table of `target`; it identifies the target of architectures that do not name theirs.
            device_name: device model of `target`; None if unknown. Another model than the search's has no target.
        """
        names = provenance.get("targets")
        if names is None and table is not None and str(table.path.resolve()) == provenance.get("table"):
            names = [str(table.target)]
        if not isinstance(names, list) or str(target) not in names or provenance.get("scope") != scope:
            return None
        index, tables = names.index(str(target)), provenance.get("tables") or ()
        models = provenance.get("device_names") or ()
        if index < len(models) and None not in (device_name, models[index]) and models[index] != device_name:
            return None
        row = tables[index] if index < len(tables) else provenance
        ms, fps = row.get("target_ms"), row.get("target_fps")
        return cls(float(ms), None if fps is None else float(fps)) if ms else None
