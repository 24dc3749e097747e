"""The small correction that makes sums over a table predict whole networks, and the report on how well they do.

A correction is linear in what a network is made of, so it moves into the entries themselves:

    features f[i, s]   of operator s: its latency (ms), the part of it that falls to its kind (ms), 1
    latency = intercept_ms + sum over operators s of sum over i of weight[i] * f[i, s]

The forms differ in their features, from a mere offset to a factor for each kind of operator. Leave-one-out
cross-validation chooses among them, and the error that is reported comes from a second one around that choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ...errors import MeasurementError, UnknownNameError
from ...models.space.operators import Conv, get_recipe
from ...models.space.opspec import OpSpec

MIN_NETWORKS = 4
"""Networks that a calibration needs: two for a line, two that it has not seen."""
SPARE = 4
"""Networks that a fit needs for each weight: with fewer it would follow their noise."""
ALIKE = 0.03
"""Weight of the squared differences of factors from their mean, beside the squared relative errors of the networks."""
PREDICTION_LEVEL = 0.9
"""Probability that an interval is to hold the measured latency."""

Array = NDArray[np.float64]

KINDS = ("conv", "depthwise", "other")
"""Operators that a runtime runs alike."""


def kind_of(spec: OpSpec) -> int:
    """Index into `KINDS`: what the operator's first layer is."""
    first = get_recipe(spec)[0]
    if isinstance(first, Conv):
        return 1 if first.groups > 1 else 0
    return 2


def _sum(spec: OpSpec, latency_ms: float) -> list[float]:
    return [latency_ms]


def _launches(spec: OpSpec, latency_ms: float) -> list[float]:
    return [latency_ms, float(len(get_recipe(spec)))]


def _kinds(spec: OpSpec, latency_ms: float) -> list[float]:
    return [latency_ms * (kind_of(spec) == kind) for kind in range(len(KINDS))]


@dataclass(frozen=True)
class Form:
    """A shape that a correction can have.

    Attributes:
        features: of an operator of a given latency (ms); their weights are fitted and not negative.
        weights: how many there are.
        fixed: weights that are not fitted.
        alike: whether they are drawn towards their mean, with the strength `ALIKE`.
    """

    features: Callable[[OpSpec, float], list[float]]
    weights: int
    fixed: bool = False
    alike: bool = False


FORMS = {
    "offset": Form(_sum, 1, fixed=True),
    "affine": Form(_sum, 1),
    "launches": Form(_launches, 2),
    "kinds": Form(_kinds, len(KINDS), alike=True),
}
"""Name -> form, the simplest first."""


@dataclass(frozen=True)
class Correction:
    """A fitted form; the default changes nothing.

    Attributes:
        form: a name of `FORMS`.
        intercept_ms: what a network takes besides its operators.
        weights: one for each feature of the form.
        error_pct: root mean square of the relative error on networks that the fit had not seen; None if unknown.
        networks: number of networks behind it.
    """

    form: str = "offset"
    intercept_ms: float = 0.0
    weights: tuple[float, ...] = (1.0,)
    error_pct: float | None = None
    networks: int = 0

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UnknownNameError("form of calibration", self.form, FORMS)
        if len(self.weights) != FORMS[self.form].weights:
            raise MeasurementError(f"{len(self.weights)} weights where form {self.form} has {FORMS[self.form].weights}")

    def of(self, spec: OpSpec, latency_ms: float) -> float:
        """What the operator adds to a network, in milliseconds."""
        features = FORMS[self.form].features(spec, latency_ms)
        return sum(weight * feature for weight, feature in zip(self.weights, features, strict=True))

    def half_width_pct(self) -> float | None:
        """Return half the width of the prediction interval at `PREDICTION_LEVEL`, in percent."""
        return self.above_pct((1 + PREDICTION_LEVEL) / 2)

    def above_pct(self, quantile: float) -> float | None:
        """How far above its prediction, in percent, a new network's latency stays with probability `quantile`."""
        from scipy.stats import t

        if self.error_pct is None or self.networks < 2:
            return None
        return float(t.ppf(quantile, self.networks - 1)) * self.error_pct * math.sqrt(1 + 1 / self.networks)


Parts = Sequence[tuple[OpSpec, float]]
"""The operators of a network and their latencies in the table (ms), repeated as often as they are computed."""


