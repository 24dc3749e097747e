"""Compare two tables: significant changes of their entries, with the machines' relative speed divided out.

Symbols, for an entry measured in both tables:

    a, b      its latencies (ms)
    speed     median ratio of the sentinels' latencies, B / A; the drift is speed - 1
    scatter   standard deviation of the sentinels' log(B / A), minus the share that their intervals explain
    weight    root of the sum of (coefficient * latency in A)**2 over the benchmarks of the entry (ms)
    change    (b / speed - a) / a
    interval  change -+ sqrt((z / 1.96)**2 * (ci_a**2 + (ci_b / speed)**2) + (t * scatter * weight)**2) / a

A change is significant if its interval excludes 0. The scatter covers the differences between two runs that a table's
own intervals miss, e.g. other memory addresses and other load on the machine. Of n unchanged entries, 5 % would leave a
95 % interval by chance. Therefore z and t are quantiles at 1 - 0.025 / n of the normal and of Student's t distribution
(degrees of freedom: sentinels - 1): all intervals hold together in 95 % of comparisons (Bonferroni).

Sentinels are the carriers measured in both tables. With fewer than two, as in isolated tables, the measured entries
give the speed. Their scatter contains the changes, so the scatter of the runs is unknown and counts as 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ...errors import FileFormatError, MismatchError
from ...models.space.opspec import OpSpec
from ...models.space.protocol import DENSE
from ..statistics.estimates import Z_95
from ..table.schema import MEASURED, NOISY
from ..table.table import LatencyTable


class _Latency(NamedTuple):
    ms: float
    ci_ms: float | None


@dataclass(frozen=True)
class EntryChange:
    """Entry of both tables.

    Attributes:
        key: String form of the OpSpec.
        a_ms: Latency in A.
        b_ms: Latency in B, at B's speed.
        change_pct: Change from A to B at A's speed, relative to A.
        low_pct: Lower end of its interval; None if a table has no interval for the entry.
        high_pct: Upper end of its interval; None as above.
        share_pct: Latency in A relative to the median network; None if A has no network.
    """

    key: str
    a_ms: float
    b_ms: float
    change_pct: float
    low_pct: float | None
    high_pct: float | None
    share_pct: float | None

    @property
    def beyond_noise(self) -> bool:
        """True if the change is significant: its interval is known and excludes 0."""
        return self.low_pct is not None and self.high_pct is not None and not self.low_pct <= 0 <= self.high_pct

    def is_relevant(self, min_share_pct: float) -> bool:
        """Return True if the entry has at least this share of a network, or if its share is unknown."""
        return self.share_pct is None or self.share_pct >= min_share_pct


@dataclass(frozen=True)
class TableComparison:
    """Result of `compare_tables`.

    Attributes:
        speed: Ratio of the sentinels' latencies, B / A.
        sentinels: Number and kind of the sentinels.
        scatter: Relative standard deviation of a benchmark's latency between the two runs; None if unknown.
        changes: Entries measured in both tables, the largest change first.
        only_a: Keys measured in A only.
        only_b: Keys measured in B only.
        differences: Other differences of the tables, e.g. `precision fp32, not fp16`, with A's value first.
    """

    speed: float
    sentinels: str
    scatter: float | None
    changes: tuple[EntryChange, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    differences: tuple[str, ...]

    @property
    def drift_pct(self) -> float:
        """Slowdown of the sentinels in B, in percent."""
        return (self.speed - 1) * 100

    @cached_property
    def moved(self) -> list[EntryChange]:
        """Entries with a significant change."""
        return [change for change in self.changes if change.beyond_noise]

    def select_beyond(self, threshold_pct: float, min_share_pct: float) -> list[EntryChange]:
        """Return the relevant entries with a significant change above the threshold."""
        relevant = (change for change in self.moved if change.is_relevant(min_share_pct))
        return [change for change in relevant if abs(change.change_pct) > threshold_pct]

    def quantile_pct(self, quantile: float, min_share_pct: float) -> float | None:
        """Return a quantile (0 to 1) of |change| over the relevant entries, in percent; None without entries."""
        sizes = [abs(change.change_pct) for change in self.changes if change.is_relevant(min_share_pct)]
        return float(np.quantile(sizes, quantile)) if sizes else None

    def noise_pct(self, min_share_pct: float) -> float | None:
        """Return the median half width of the relevant entries' intervals, in percent; None without intervals."""
        halves = [
            c.high_pct - c.change_pct for c in self.changes if c.is_relevant(min_share_pct) and c.high_pct is not None
        ]
        return float(np.median(halves)) if halves else None


