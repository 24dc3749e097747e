"""Profiling: a space on a target becomes a calibrated, verified latency table."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..device import Device
from ..errors import MismatchError, MissingEntryError, OutputError, UsageError
from ..lut.statistics.calibration import (
    MIN_NETWORKS,
    PredictionReport,
    ValidatedCorrection,
    choose_correction,
    evaluate_predictions,
    transfer_to_scope,
)
from ..lut.statistics.measurement import Measurement
from ..lut.table.schema import FAILED, INTERPOLATED, MEASURED, NOISY, PENDING, WITH_LATENCY
from ..lut.table.table import FINISHED, LatencyTable, network_key
from ..lut.target import PRECISIONS, Target
from ..models.space.lgcnet import SearchSpace
from ..models.space.operators import is_free
from ..models.space.opspec import OpSpec
from ..models.space.plan import CORE, DENSE, SCOPES
from .backends import Backend, require_backend
from .machine.environment import DEVICE_NAME, fingerprint
from .table.worker import Worker
from .timing.contexts import CARRIERS, CONTEXTS, ISOLATED, register_benchmarks
from .timing.measure import check_protocol, default_statistic
from .timing.rounds import OnProgress, quiet
from .timing.workloads import network_workload

DEFAULT_NETWORKS = 24
LEFT_OUT_PCT = 5.0
"""Share of visits that may be left out without a remark."""
HARMLESS = ("idle", "application clocks", "display clocks")
"""Throttle reasons that say nothing of a measurement, or were set by the user."""
MEDIAN_TO_95 = 2.9
"""A normal distribution's 95 % half width over its median absolute deviation."""
CORE_SHARE = 3
"""One in so many networks is measured in scope `core` as well; it shares the weights of `dense`."""


@dataclass(frozen=True)
class ProfileResult:
    """What `profile` did.

    Attributes:
        entries: operators of the table.
        measured: of these, measured ones, noisy ones included.
        noisy: of these, ones that are not known as well as the protocol asks.
        interpolated: entries estimated from others.
        pending: entries without a latency.
        elsewhere: operators, carriers and networks that other processes are measuring just now.
        failed: key -> reason of operators and networks that could not be measured.
        remarks: what a reader has to know of how it was measured.
        seconds: time spent by this call.
        verification: report on networks that each prediction had not seen; None if too few were measured.
    """

    entries: int
    measured: int
    noisy: int
    interpolated: int
    pending: int
    elsewhere: int
    failed: dict[str, str]
    remarks: list[str]
    seconds: float
    verification: PredictionReport | None


