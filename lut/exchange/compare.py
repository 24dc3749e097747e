"""What moved from one table to another beyond noise, the speed of the two machines, or hours, divided out.

Symbols, for an entry that both tables have measured:

    a, b      its latencies (ms)
    speed     median over the sentinels of their latency in B / in A; the drift is speed - 1
    scatter   standard deviation of the sentinels' log(B / A), less what their own intervals explain
    weight    root of the sum of (coefficient * latency in A)**2 over the subjects that the entry follows from (ms)
    change    (b / speed - a) / a
    interval  change -+ sqrt((z / 1.96)**2 * (ci_a**2 + (ci_b / speed)**2) + (t * scatter * weight)**2) / a

An entry moved if its interval leaves out 0. A table's own intervals do not tell all that a second run does otherwise,
in another place of memory, beside other neighbours: that is the scatter. Of n entries that did not move, 5 in 100 would
leave a 95 % interval by chance; z and t, the quantiles at 1 - 0.025 / n of the normal distribution and of Student's
(with as many degrees of freedom as there are sentinels, less one), make the intervals hold for all entries together in
95 % of comparisons (Bonferroni), so that a check with them fails for a reason.

Sentinels are the carriers that both tables timed. Where there are not two, as in isolated tables, the measured entries
themselves tell the speed; their scatter is what is sought, so that of the runs is not known and counts as 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ...errors import FileFormatError, MismatchError
from ...models.space.plan import DENSE
from ..table.schema import MEASURED, NOISY
from ..table.table import LatencyTable

Z_95 = 1.96
"""Half of the normal distribution's 95 % interval, in standard deviations."""


class _Latency(NamedTuple):
    ms: float
    ci_ms: float | None