def compare_tables(a: LatencyTable, b: LatencyTable, match: str = "") -> TableComparison:
    """Compare the measured entries of two tables, which may have different targets and spaces.

    Args:
        a: Reference table.
        b: Table to compare with it.
        match: Text that the keys of the compared entries contain. The speed always comes from all sentinels.

    Raises:
        MismatchError: The tables have no measured entry in common, or other recipes of its operator.
        FileFormatError: A table is damaged.
    """
    in_a, in_b = _select_measured(a), _select_measured(b)
    common = [key for key in in_a if key in in_b]
    if not common:
        raise MismatchError(
            f"{a.path} and {b.path} have no measured entry in common: compare tables with the same operators and sizes"
        )
    require_equal_recipes(a, b, [key for key in common if match in key])
    speed, scatter, sentinels = _estimate_speed(a, b, in_a, in_b)
    network_ms, weights = median_network_ms(a), _entry_weights(a)
    selected = [key for key in common if match in key]
    noise = _Noise(speed, scatter, sentinels, max(len(selected), 1))
    changes = []
    for key in selected:
        half = noise.half_ms(in_a[key], in_b[key], weights.get(key, in_a[key].ms))
        changes.append(_make_change(key, in_a[key], in_b[key], speed, half, network_ms))
    return TableComparison(
        speed=speed,
        sentinels=f"{sentinels} {'entries' if scatter is None else 'carriers'}",
        scatter=scatter,
        changes=tuple(sorted(changes, key=lambda change: -abs(change.change_pct))),
        only_a=tuple(key for key in in_a if key not in in_b and match in key),
        only_b=tuple(key for key in in_b if key not in in_a and match in key),
        differences=(*list_setup_differences(a, b), *_list_space_differences(a, b)),
    )


def require_equal_recipes(a: LatencyTable, b: LatencyTable, keys: Iterable[str]) -> None:
    """Check that entries of two tables were measured with equal recipes.

    Raises:
        MismatchError: An operator has another recipe in one of the tables.
    """
    for key in keys:
        if a.recipe(key) != b.recipe(key):
            raise MismatchError(
                f"{a.path} and {b.path} were measured with different recipes of operator "
                f"{OpSpec.parse(key).operator} ({key}): measure the older table again"
            )


def median_network_ms(table: LatencyTable) -> float | None:
    """Return the median latency of the table's networks in scope `dense`, in ms; None without measured networks."""
    latencies = table.network_latencies(DENSE)
    return float(np.median(latencies)) if latencies else None


def list_setup_differences(a: LatencyTable, b: LatencyTable) -> list[str]:
    """Return the differences of target, machine, versions and protocol, e.g. `precision fp32, not fp16`, A's first."""
    differences = a.target.differences(b.target)
    for name, value_a, value_b in (
        ("device", a.environment.get("device_name"), b.environment.get("device_name")),
        ("versions", _list_versions(a.environment), _list_versions(b.environment)),
        ("context", _describe_context(a.protocol), _describe_context(b.protocol)),
        ("statistic", a.protocol.get("statistic"), b.protocol.get("statistic")),
    ):
        if value_a != value_b:
            differences.append(f"{name} {value_a}, not {value_b}")
    return differences


def _describe_context(protocol: Mapping[str, Any]) -> str:
    """Return the context of operators, with the name of the protocol if entries depend on it."""
    context = str(protocol.get("context"))
    return f"{context} of {protocol.get('name')}" if context == "carriers" else context


def _list_versions(environment: Mapping[str, Any]) -> str:
    versions = environment.get("versions")
    items = versions.items() if isinstance(versions, dict) else ()
    return " ".join(f"{name} {version}" for name, version in items) or "unknown"