def profile(
    space: SearchSpace,
    target: Target,
    out: Path,
    *,
    networks: int = DEFAULT_NETWORKS,
    rounds: int | None = None,
    budget_s: float | None = None,
    seed: int = 0,
    context: str | None = None,
    device: Device | None = None,
    share: float = 1.0,
    worker: int = 0,
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
        rounds: visits to each subject at most; the protocol's if None, which stops as soon as it knows enough.
        budget_s: seconds after which nothing is begun; 0 only brings the table up to date with what was measured.
        seed: of the networks and of the visiting order.
        context: `carriers` or `isolated`, see `contexts`; the table's own if None, `carriers` for a new one.
        device: where this process measures, if not on the target's device; shown to be equal by `fleet.profile_on`.
        share: part of what is missing that this process takes on, where several fill one table.
        worker: which of several processes on this machine this is.
        on_progress: told how far it is.

    Raises:
        BackendUnavailableError: the target cannot be used here.
        MismatchError: `out` is a table of something else.
        UsageError: `networks`, `rounds` or `budget_s` is too small to mean anything.
    """
    start = time.monotonic()
    if networks != 0 and networks < MIN_NETWORKS:
        raise UsageError(f"{networks} networks are too few to calibrate with: at least {MIN_NETWORKS}, or 0 for none")
    check_protocol(target, rounds)
    backend = require_backend(target)
    with open_or_create(out, target, space, backend, context) as table:
        workloads = register_benchmarks(table, space)
        for index, architecture in enumerate(space.spread(networks, seed)):
            for scope in SCOPES if index < max(networks // CORE_SHARE, MIN_NETWORKS) else (DENSE,):
                workloads[table.add_network(architecture, scope)] = network_workload(architecture, scope)
        here = replace(target, device=device or target.device)
        filling = Worker(table, backend, here, workloads, rounds=rounds, seed=seed, worker=worker)
        while filling.open():
            left_s = None if budget_s is None else budget_s - (time.monotonic() - start)
            if left_s is not None and left_s <= 0 and (filling.changed or not budget_s):
                break
            if not filling.run(share, left_s, on_progress) or share < 1:
                break
        return _result(table, filling, start)


def _result(table: LatencyTable, filling: Worker, start: float) -> ProfileResult:
    """Bring the table's entries, calibration and verification up to date, and say what there is."""
    settled = table.metadata(FINISHED) is not None
    remarks: list[str] = []
    if not settled:
        remarks = _remarks(table, table.finalize())
        interpolate(table)
    entries = table.entries()
    failed = {entry.key: entry.reason or "" for entry in entries if entry.status == FAILED}
    failed |= {subject.key: subject.reason or "" for subject in table.benchmarks("network") if subject.status == FAILED}
    statuses = [entry.status for entry in entries]
    verification = None
    if all(status in WITH_LATENCY for status in statuses):
        stored = table.metadata("verification")
        verification = PredictionReport.from_dict(stored[DENSE]) if settled and stored else calibrate(table)
    if not settled:
        table.set_metadata(FINISHED, {"at_unix_s": time.time()})
    return ProfileResult(
        entries=len(entries),
        measured=statuses.count(MEASURED) + statuses.count(NOISY),
        noisy=statuses.count(NOISY),
        interpolated=statuses.count(INTERPOLATED),
        pending=statuses.count(PENDING),
        elsewhere=filling.elsewhere,
        failed=failed,
        remarks=remarks,
        seconds=time.monotonic() - start,
        verification=verification,
    )


def _remarks(table: LatencyTable, found: Measurement) -> list[str]:
    """What was left out, and what slowed the device down."""
    remarks = []
    left_out_pct = found.num_rejected / max(len(found.batches), 1) * 100
    if left_out_pct > LEFT_OUT_PCT:
        remarks.append(
            f"{left_out_pct:.0f} % of the visits were left out: the machine slowed some subjects, not others"
        )
    samples = table.hardware_samples()
    reasons = Counter(reason for sample in samples for reason in sample.get("throttle") or [])
    remarks += [
        f"the GPU ran slower than it could for {count} of {len(samples)} samples: {reason}"
        for reason, count in reasons.items()
        if reason not in HARMLESS
    ]
    return remarks


def interpolate(table: LatencyTable) -> int:
    """Estimate entries that are not measured from measured ones of the same kind; the number of those it could.

    They are marked as interpolated, with what they come from, and give way as soon as they are measured.
    """
    from ..lut.statistics.interpolation import Interpolator

    entries = {OpSpec.parse(entry.key): entry for entry in table.entries()}
    wanted = [spec for spec, entry in entries.items() if entry.status in (PENDING, INTERPOLATED)]
    if not wanted:
        return 0
    measured = {spec: entry for spec, entry in entries.items() if entry.status in (MEASURED, NOISY)}
    estimate = Interpolator(
        {spec: entry.latency_ms or 0.0 for spec, entry in measured.items()},
        {spec: entry.ci_ms or 0.0 for spec, entry in measured.items()},
    )
    found = {}
    for spec in wanted:
        with suppress(MissingEntryError):
            one = estimate(spec)
            reason = f"estimated from others of {spec.operator}, which it gives to {one.error_pct:.0f} %"
            found[spec] = (one.latency_ms, one.latency_ms * one.error_pct / 100 * MEDIAN_TO_95, reason)
    table.interpolate(found)
    return len(found)


def calibrate(table: LatencyTable, form: str | None = None) -> PredictionReport | None:
    """Fit the table's correction on its own networks, and report on each as predicted by a fit without it.

    Both are done for each scope, and written into the table; `core` takes the weights of `dense`, with an intercept of
    its own. The report returned is that of scope `dense`; None, and nothing written, if there are too few networks.

    Args:
        table: a finished table.
        form: a name of `lut.calibration.FORMS`; chosen by cross-validation if None.

    Raises:
        MissingEntryError: a network has an operator without a latency.
        UnknownNameError: no such form.
    """
    even, odd = table.measurement().split_halves()
    choices: dict[str, ValidatedCorrection] = {}
    reports: dict[str, PredictionReport] = {}
    place: dict[str, int] = {}
    for scope in (DENSE, CORE):
        networks = [(s, a) for s, a, at in table.networks() if at == scope and s.latency_ms is not None]
        networks = [(s, a) for s, a in networks if scope == DENSE or network_key(a, DENSE) in place]
        if len(networks) < MIN_NETWORKS:
            break
        parts = [
            [(spec, table.latency_ms(spec)) for spec in architecture.specs(scope) if not is_free(spec)]
            for _, architecture in networks
        ]
        measured = [subject.latency_ms or 0.0 for subject, _ in networks]
        if scope == DENSE:
            place = {network_key(architecture, DENSE): index for index, (_, architecture) in enumerate(networks)}
            choices[scope] = choose_correction(parts, measured, form)
        else:
            which = [place[network_key(architecture, DENSE)] for _, architecture in networks]
            choices[scope] = transfer_to_scope(choices[DENSE], which, parts, measured)
        pairs = [(even.summary(s.key).latency_ms, odd.summary(s.key).latency_ms) for s, _ in networks]
        reports[scope] = evaluate_predictions(choices[scope].held_out_ms, measured, pairs)
    if DENSE not in reports:
        return None
    table.set_metadata("calibration", {scope: asdict(choice.correction) for scope, choice in choices.items()})
    table.set_metadata("verification", {scope: found.as_dict() for scope, found in reports.items()})
    return reports[DENSE]


def open_or_create(
    out: Path, target: Target, space: SearchSpace, backend: Backend, context: str | None = None
) -> LatencyTable:
    """The table at `out`: made if it is not there, else shown to be of this target, space, machine and context.

    Raises:
        MismatchError: it is of another; the message says what differs.
        OutputError: it cannot be made.
        UsageError: a precision that no table has, or no such context.
    """
    if target.precision not in PRECISIONS:
        raise UsageError(
            f"tables are measured in {', '.join(PRECISIONS)}, not in {target.precision}: a quantised network is "
            "measured whole, by lgc-export --precision int8 --data DIR"
        )
    here = fingerprint(target, backend)
    if out.is_dir():
        raise OutputError(f"{out} is a folder; give the table's file name")
    if context is not None and context not in CONTEXTS:
        raise UsageError(f"no context {context!r}: {CARRIERS} or {ISOLATED}")
    if not out.exists():
        protocol = {
            "name": "interleaved-rounds",
            "context": context or CARRIERS,
            "statistic": default_statistic(target),
        }
        return LatencyTable.create(out, target, space, protocol, here)
    table = LatencyTable.open(out)
    table.require(target=target, space=space)
    require_machine(table, here)
    if context is not None and table.protocol["context"] != context:
        raise MismatchError(f"{out} was measured in context {table.protocol['context']}, not {context}")
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
