"""Profiling: a space on a target becomes a calibrated, verified latency table."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import MismatchError, OutputError, UsageError
from ..lut.calibration import MIN_NETWORKS, Report, cross_validate, fit, report
from ..lut.predictor import Predictor
from ..lut.schema import FAILED, MEASURED
from ..lut.table import LatencyTable
from ..lut.target import Target
from ..models.opspec import OpSpec
from ..models.plan import DENSE, SCOPES
from ..models.space import SearchSpace
from .backends import Backend, require
from .environment import DEVICE_NAME, fingerprint
from .measure import check_protocol, default_rounds, default_statistic, measure
from .rounds import OnProgress, quiet
from .workloads import network_workload, operator_workload

DEFAULT_NETWORKS = 12


@dataclass(frozen=True)
class ProfileResult:
    """What `profile` did.

    Attributes:
        entries: operators of the table.
        measured: of these, measured ones.
        interpolated: of these, ones estimated from others.
        spreads_pct: spread across visits of each measured operator, in percent.
        failed: key -> reason of operators and networks that could not be measured.
        seconds: time spent by this call.
        verification: report on networks that each prediction had not seen; None if too few were measured.
    """

    entries: int
    measured: int
    interpolated: int
    spreads_pct: list[float]
    failed: dict[str, str]
    seconds: float
    verification: Report | None


def profile(
    space: SearchSpace,
    target: Target,
    out: Path,
    *,
    networks: int = DEFAULT_NETWORKS,
    rounds: int | None = None,
    budget_s: float | None = None,
    seed: int = 0,
    on_progress: OnProgress = quiet,
) -> ProfileResult:
    """Measure every operator of `space` on `target` into the table `out`, with `networks` whole networks among them.

    An unfinished table is gone on with, a finished one is left as it is. The networks, spread over the space's range,
    calibrate the table; each is predicted by a fit that has not seen it, which gives the verification.

    Args:
        space: what to cover.
        target: where to measure.
        out: table file; made if it does not exist.
        networks: whole networks to measure; 0 leaves the table uncalibrated.
        rounds: visits to each entry; more on a CPU than on a GPU if None.
        budget_s: seconds after which no further round is begun.
        seed: of the networks and of the visiting order.
        on_progress: told how far it is.

    Raises:
        BackendUnavailableError: the target cannot be used here.
        MismatchError: `out` is a table of something else.
        UsageError: `networks`, `rounds` or `budget_s` is too small to mean anything.
    """
    start = time.monotonic()
    if networks != 0 and networks < MIN_NETWORKS:
        raise UsageError(f"{networks} networks are too few to calibrate with: at least {MIN_NETWORKS}, or 0 for none")
    rounds = default_rounds(target) if rounds is None else rounds
    check_protocol(target, rounds)
    backend = require(target)
    with open_or_create(out, target, space, backend) as table:
        workloads = {entry.key: operator_workload(OpSpec.parse(entry.key)) for entry in table.entries()}
        for architecture in space.spread(networks, seed):
            for scope in SCOPES:
                workloads[table.add_network(architecture, scope)] = network_workload(architecture, scope)
        done = table.rounds_done()
        measured = measure(
            backend,
            target,
            workloads,
            rounds,
            on_round=table.record_visits,
            on_failure=table.record_failure,
            done=done,
            budget_s=budget_s,
            seed=seed,
            on_progress=on_progress,
        )
        measurement = table.measurement()
        finished = [key for key in workloads if done.get(key, 0) >= rounds]  # perhaps by a call killed right then
        for key in (*measured, *finished):
            table.record_summary(key, measurement.summary(key))
        entries = table.entries()
        every = [*entries, *(entry for entry, _, _ in table.networks())]
        failed = {entry.key: entry.reason or "" for entry in every if entry.status == FAILED}
        complete = all(entry.status == MEASURED for entry in entries)
        verification = calibrate(table) if complete else None
    return ProfileResult(
        entries=len(entries),
        measured=sum(entry.status == MEASURED for entry in entries),
        interpolated=sum(entry.status == "interpolated" for entry in entries),
        spreads_pct=[entry.spread_pct for entry in entries if entry.spread_pct is not None],
        failed=failed,
        seconds=time.monotonic() - start,
        verification=verification,
    )


def calibrate(table: LatencyTable) -> Report | None:
    """Fit the table's correction on its own networks, and report on each as predicted by a fit without it.

    Both are done for each scope, and written into the table; the report returned is that of scope `dense`. None, and
    nothing written, if the table holds too few networks.
    """
    calibrations, reports = {}, {}
    even, odd = table.measurement().halves()
    for scope in SCOPES:
        networks = [(e, a) for e, a, at in table.networks() if at == scope and e.latency_ms is not None]
        if len(networks) < MIN_NETWORKS:
            return None
        predictor = Predictor(table.space, table, scope)
        sums = [predictor.sum_ms(architecture) for _, architecture in networks]
        measured = [entry.latency_ms or 0.0 for entry, _ in networks]
        pairs = [(even.summary(e.key).latency_ms, odd.summary(e.key).latency_ms) for e, _ in networks]
        calibrations[scope] = asdict(fit(sums, measured))
        reports[scope] = report(cross_validate(sums, measured).tolist(), measured, pairs)
    table.write_note("calibration", calibrations)
    table.write_note("verification", {scope: found.as_dict() for scope, found in reports.items()})
    return reports[DENSE]


def open_or_create(out: Path, target: Target, space: SearchSpace, backend: Backend) -> LatencyTable:
    """The table at `out`: made if it is not there, else shown to be of this target, space and machine."""
    here = fingerprint(target, backend)
    if out.is_dir():
        raise OutputError(f"{out} is a folder; give the table's file name")
    if not out.exists():
        protocol = {"name": "interleaved-rounds", "context": "isolated", "statistic": default_statistic(target)}
        return LatencyTable.create(out, target, space, protocol, here)
    table = LatencyTable.open(out)
    table.require(target=target, space=space)
    require_machine(table, here)
    if table.environment.get("versions") != here["versions"]:
        then, now = (_listed(at.get("versions") or {}) for at in (table.environment, here))
        raise MismatchError(
            f"{out} was measured with {then}, here is {now}: go on with those versions, or name another --out"
        )
    return table


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or "unknown versions"


def require_machine(table: LatencyTable, here: Mapping[str, Any]) -> None:
    """Show that this is the kind of device the table was measured on.

    Raises:
        MismatchError: it is another.
    """
    there = table.environment.get(DEVICE_NAME)
    if there != here[DEVICE_NAME]:
        raise MismatchError(
            f"{table.path} was measured on {there}, this is {here[DEVICE_NAME]}: make a table for this device with "
            f"lgc-profile and another --out"
        )
