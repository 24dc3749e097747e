"""Which targets a search can reach with its settings, shown before it begins."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import UsageError
from ...lut.predictor import Predictor
from ...models.space.lgcnet import SearchSpace
from ..config import SearchConfig
from ..decisions import Decisions
from .latency import Latency, require_reachable
from .projection import ArchitectureBatch


def common_space(tables: Sequence[Predictor], config: SearchConfig) -> SearchSpace:
    """The tables' space, after showing that targets and tables fit."""
    if not tables:
        raise UsageError("a search needs a latency table")
    space = tables[0].space
    if any(table.space.fingerprint != space.fingerprint for table in tables):
        names = ", ".join(f"{table.table_path} of {table.space.name}" for table in tables)
        raise UsageError(f"all tables of a search must be of one space: {names}")
    if len(tables) > 1 and not config.targets_ms:
        raise UsageError(f"{len(tables)} tables need a target each: give as many with --target-ms")
    if len({point_name(point) for point in config.targets_ms}) < len(config.targets_ms):
        raise UsageError("two points of the front have the same targets")
    for point in config.targets_ms:
        if len(point) != len(tables):
            raise UsageError(f"{len(tables)} tables, but {len(point)} targets: give one for each table")
        for table, target in zip(tables, point, strict=True):
            require_reachable(table, target, config.quantile)
    return space


def require_left(blocks: Decisions, tables: Sequence[Predictor], config: SearchConfig) -> None:
    """Show that what the settings leave of the space, as cells that share do, reaches every point.

    Raises:
        UsageError: a point's targets are below its fastest architecture, alone or together, or above its slowest.
    """
    for point in config.targets_ms:
        for table, target in zip(tables, point, strict=True):
            alone = Latency(blocks, [table], [target], config.quantile)
            require_on_target(alone, ArchitectureBatch(*alone.fastest))
        together = Latency(blocks, tables, point, config.quantile)
        require_on_target(together, ArchitectureBatch(*together.fastest))
        slowest = ArchitectureBatch(*together.slowest)
        if float(together.load(slowest.picked, slowest.heads)[0]) < 1:
            shown = _shown(together, slowest)
            raise UsageError(
                f"every architecture is faster than the target with these settings; the slowest has {shown}"
            )


def require_on_target(latency: Latency, found: ArchitectureBatch) -> None:
    """Show that the result does not exceed its targets.

    Raises:
        UsageError: it does, which only happens where several tables or fixed parts leave nothing that fits.
    """
    if latency.targets_ms is not None and float(latency.load(found.picked, found.heads).max()) > 1 + 1e-9:
        raise UsageError(
            f"no architecture meets all targets with these settings; the nearest needs {_shown(latency, found)}"
        )


def _shown(latency: Latency, found: ArchitectureBatch) -> str:
    """Latencies of an architecture beside its targets."""
    reached = latency.predicted_ms(found.picked, found.heads)[0] * latency.margin
    targets = () if latency.targets_ms is None else tuple(latency.targets_ms)
    pairs = zip(reached, targets, strict=True)
    return ", ".join(f"{ms:.3f} ms for a target of {target:.3f} ms" for ms, target in pairs)


def point_name(point: Sequence[float]) -> str:
    """Folder of a point of the front: `target-8ms`, `target-8ms-5.5ms`."""
    return "-".join(["target", *(f"{target:g}ms" for target in point)])