def _list_space_differences(a: LatencyTable, b: LatencyTable) -> list[str]:
    if a.missing_operators or b.missing_operators:
        equal = _without_name(a.space_content) == _without_name(b.space_content)
        return [] if equal else [f"space {a.space_title}, not {b.space_title}"]
    if a.space.fingerprint == b.space.fingerprint:
        return []
    return [f"space {a.space.description}, not {b.space.description}"]


def _without_name(space: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in space.items() if field != "name"}


def _select_measured(table: LatencyTable) -> dict[str, _Latency]:
    """Return the measured entries, without interpolated ones.

    Raises:
        FileFormatError: A latency is invalid.
    """
    measured = {}
    for entry in table.entries():
        if entry.status in (MEASURED, NOISY):
            if not isinstance(entry.latency_ms, float) or not 0 < entry.latency_ms < np.inf:
                raise FileFormatError(
                    f"{table.path} is a damaged latency table: {entry.key} has latency {entry.latency_ms} ms"
                )
            measured[entry.key] = _Latency(entry.latency_ms, entry.ci_ms)
    return measured


def _estimate_speed(
    a: LatencyTable, b: LatencyTable, in_a: dict[str, _Latency], in_b: dict[str, _Latency]
) -> tuple[float, float | None, int]:
    """Return speed, scatter (None if unknown) and number of the sentinels."""
    carriers_a, carriers_b = (
        {c.key: _Latency(c.latency_ms, c.ci_ms) for c in table.benchmarks("carrier") if c.latency_ms}
        for table in (a, b)
    )
    shared = [key for key in carriers_a if key in carriers_b]
    if len(shared) < 2:
        ratios = [in_b[key].ms / in_a[key].ms for key in in_a if key in in_b]
        return float(np.median(ratios)), None, len(ratios)
    pairs = [(carriers_a[key], carriers_b[key]) for key in shared]
    logs = np.log([after.ms / before.ms for before, after in pairs])
    explained = [math.hypot(*((side.ci_ms or 0.0) / side.ms for side in pair)) / Z_95 for pair in pairs]
    scatter = math.sqrt(max(float(logs.var(ddof=1)) - float(np.median(explained)) ** 2, 0.0))
    return float(np.exp(np.median(logs))), scatter, len(shared)


def _entry_weights(table: LatencyTable) -> dict[str, float]:
    """Return the scatter in ms of each entry if each of its benchmarks scattered by its whole latency."""
    latency = {benchmark.key: benchmark.latency_ms or 0.0 for benchmark in table.benchmarks()}
    squares: dict[str, float] = {}
    for entry, key, coefficient in table.store.rows("SELECT entry, subject, coefficient FROM terms"):
        squares[entry] = squares.get(entry, 0.0) + (coefficient * latency.get(key, 0.0)) ** 2
    return {entry: math.sqrt(square) for entry, square in squares.items()}


class _Noise:
    """Noise of the compared entries; see the symbols above."""

    def __init__(self, speed: float, scatter: float | None, sentinels: int, entries: int) -> None:
        """Compute the quantiles for the number of `sentinels` and compared `entries`; scatter None counts as 0."""
        from scipy.stats import norm, t

        tail = 0.025 / entries
        self.speed = speed
        self.widening = float(norm.isf(tail)) / Z_95
        self.scatter = scatter * float(t.isf(tail, sentinels - 1)) if scatter else 0.0

    def half_ms(self, a: _Latency, b: _Latency, weight_ms: float) -> float:
        """Return half the interval of an entry in ms, at A's speed; NaN if a table has no interval for it."""
        ci_a, ci_b = (math.nan if latency.ci_ms is None else latency.ci_ms for latency in (a, b))
        return math.hypot(self.widening * ci_a, self.widening * ci_b / self.speed, self.scatter * weight_ms)


def _make_change(
    key: str, a: _Latency, b: _Latency, speed: float, half_ms: float, network_ms: float | None
) -> EntryChange:
    change_ms = b.ms / speed - a.ms
    known = not math.isnan(half_ms)
    return EntryChange(
        key=key,
        a_ms=a.ms,
        b_ms=b.ms,
        change_pct=change_ms / a.ms * 100,
        low_pct=(change_ms - half_ms) / a.ms * 100 if known else None,
        high_pct=(change_ms + half_ms) / a.ms * 100 if known else None,
        share_pct=None if network_ms is None else a.ms / network_ms * 100,
    )