def fit(form: str, networks: Sequence[Parts], measured_ms: Sequence[float]) -> Correction:
    """The correction of a form with the least squared relative error and no negative weight.

    Args:
        form: a name of `FORMS`.
        networks: what each network is made of.
        measured_ms: their latencies, milliseconds.
    """
    return _fit(form, design(form, networks), np.asarray(measured_ms, float))


@dataclass(frozen=True)
class Choice:
    """A correction, and what it is worth.

    Attributes:
        correction: fitted on all networks.
        held_out_ms: prediction of each network by a fit, and a choice of its form, that have not seen it; milliseconds.
        without: that fit, for each network.
    """

    correction: Correction
    held_out_ms: Array
    without: tuple[Correction, ...]


def choose(networks: Sequence[Parts], measured_ms: Sequence[float], form: str | None = None) -> Choice:
    """Choose a form and fit it.

    Each network is left out in turn; the others choose the form, by leaving out one of them each, and fit it.

    Args:
        networks: what each network is made of.
        measured_ms: their latencies, milliseconds.
        form: a name of `FORMS` to be taken without a choice; the held-out predictions tell what it is worth.

    Raises:
        MeasurementError: fewer than `MIN_NETWORKS` networks.
        UnknownNameError: no such form.
    """
    if form is not None and form not in FORMS:
        raise UnknownNameError("form of calibration", form, FORMS)
    y = _enough(measured_ms)
    designs = {name: design(name, networks) for name in ([form] if form else FORMS)}
    without = []
    for rest in _all_but_one(len(y)):
        chosen = form or _best({name: x[rest] for name, x in designs.items()}, y[rest])
        without.append(_fit(chosen, designs[chosen][rest], y[rest]))
    held_out = np.array([_predict(one, designs[one.form][index]) for index, one in enumerate(without)])
    chosen = form or _best(designs, y)
    return Choice(_known_to(_fit(chosen, designs[chosen], y), held_out, y), held_out, tuple(without))


def shift(dense: Choice, which: Sequence[int], networks: Sequence[Parts], measured_ms: Sequence[float]) -> Choice:
    """The weights of a choice with an intercept of their own, for some of its networks in another scope.

    Args:
        dense: the choice, in the scope that all networks were measured in.
        which: for each network here, which of the choice's it is; its weights are then those fitted without it.
        networks: what each network is made of in this scope.
        measured_ms: their latencies in this scope, milliseconds.

    Raises:
        MeasurementError: fewer than `MIN_NETWORKS` networks.
    """
    y = _enough(measured_ms)
    without = []
    for index, rest in enumerate(_all_but_one(len(y))):
        seen = dense.without[which[index]]
        sums = design(seen.form, networks) @ np.array(seen.weights)
        without.append(replace(seen, intercept_ms=_offset(sums[rest], y[rest])))
    held_out = np.array([_predict(one, design(one.form, [networks[i]])[0]) for i, one in enumerate(without)])
    sums = design(dense.correction.form, networks) @ np.array(dense.correction.weights)
    found = replace(dense.correction, intercept_ms=_offset(sums, y))
    return Choice(_known_to(found, held_out, y), held_out, tuple(without))


def _enough(measured_ms: Sequence[float]) -> Array:
    if len(measured_ms) < MIN_NETWORKS:
        raise MeasurementError(f"{len(measured_ms)} networks were measured, a calibration needs {MIN_NETWORKS}")
    return np.asarray(measured_ms, float)


def _all_but_one(count: int) -> NDArray[np.bool_]:
    """Row i: all but i, [count, count]."""
    return ~np.eye(count, dtype=bool)


def _known_to(correction: Correction, held_out: Array, y: Array) -> Correction:
    """The correction with its error on networks that it had not seen."""
    error = float(np.sqrt(np.mean((held_out / y - 1) ** 2)) * 100)
    return replace(correction, error_pct=error, networks=len(y))


def _offset(sums: Array, y: Array) -> float:
    """The intercept of least squared relative error."""
    return float(((y - sums) / y**2).sum() / (1 / y**2).sum())


def design(form: str, networks: Sequence[Parts]) -> Array:
    """Features of each network, summed over its operators; [networks, features]."""
    features = FORMS[form].features
    return np.array([np.sum([features(spec, ms) for spec, ms in parts], axis=0) for parts in networks])


def _predict(correction: Correction, features: Array) -> float:
    return correction.intercept_ms + float(features @ np.array(correction.weights))


