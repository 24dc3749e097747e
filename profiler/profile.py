"""Profiling: measure a search space on a target into a calibrated, verified latency table."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import MismatchError, MissingEntryError, OutputError, UsageError
from ..lut.statistics.calibration import (
    MIN_NETWORKS,
    PredictionReport,
    ValidatedCorrection,
    choose_correction,
    evaluate_predictions,
    transfer_to_scope,
)
from ..lut.statistics.conditions import describe_throttling
from ..lut.statistics.measurement import Measurement
from ..lut.table.schema import FAILED, INTERPOLATED, MEASURED, NOISY, PENDING, WITH_LATENCY
from ..lut.table.table import FINISHED, LatencyTable, network_key
from ..lut.target import Target
from ..models.space.lgcnet import LGCNetSpace
from ..models.space.operators import is_free
from ..models.space.opspec import OpSpec
from ..models.space.protocol import CORE, DENSE, SCOPES, Space
from ..precisions import PRECISIONS
from .backends import Backend, Workload, require_backend
from .machine.environment import fingerprint
from .machine_match import require_machine, require_versions
from .network_checks import check_networks
from .table.worker import SOLE_PROCESS, ProcessShare, Worker
from .timing.contexts import CARRIERS, CONTEXTS, ISOLATED, PROTOCOL, register_benchmarks
from .timing.measure import check_protocol, default_statistic
from .timing.observer import OnProgress, quiet
from .timing.workloads import NetworkBuilder, network_workload

LEFT_OUT_PCT = 5.0
"""Share of sample batches discarded without a remark."""
MAX_NOISY_SHARE = 0.5
"""Share of noisy entries above which a table is unreliable."""
MEDIAN_TO_95 = 2.9
"""A normal distribution's 95 % half width over its median absolute deviation."""
CORE_SHARE = 3
"""Networks per network that is also measured in scope `core`, which shares the correction weights of `dense`."""


@dataclass(frozen=True)
class ProfileSettings:
    """Settings of a profiling run.

    Attributes:
        networks: number of whole networks; 0 leaves the table uncalibrated.
        rounds: maximum of batches per benchmark; the protocol's stopping rules if None.
        budget_s: time limit in seconds; 0 only processes earlier measurements; no limit if None.
        seed: seed of the network sample and the measuring order.
        context: `carriers` or `isolated`, see `contexts`; the table's if None, `carriers` for a new table.
    """

    networks: int = 24
    rounds: int | None = None
    budget_s: float | None = None
    seed: int = 0
    context: str | None = None


DEFAULT_SETTINGS = ProfileSettings()