@dataclass(frozen=True)
class EntryChange:
    """An entry in both tables.

    Attributes:
        key: the OpSpec's string form.
        a_ms: latency in A.
        b_ms: latency in B, as it stands there.
        change_pct: from A to B at A's speed, relative to A.
        low_pct: lower end of its interval; None where a table does not know its entry's interval.
        high_pct: upper end, likewise.
        share_pct: A's latency relative to a typical network's; None if A holds no network.
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
        """Whether the interval leaves out 0; an unknown interval settles nothing."""
        return self.low_pct is not None and self.high_pct is not None and not self.low_pct <= 0 <= self.high_pct

    def is_relevant(self, least_share_pct: float) -> bool:
        """Whether it is at least this share of a network; where the share is unknown, yes."""
        return self.share_pct is None or self.share_pct >= least_share_pct


@dataclass(frozen=True)
class TableComparison:
    """What `compare_tables` found.

    Attributes:
        speed: how many times longer the sentinels take in B.
        sentinels: how many there are, and of what kind.
        scatter: by how much a subject's latency differs between the two runs besides (standard deviation, relative);
            None where nothing tells.
        changes: entries measured in both, the greatest change first.
        only_a: keys measured in A only.
        only_b: keys measured in B only.
        differences: in what else the tables differ, as `precision fp32, not fp16` (A's first).
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
        """How much slower the sentinels are in B, in percent."""
        return (self.speed - 1) * 100

    @cached_property
    def moved(self) -> list[EntryChange]:
        """Entries that moved beyond noise."""
        return [change for change in self.changes if change.beyond_noise]

    def select_beyond(self, threshold_pct: float, least_share_pct: float) -> list[EntryChange]:
        """Entries that moved beyond noise, by more than the threshold, and weigh in a network."""
        moved = (change for change in self.moved if change.is_relevant(least_share_pct))
        return [change for change in moved if abs(change.change_pct) > threshold_pct]

    def quantile_pct(self, quantile: float, least_share_pct: float) -> float | None:
        """A quantile (0 to 1) of |change| over the entries that weigh, in percent; None if there are none."""
        sizes = [abs(change.change_pct) for change in self.changes if change.is_relevant(least_share_pct)]
        return float(np.quantile(sizes, quantile)) if sizes else None

    def noise_pct(self, least_share_pct: float) -> float | None:
        """Median half of the intervals of the entries that weigh, in percent: what cannot be told from noise."""
        halves = [
            c.high_pct - c.change_pct for c in self.changes if c.is_relevant(least_share_pct) and c.high_pct is not None
        ]
        return float(np.median(halves)) if halves else None


def compare_tables(a: LatencyTable, b: LatencyTable, match: str = "") -> TableComparison:
    """Compare what both tables have measured. They may be of different devices, backends and spaces.

    Args:
        a: the table to start from.
        b: the table to hold against it.
        match: only entries whose key contains this; the speed is told by all sentinels nevertheless.

    Raises:
        MismatchError: they have no measured entry in common.
        FileFormatError: one is damaged.
    """
    in_a, in_b = _select_measured(a), _select_measured(b)
    common = [key for key in in_a if key in in_b]
    if not common:
        raise MismatchError(f"{a.path} and {b.path} have no measured entry in common: there is nothing to compare")
    speed, scatter, sentinels = _estimate_speed(a, b, in_a, in_b)
    network_ms, weights = median_network_ms(a), _entry_weights(a)
    asked = [key for key in common if match in key]
    noise = _Noise(speed, scatter, sentinels, max(len(asked), 1))
    changes = []
    for key in asked:
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


def median_network_ms(table: LatencyTable) -> float | None:
    """Median latency of the table's networks in scope `dense`, milliseconds; None if none was measured."""
    found = [s.latency_ms for s, _, scope in table.networks() if scope == DENSE and s.latency_ms is not None]
    return float(np.median(found)) if found else None


def list_setup_differences(a: LatencyTable, b: LatencyTable) -> list[str]:
    """In what target, machine, versions and protocol differ, as `precision fp32, not fp16`; A's first."""
    found = a.target.differences(b.target)
    for name, mine, theirs in (
        ("device", a.environment.get("device_name"), b.environment.get("device_name")),
        ("versions", _list_versions(a.environment), _list_versions(b.environment)),
        ("context", a.protocol.get("context"), b.protocol.get("context")),
        ("statistic", a.protocol.get("statistic"), b.protocol.get("statistic")),
    ):
        if mine != theirs:
            found.append(f"{name} {mine}, not {theirs}")
    return found


def _list_versions(environment: Mapping[str, Any]) -> str:
    versions = environment.get("versions")
    known = versions.items() if isinstance(versions, dict) else ()
    return " ".join(f"{name} {version}" for name, version in known) or "unknown"


def _list_space_differences(a: LatencyTable, b: LatencyTable) -> list[str]:
    if a.space.fingerprint == b.space.fingerprint:
        return []
    mine, theirs = (f"{space.name} {space.input[0]}x{space.input[1]}" for space in (a.space, b.space))
    return [f"space {mine} ({a.space.fingerprint}), not {theirs} ({b.space.fingerprint})"]


def _select_measured(table: LatencyTable) -> dict[str, _Latency]:
    """Entries with a measurement of their own: what is interpolated says nothing of what moved.

    Raises:
        FileFormatError: one has a latency that is none.
    """
    found = {}
    for entry in table.entries():
        if entry.status in (MEASURED, NOISY):
            if not isinstance(entry.latency_ms, float) or not 0 < entry.latency_ms < np.inf:
                raise FileFormatError(
                    f"{table.path} is a damaged latency table: {entry.key} takes {entry.latency_ms} ms"
                )
            found[entry.key] = _Latency(entry.latency_ms, entry.ci_ms)
    return found


def _estimate_speed(
    a: LatencyTable, b: LatencyTable, in_a: dict[str, _Latency], in_b: dict[str, _Latency]
) -> tuple[float, float | None, int]:
    """How many times longer the sentinels take in B, how much they scatter about that, and how many they are."""
    then, now = (
        {s.key: _Latency(s.latency_ms, s.ci_ms) for s in table.benchmarks("carrier") if s.latency_ms}
        for table in (a, b)
    )
    shared = [key for key in then if key in now]
    if len(shared) < 2:
        ratios = [in_b[key].ms / in_a[key].ms for key in in_a if key in in_b]
        return float(np.median(ratios)), None, len(ratios)
    logs = np.log([now[key].ms / then[key].ms for key in shared])
    known = [math.hypot(*((at[key].ci_ms or 0.0) / at[key].ms for at in (then, now))) / Z_95 for key in shared]
    scatter = math.sqrt(max(float(logs.var(ddof=1)) - float(np.median(known)) ** 2, 0.0))
    return float(np.exp(np.median(logs))), scatter, len(shared)


def _entry_weights(table: LatencyTable) -> dict[str, float]:
    """By how much an entry would scatter if all it follows from did so by its own latency, milliseconds."""
    latency = {subject.key: subject.latency_ms or 0.0 for subject in table.benchmarks()}
    squares: dict[str, float] = {}
    for entry, subject, coefficient in table.store.rows("SELECT entry, subject, coefficient FROM terms"):
        squares[entry] = squares.get(entry, 0.0) + (coefficient * latency.get(subject, 0.0)) ** 2
    return {entry: math.sqrt(square) for entry, square in squares.items()}


class _Noise:
    """How far the entries of a comparison come apart although nothing moved.

    Args:
        speed: see above, likewise scatter; None counts as 0.
        scatter: standard deviation, relative.
        sentinels: how many it was told by.
        entries: how many are compared.
    """

    def __init__(self, speed: float, scatter: float | None, sentinels: int, entries: int) -> None:
        from scipy.stats import norm, t

        tail = 0.025 / entries
        self.speed = speed
        self.widening = float(norm.isf(tail)) / Z_95
        self.scatter = scatter * float(t.isf(tail, sentinels - 1)) if scatter else 0.0

    def half_ms(self, a: _Latency, b: _Latency, weight_ms: float) -> float:
        """Half of the interval of an entry, at A's speed; not a number where a table does not know its own."""
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