def _fit(form: str, x: Array, y: Array) -> Correction:
    """Least squares of the relative error: columns are scaled by 1 / y."""
    from scipy.optimize import nnls

    if FORMS[form].fixed:
        return Correction(form, _offset(x[:, 0], y), (1.0,))
    columns = np.column_stack([1 / y, -1 / y, x / y[:, None]])  # an intercept of either sign
    wanted = np.ones_like(y)
    if FORMS[form].alike:
        count = FORMS[form].weights
        apart = math.sqrt(ALIKE) * (np.eye(count) - 1 / count)  # times the weights: how far each is from their mean
        columns = np.vstack([columns, np.column_stack([np.zeros((count, 2)), apart])])
        wanted = np.concatenate([wanted, np.zeros(count)])
    scale = np.linalg.norm(columns, axis=0)
    scale[scale == 0] = 1.0
    solved, _ = nnls(columns / scale, wanted)
    up, down, *weights = (solved / scale).tolist()
    return Correction(form, up - down, tuple(weights))


def _best(designs: dict[str, Array], y: Array) -> str:
    """The form with most weights whose leave-one-out error is within a standard error of the least one's.

    Forms that are as good as each other in one sample of networks are not in the next; to take the least each time
    would follow chance. Of those, the one that tells most kinds apart ranks networks best.
    """
    errors: dict[str, Array] = {}
    for form, x in designs.items():
        if FORMS[form].fixed or len(y) > SPARE * FORMS[form].weights:
            found = [
                _predict(_fit(form, x[rest], y[rest]), x[index]) for index, rest in enumerate(_all_but_one(len(y)))
            ]
            errors[form] = np.abs(np.array(found) / y - 1)
    least = min(errors, key=lambda form: float(errors[form].mean()))
    for form in reversed(errors):
        worse = errors[form] - errors[least]
        if worse.mean() <= worse.std(ddof=1) / math.sqrt(len(y)):
            return form
    return least


@dataclass(frozen=True)
class Report:
    """How predictions compare with measurements.

    Attributes:
        networks: number of networks.
        mape_pct: mean of |predicted - measured| / measured.
        bias_pct: mean of (predicted - measured) / measured.
        worst_pct: greatest |predicted - measured| / measured.
        within_5_pct: share of networks that are predicted within 5 %, in percent.
        within_10_pct: likewise within 10 %.
        kendall_tau: rank correlation of predicted and measured; 0 where all of one side are equal.
        spearman_rho: likewise.
        ceiling_mape_pct: mape_pct of one half of the measurement against the other, the median ratio of the two, which
            is how fast the machine ran, divided out.
        ceiling_kendall_tau: kendall_tau of the two halves.
    """

    networks: int
    mape_pct: float
    bias_pct: float
    within_5_pct: float
    within_10_pct: float
    kendall_tau: float
    spearman_rho: float
    ceiling_mape_pct: float
    ceiling_kendall_tau: float
    worst_pct: float = field(default=float("nan"))

    def as_dict(self) -> dict[str, float]:
        """The report as a JSON object."""
        return asdict(self)


def report(
    predicted_ms: Sequence[float] | Array, measured_ms: Sequence[float], halves_ms: Sequence[tuple[float, float]]
) -> Report:
    """Compare predictions with measurements.

    Args:
        predicted_ms: predictions, milliseconds.
        measured_ms: measured latencies, milliseconds.
        halves_ms: for each network, the same statistic over one half of its visits, and over the other.
    """
    predicted, measured = np.asarray(predicted_ms, float), np.asarray(measured_ms, float)
    error = (predicted - measured) / measured * 100
    even, odd = np.asarray(halves_ms, float).T
    ratio = even / odd
    return Report(
        networks=len(measured),
        mape_pct=float(np.abs(error).mean()),
        bias_pct=float(error.mean()),
        within_5_pct=float((np.abs(error) <= 5).mean() * 100),
        within_10_pct=float((np.abs(error) <= 10).mean() * 100),
        kendall_tau=_rank_correlation("kendalltau", predicted, measured),
        spearman_rho=_rank_correlation("spearmanr", predicted, measured),
        ceiling_mape_pct=float(np.abs(ratio / np.median(ratio) - 1).mean() * 100),
        ceiling_kendall_tau=_rank_correlation("kendalltau", even, odd),
        worst_pct=float(np.abs(error).max()),
    )


def _rank_correlation(kind: str, x: Array, y: Array) -> float:
    """`kendalltau` or `spearmanr` of scipy; 0 where one side is constant and so ranks nothing."""
    from scipy import stats

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(getattr(stats, kind)(x, y).statistic)