@dataclass(frozen=True)
class ProfileResult:
    """Result of a profiling run.

    Attributes:
        entries: number of entries.
        measured: measured entries, noisy ones included.
        noisy: entries whose confidence interval is wider than the protocol's target.
        interpolated: entries estimated from others.
        pending: entries without a latency.
        elsewhere: benchmarks that other processes are measuring.
        failed: key -> reason of operators and networks that failed.
        remarks: conditions of the measurement that affect its quality.
        seconds: duration of this call.
        verification: held-out report; None with too few networks.
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

    @property
    def is_unreliable(self) -> bool:
        """True if more than `MAX_NOISY_SHARE` of the measured entries are noisy."""
        return self.noisy > MAX_NOISY_SHARE * self.measured


def profile(
    space: Space,
    target: Target,
    out: Path,
    settings: ProfileSettings = DEFAULT_SETTINGS,
    *,
    process: ProcessShare = SOLE_PROCESS,
    build_network: NetworkBuilder | None = None,
    on_open: Callable[[], None] = lambda: None,
    on_progress: OnProgress = quiet,
    **changes: Any,
) -> ProfileResult:
    """Measure every operator of `space` and some whole networks on `target` into the table `out`.

    An incomplete table is resumed, a complete one is unchanged. The networks, spread over the latency range, calibrate
    the table; the verification predicts each of them with a correction fitted on the others.

    Args:
        space: search space.
        target: device, backend, precision and threads.
        out: table file, created if missing.
        settings: settings of the run.
        process: share of this process; the devices of several are checked by `multi_device.profile_on`.
        build_network: function from an architecture and a scope to the workload of the whole network; lgc's own for
            LGCNet's spaces if None.
        on_open: called when the table is open and everything that can be refused is checked.
        on_progress: receives the progress.
        changes: fields of `settings` to replace, e.g. `networks=0`.

    Raises:
        BackendUnavailableError: the target is unavailable on this machine.
        MismatchError: `out` is a table of a different target, space, machine or context, or has other networks.
        UsageError: `networks`, `rounds` or `budget_s` is too small, or whole networks of the space cannot be built, or
            those of `build_network` do not have the multiply-accumulates of the slots.
    """
    start = time.monotonic()
    settings = replace(settings, **changes)
    if settings.networks != 0 and settings.networks < MIN_NETWORKS:
        raise UsageError(
            f"networks {settings.networks}: a calibration needs at least {MIN_NETWORKS}; 0 for no calibration"
        )
    if settings.networks and build_network is None and not isinstance(space, LGCNetSpace):
        raise UsageError(f"lgc cannot build networks of space {space.name}: choose 0 networks, for no calibration")
    check_protocol(target, settings.rounds)
    backend = require_backend(target, PRECISIONS)
    budget_s = math.inf if settings.budget_s is None else settings.budget_s
    with open_or_create(out, target, space, backend, settings.context) as table:
        workloads = _add_benchmarks(table, space, settings, build_network or network_workload)
        if build_network is not None:
            check_networks(table, [network for _, network, scope in table.networks() if scope == DENSE], build_network)
        on_open()
        worker = Worker(table, backend, target, workloads, process, rounds=settings.rounds, seed=settings.seed)
        while worker.open():
            left_s = budget_s - (time.monotonic() - start)
            if left_s <= 0 and (worker.changed or not budget_s):
                break
            if not worker.run(left_s, on_progress) or process.fraction < 1:
                break
        return _result(table, worker, start)


def _add_benchmarks(
    table: LatencyTable, space: Space, settings: ProfileSettings, build_network: NetworkBuilder
) -> dict[str, Workload]:
    """Add the benchmarks of the operators and the networks to the table; return their workloads."""
    workloads = register_benchmarks(table, space)
    has_scopes = any(slot.scope == DENSE for slot in space.slots())
    both_scopes = max(settings.networks // CORE_SHARE, MIN_NETWORKS) if has_scopes else 0
    for index, architecture in enumerate(space.spread(settings.networks, settings.seed)):
        for scope in SCOPES if index < both_scopes else (DENSE,):
            workloads[table.add_network(architecture, scope)] = build_network(architecture, scope)
    return workloads


def _result(table: LatencyTable, worker: Worker, start: float) -> ProfileResult:
    """Update entries, calibration and verification of the table; return the result."""
    settled = table.metadata(FINISHED) is not None
    remarks: list[str] = []
    if not settled:
        remarks = _remarks(table, table.finalize())
        interpolate(table)
    entries = table.entries()
    failed = {entry.key: entry.reason or "" for entry in entries if entry.status == FAILED}
    failed |= {
        benchmark.key: benchmark.reason or "" for benchmark in table.benchmarks("network") if benchmark.status == FAILED
    }
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
        elsewhere=worker.elsewhere,
        failed=failed,
        remarks=remarks,
        seconds=time.monotonic() - start,
        verification=verification,
    )


def _remarks(table: LatencyTable, measurement: Measurement) -> list[str]:
    """Return remarks on discarded batches and throttling."""
    remarks = []
    left_out_pct = measurement.num_rejected / max(len(measurement.batches), 1) * 100
    if left_out_pct > LEFT_OUT_PCT:
        remarks.append(
            f"{left_out_pct:.0f} % of the sample batches were discarded: the machine slowed only some benchmarks"
        )
    return remarks + describe_throttling(table.hardware_samples())


def interpolate(table: LatencyTable) -> int:
    """Interpolate unmeasured entries from measured ones of the same kind; return their number.

    They are marked `interpolated` with their source, and a later measurement replaces them.
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
    interpolated = {}
    for spec in wanted:
        with suppress(MissingEntryError):
            result = estimate(spec)
            reason = (
                f"interpolated from entries of {spec.operator}, which are reproduced within {result.error_pct:.0f} %"
            )
            interpolated[spec] = (result.latency_ms, result.latency_ms * result.error_pct / 100 * MEDIAN_TO_95, reason)
    table.interpolate(interpolated)
    return len(interpolated)


def calibrate(table: LatencyTable, form: str | None = None) -> PredictionReport | None:
    """Fit the table's correction on its networks; report held-out predictions.

    Both are written into the table for each scope. Scope `core` shares the weights of `dense`, not its intercept. The
    returned report is of scope `dense`. With too few networks it is None and nothing is written.

    Args:
        table: complete table.
        form: a name of `lut.calibration.FORMS`; chosen by cross-validation if None.

    Raises:
        MissingEntryError: an operator of a network has no latency.
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
        measured = [benchmark.latency_ms or 0.0 for benchmark, _ in networks]
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
    table.set_metadata("verification", {scope: held_out.as_dict() for scope, held_out in reports.items()})
    return reports[DENSE]


def open_or_create(
    out: Path, target: Target, space: Space, backend: Backend, context: str | None = None
) -> LatencyTable:
    """Create the table `out`, or open it and check its target, space, machine and context.

    Raises:
        MismatchError: one of them differs; the message names it.
        OutputError: the table cannot be created.
        UsageError: unsupported precision, or unknown context.
    """
    if target.precision not in PRECISIONS:
        raise UsageError(
            f"tables are measured in {', '.join(PRECISIONS)}, not in {target.precision}: measure a whole "
            "quantized network with lgc-export --precision int8 --data DIR"
        )
    environment = fingerprint(target, backend)
    if out.is_dir():
        raise OutputError(f"{out} is a folder; give the table's file name")
    if context is not None and context not in CONTEXTS:
        raise UsageError(f"unknown context {context!r}; known: {CARRIERS}, {ISOLATED}")
    if not out.exists():
        protocol = {
            "name": PROTOCOL,
            "context": context or CARRIERS,
            "statistic": default_statistic(target),
        }
        return LatencyTable.create(out, target, space, protocol, environment)
    table = LatencyTable.open(out)
    table.require(target=target, space=space)
    require_machine(table, environment)
    if context is not None and table.protocol["context"] != context:
        raise MismatchError(f"{out} was measured in context {table.protocol['context']}, not {context}")
    require_versions(table, environment)
    return table
