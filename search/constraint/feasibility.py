"""Feasibility of a search's targets, checked before the search starts."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import UsageError
from ...lut.predictor import Predictor
from ...models.space.protocol import Space
from ..config import SearchConfig
from ..decisions import Decisions
from .constraint import CostConstraint
from .projection import ArchitectureBatch
from .target_range import describe_inactive_target, require_target_in_range


def require_common_space(tables: Sequence[Predictor], config: SearchConfig) -> Space:
    """Return the tables' search space after a check of tables and targets.

    Raises:
        UsageError: tables have different spaces, or targets do not match the tables or no architecture meets one.
    """
    if not tables:
        raise UsageError("a search needs a latency table: give one with --lut")
    space = tables[0].space
    if any(table.space.fingerprint != space.fingerprint for table in tables):
        names = ", ".join(f"{table.table_path} (space {table.space.name})" for table in tables)
        raise UsageError(f"the tables of a search must share one space: {names}")
    if len(tables) > 1 and not config.targets_ms:
        raise UsageError(f"{len(tables)} tables need one target per table: repeat --target-ms or --target-fps")
    if len({name_point_folder(point) for point in config.targets_ms}) < len(config.targets_ms):
        raise UsageError("two points of the front have the same targets: remove one")
    for point in config.targets_ms:
        if len(point) != len(tables):
            raise UsageError(f"{len(tables)} tables, but targets: {len(point)}; give one target per table")
        for table, target, fps in zip(tables, point, config.find_fps(point), strict=True):
            require_target_in_range(table, target, config.quantile, fps)
    return space


def require_feasible(decisions: Decisions, tables: Sequence[Predictor], config: SearchConfig) -> None:
    """Check that every point's targets stay feasible where settings, e.g. shared cells, restrict the space.

    Raises:
        UsageError: a point's targets are below its fastest architecture, singly or together.
    """
    for point in config.targets_ms:
        rates = config.find_fps(point)
        for table, target, fps in zip(tables, point, rates, strict=True):
            single = CostConstraint.from_predictors(decisions, [table], [target], config.quantile)
            require_targets_met(single, ArchitectureBatch(single.cheapest), [fps])
        together = CostConstraint.from_predictors(decisions, tables, point, config.quantile)
        require_targets_met(together, ArchitectureBatch(together.cheapest), rates)


def describe_inactive_targets(decisions: Decisions, tables: Sequence[Predictor], config: SearchConfig) -> list[str]:
    """Return a line for each point whose targets every architecture meets: there the loss alone decides."""
    return [
        "; ".join(
            describe_inactive_target(table, _find_range(decisions, table), target, config.quantile, fps)
            for table, target, fps in zip(tables, point, config.find_fps(point), strict=True)
        )
        + "; with this table, the architecture is chosen by its loss alone"
        for point in config.targets_ms
        if CostConstraint.from_predictors(decisions, tables, point, config.quantile).is_inactive
    ]


def _find_range(decisions: Decisions, table: Predictor) -> tuple[float, float]:
    """Return the smallest and the largest latency that a table predicts for the decisions, in ms."""
    constraint = CostConstraint.from_predictors(decisions, [table])
    ends = (constraint.cheapest, constraint.costliest)
    fastest, slowest = (float(constraint.evaluate(choices)[0, 0]) for choices in ends)
    return fastest, slowest


def require_targets_met(
    constraint: CostConstraint, architectures: ArchitectureBatch, rates: Sequence[float | None]
) -> None:
    """Check that architectures do not exceed their targets.

    Args:
        constraint: costs and targets.
        architectures: architectures to check.
        rates: frame rates that the targets were converted from, or None each; empty without targets.

    Raises:
        UsageError: an architecture exceeds one, because several tables or fixed parts leave no feasible architecture.
    """
    if constraint.targets is None:
        return
    if float(constraint.target_ratio(architectures.choices).max()) > 1 + 1e-9:
        raise UsageError(
            "no architecture meets all targets with these settings; the nearest has "
            + _format_costs(constraint, architectures, rates)
        )


def _format_costs(constraint: CostConstraint, architectures: ArchitectureBatch, rates: Sequence[float | None]) -> str:
    """Format costs of the first architecture next to its targets, in the targets' units."""
    bounds = constraint.evaluate(architectures.choices)[0] * constraint.margin
    targets = () if constraint.targets is None else tuple(constraint.targets)
    rows = zip(bounds, targets, (cost.unit for cost in constraint.costs), rates, strict=True)
    return ", ".join(
        f"{bound:.3f} {unit} for a target of {target:.3f} {unit}"
        if fps is None
        else f"{fps * target / bound:.4g} FPS for a target of {fps:.4g} FPS"
        for bound, target, unit, fps in rows
    )


def name_point_folder(point: Sequence[float]) -> str:
    """Return the folder name of a point of the front, e.g. `target-8ms` or `target-8ms-5.5ms`."""
    return "-".join(["target", *(f"{target:g}ms" for target in point)])
