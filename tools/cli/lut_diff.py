"""`lgc-lut diff`: changes between two latency tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import UsageError
from .console import emit, grid, say
from .options import JsonOption, parse_percent

if TYPE_CHECKING:
    from rich.table import Table

    from ...lut.exchange.compare import EntryChange, TableComparison

MAX_ROWS, MAX_KEYS = 40, 10
"""Printed rows of a comparison, and printed keys that only one table has; --json has all."""


def diff(
    a: Annotated[Path, typer.Argument(metavar="A.lut", help="Baseline table.")],
    b: Annotated[Path, typer.Argument(metavar="B.lut", help="Table to compare with the baseline.")],
    threshold: Annotated[
        str, typer.Option(metavar="PERCENT", help="Exit with code 1 if an entry changed by more than this.")
    ] = "5%",
    least_share: Annotated[
        str, typer.Option(metavar="PERCENT", help="Ignore entries with a smaller share of a network's latency.")
    ] = "1%",
    match: Annotated[str, typer.Option(metavar="TEXT", help="Compare only entries whose key contains TEXT.")] = "",
    as_json: JsonOption = False,
) -> int:
    """Show changes from table A to table B beyond noise and drift.

    Drift is estimated from carriers common to both tables, else from common entries; a uniform change is
    indistinguishable from drift. Exit code 1 if an entry changed beyond noise and by more than the threshold.

    Example: lgc-lut diff monday.lut today.lut --threshold 5%
    """
    from ...lut.exchange.compare import compare_tables
    from ...lut.table.table import LatencyTable

    threshold_pct, share_pct = parse_percent(threshold), parse_percent(least_share)
    with LatencyTable.open(a, inspect=True) as opened_a, LatencyTable.open(b, inspect=True) as opened_b:
        comparison = compare_tables(opened_a, opened_b, match)
    if not (comparison.changes or comparison.only_a or comparison.only_b):
        raise UsageError(f"no entry matches --match {match} in {a} and {b}")
    if comparison.differences:
        say(f"warning: the tables differ in more than latencies: {'; '.join(comparison.differences)}")
    unknown = sum(change.low_pct is None for change in comparison.changes)
    if unknown:
        say(f"warning: {unknown} entries have no confidence interval in one table, so their noise is unknown")
    beyond = comparison.select_beyond(threshold_pct, share_pct)
    content = {
        "a": str(a),
        "b": str(b),
        "drift_pct": comparison.drift_pct,
        "scatter_pct": None if comparison.scatter is None else comparison.scatter * 100,
        "common": len(comparison.changes),
        "moved": len(comparison.moved),
        "beyond_threshold": len(beyond),
        "median_change_pct": comparison.quantile_pct(0.5, share_pct),
        "p95_change_pct": comparison.quantile_pct(0.95, share_pct),
        "noise_pct": comparison.noise_pct(share_pct),
        "only_a": list(comparison.only_a),
        "only_b": list(comparison.only_b),
        "differences": list(comparison.differences),
        "entries": [
            {**asdict(change), "beyond_noise": change.beyond_noise, "beyond_threshold": change in beyond}
            for change in comparison.changes
        ],
    }
    significant = [change for change in comparison.moved if change.is_relevant(share_pct)]
    tables: list[Table | str] = [_make_change_table(significant[:MAX_ROWS], comparison.speed)] if significant else []
    emit(content, as_json, *tables, *_format_lines(comparison, len(significant), len(beyond), threshold_pct, share_pct))
    return 1 if beyond else 0


def _make_change_table(changes: Sequence[EntryChange], speed: float) -> Table:
    rows = grid("changed beyond noise", "operator", "A ms", "B ms at A's speed", "change", "±", "share", numbers=5)
    for change in changes:
        half_pct = (change.high_pct or 0.0) - change.change_pct
        share = "" if change.share_pct is None else f"{change.share_pct:.1f} %"
        numbers = (f"{change.a_ms:.4f}", f"{change.b_ms / speed:.4f}", f"{change.change_pct:+.1f} %")
        rows.add_row(change.key, *numbers, f"{half_pct:.1f} %", share)
    return rows


def _format_lines(
    comparison: TableComparison, significant: int, beyond: int, threshold_pct: float, share_pct: float
) -> list[str]:
    """Return lines on the entries that are not in the table, drift, noise, and keys that only one table has."""
    lines = [f"... and {significant - MAX_ROWS} more, see --json"] if significant > MAX_ROWS else []
    scatter = (
        "the scatter between the tables is unknown, so noise is underestimated"
        if comparison.scatter is None
        else f"the scatter of {comparison.scatter * 100:.1f} % between the tables counts as noise"
    )
    lines.append(
        f"Drift from A to B: {comparison.drift_pct:+.1f} % (median of {comparison.sentinels}), corrected; {scatter}."
    )
    changes, moved = len(comparison.changes), len(comparison.moved)
    lines.append(
        f"{changes} common entries: {beyond} changed by more than {threshold_pct:g} %, {significant - beyond} by less, "
        f"{moved - significant} changed with a share below {share_pct:g} % of a network, {changes - moved} did not "
        f"change beyond noise."
    )
    median_pct, p95_pct = (comparison.quantile_pct(quantile, share_pct) for quantile in (0.5, 0.95))
    noise_pct = comparison.noise_pct(share_pct)
    if median_pct is not None:
        noise = "" if noise_pct is None else f"; noise about ± {noise_pct:.1f} %"
        lines.append(
            f"Entries of at least {share_pct:g} % of a network: median change {median_pct:.1f} %, 95 % of them within "
            f"{p95_pct:.1f} %{noise}."
        )
    for name, keys in (("A", comparison.only_a), ("B", comparison.only_b)):
        lines += [f"only in {name}: {key}" for key in keys[:MAX_KEYS]]
        lines += [f"only in {name}: {len(keys) - MAX_KEYS} more"] if len(keys) > MAX_KEYS else []
    return lines
