"""Feasibility of a search's targets, checked before the search starts."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import UsageError
from ...lut.predictor import Predictor
from ...models.space.lgcnet import SearchSpace
from ..config import SearchConfig
from ..decisions import Decisions
from .latency import Latency, require_target_in_range
from .projection import ArchitectureBatch


def require_common_space(tables: Sequence[Predictor], config: SearchConfig) -> SearchSpace:
    """Return the tables' search space after a check of tables and targets.

    Raises:
        UsageError: tables have different spaces, or targets do not match the tables or are out of the space's range.
    """
    if not tables:
        raise UsageError("a search needs a latency table: give one with --lut")
    space = tables[0].space
    if any(table.space.fingerprint != space.fingerprint for table in tables):
        names = ", ".join(f"{table.table_path} (space {table.space.name})" for table in tables)
        raise UsageError(f"the tables of a search must share one space: {names}")
    if len(tables) > 1 and not config.targets_ms:
        raise UsageError(f"{len(tables)} tables need one target per table: repeat --target-ms")
    if len({name_point_folder(point) for point in config.targets_ms}) < len(config.targets_ms):
        raise UsageError("two points of the front have the same targets: remove one")
    for point in config.targets_ms:
        if len(point) != len(tables):
            raise UsageError(f"{len(tables)} tables, but targets: {len(point)}; give one target per table")
        for table, target in zip(tables, point, strict=True):
            require_target_in_range(table, target, config.quantile)
    return space


def require_feasible(decisions: Decisions, tables: Sequence[Predictor], config: SearchConfig) -> None:
    """Check that every point's targets stay feasible where settings, e.g. shared cells, restrict the space.

    Raises:
        UsageError: a point's targets are below its fastest architecture, singly or together, or above its slowest.
    """
    for point in config.targets_ms:
        for table, target in zip(tables, point, strict=True):
            single = Latency(decisions, [table], [target], config.quantile)
            require_targets_met(single, ArchitectureBatch(*single.fastest))
        together = Latency(decisions, tables, point, config.quantile)
        require_targets_met(together, ArchitectureBatch(*together.fastest))
        slowest = ArchitectureBatch(*together.slowest)
        if float(together.target_ratio(slowest.choices, slowest.heads)[0]) < 1:
            raise UsageError(
                "every architecture is faster than the target with these settings; the slowest has "
                + _format_latencies(together, slowest)
            )


def require_targets_met(latency: Latency, architectures: ArchitectureBatch) -> None:
    """Check that architectures do not exceed their targets.

    Raises:
        UsageError: an architecture exceeds one, because several tables or fixed parts leave no feasible architecture.
    """
    if latency.targets_ms is None:
        return
    if float(latency.target_ratio(architectures.choices, architectures.heads).max()) > 1 + 1e-9:
        raise UsageError(
            "no architecture meets all targets with these settings; the nearest needs "
            + _format_latencies(latency, architectures)
        )


def _format_latencies(latency: Latency, architectures: ArchitectureBatch) -> str:
    """Format latencies of the first architecture next to its targets."""
    bounds_ms = latency.predicted_ms(architectures.choices, architectures.heads)[0] * latency.margin
    targets_ms = () if latency.targets_ms is None else tuple(latency.targets_ms)
    pairs = zip(bounds_ms, targets_ms, strict=True)
    return ", ".join(f"{ms:.3f} ms for a target of {target:.3f} ms" for ms, target in pairs)


def name_point_folder(point: Sequence[float]) -> str:
    """Return the folder name of a point of the front, e.g. `target-8ms` or `target-8ms-5.5ms`."""
    return "-".join(["target", *(f"{target:g}ms" for target in point)])
