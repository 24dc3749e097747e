"""Calibrate predictions on whole networks, and evaluate them.

A calibration corrects sums over a table. The correction is linear in the operators of a network, so it applies to each
entry:

    features f[i, s]   of operator s: its latency (ms), the same by kind of operator, 1
    latency = intercept_ms + sum over operators s of sum over i of weight[i] * f[i, s]

The forms differ in their features, from a mere offset to a factor per kind of operator. Leave-one-out cross-validation
selects the form. A second cross-validation around that selection gives the reported error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import MeasurementError, UnknownNameError
from ...models.recipe import Conv, iter_layers
from ...models.space.operators import get_recipe
from ...models.space.opspec import OpSpec

MIN_NETWORKS = 4
"""Minimum number of networks for a calibration: two for a line, two for its error."""
MIN_NETWORKS_PER_WEIGHT = 4
"""Number of networks per weight that a form needs; with fewer, the weights would fit noise."""
SHRINKAGE = 0.03
"""Penalty on the squared deviations of factors from their mean, relative to the squared errors of the networks."""
PREDICTION_LEVEL = 0.9
"""Probability that a prediction interval contains the measured latency."""

Array = NDArray[np.float64]

OPERATOR_KINDS = ("conv", "depthwise", "other")
"""Operators that a runtime executes in a similar way."""


def classify_operator(spec: OpSpec) -> int:
    """Return the index into `OPERATOR_KINDS` of the operator's first layer."""
    first = next(iter_layers(get_recipe(spec)))
    if isinstance(first, Conv):
        return 1 if first.groups > 1 else 0
    return 2


def _total_feature(spec: OpSpec, latency_ms: float) -> list[float]:
    return [latency_ms]


def _launch_features(spec: OpSpec, latency_ms: float) -> list[float]:
    return [latency_ms, float(len(list(iter_layers(get_recipe(spec)))))]


def _kind_features(spec: OpSpec, latency_ms: float) -> list[float]:
    return [latency_ms * (classify_operator(spec) == kind) for kind in range(len(OPERATOR_KINDS))]


@dataclass(frozen=True)
class CorrectionForm:
    """Functional form of a correction.

    Attributes:
        features: Features of an operator with a given latency (ms). Their weights are fitted and not negative.
        terms: What each weight multiplies, with the unit of the weight in front if it has one.
        fixed: True if the weights are not fitted.
        shrunk: True if the weights are shrunk towards their mean; see `SHRINKAGE`.
    """

    features: Callable[[OpSpec, float], list[float]]
    terms: tuple[str, ...]
    fixed: bool = False
    shrunk: bool = False

    @property
    def weights(self) -> int:
        """Number of weights."""
        return len(self.terms)


FORMS = {
    "offset": CorrectionForm(_total_feature, ("x entries",), fixed=True),
    "affine": CorrectionForm(_total_feature, ("x entries",)),
    "launches": CorrectionForm(_launch_features, ("x entries", "ms x layers")),
    "kinds": CorrectionForm(_kind_features, tuple(f"x {kind} entries" for kind in OPERATOR_KINDS), shrunk=True),
}
"""Name -> form, from the simplest to the most flexible."""


@dataclass(frozen=True)
class Correction:
    """Fitted form. The default is the identity.

    Attributes:
        form: Name in `FORMS`.
        intercept_ms: Latency of a network in addition to its operators.
        weights: Weight of each feature of the form.
        error_pct: Root mean square of the relative error on networks held out from the fit; None if unknown.
        networks: Number of networks of the fit.
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
            raise MeasurementError(
                f"calibration form {self.form} has {FORMS[self.form].weights} weights, not {len(self.weights)}"
            )

    def __str__(self) -> str:
        weighted = zip(self.weights, FORMS[self.form].terms, strict=True)
        terms = " + ".join(f"{weight:.4g} {term}" for weight, term in weighted)
        return f"{terms} {'-' if self.intercept_ms < 0 else '+'} {abs(self.intercept_ms):.4f} ms"

    def apply(self, spec: OpSpec, latency_ms: float) -> float:
        """Return the contribution of an operator to a network's latency, in ms."""
        features = FORMS[self.form].features(spec, latency_ms)
        return sum(weight * feature for weight, feature in zip(self.weights, features, strict=True))

    def half_width_pct(self) -> float | None:
        """Return half the width of the prediction interval at `PREDICTION_LEVEL`, in percent; None if unknown."""
        return self.upper_error_pct((1 + PREDICTION_LEVEL) / 2)

    def upper_error_pct(self, quantile: float) -> float | None:
        """Return the `quantile` of a new network's latency relative to its prediction, in percent above it."""
        from scipy.special import stdtrit  # quantile of Student's t; `scipy.stats` takes a second to import

        if self.error_pct is None or self.networks < 2:
            return None
        return float(stdtrit(self.networks - 1, quantile)) * self.error_pct * math.sqrt(1 + 1 / self.networks)


OperatorLatencies = Sequence[tuple[OpSpec, float]]
"""All operators of a network with their latencies in the table (ms), repeated as in the network."""


def fit_correction(form: str, networks: Sequence[OperatorLatencies], measured_ms: Sequence[float]) -> Correction:
    """Fit a form to the smallest squared relative error, without negative weights.

    Args:
        form: Name in `FORMS`.
        networks: Operators of each network.
        measured_ms: Measured latency of each network, in ms.
    """
    return _fit_form(form, design_matrix(form, networks), np.asarray(measured_ms, float))


@dataclass(frozen=True)
class ValidatedCorrection:
    """A correction with its cross-validation.

    Attributes:
        correction: Fit to all networks.
        held_out_ms: Prediction of each network by a form selected and fitted without it, in ms.
        held_out_corrections: That fit for each network.
    """

    correction: Correction
    held_out_ms: Array
    held_out_corrections: tuple[Correction, ...]


def choose_correction(
    networks: Sequence[OperatorLatencies], measured_ms: Sequence[float], form: str | None = None
) -> ValidatedCorrection:
    """Select a form by nested leave-one-out cross-validation and fit it.

    Args:
        networks: Operators of each network.
        measured_ms: Measured latency of each network, in ms.
        form: Name in `FORMS` that replaces the selection.

    Raises:
        MeasurementError: There are fewer than `MIN_NETWORKS` networks.
        UnknownNameError: `form` is not in `FORMS`.
    """
    if form is not None and form not in FORMS:
        raise UnknownNameError("form of calibration", form, FORMS)
    y = _check_count(measured_ms)
    designs = {name: design_matrix(name, networks) for name in ([form] if form else FORMS)}
    fits = []
    for rest in _leave_one_out(len(y)):
        chosen = form or _select_form({name: x[rest] for name, x in designs.items()}, y[rest])
        fits.append(_fit_form(chosen, designs[chosen][rest], y[rest]))
    held_out = np.array([_predict_network(fit, designs[fit.form][index]) for index, fit in enumerate(fits)])
    chosen = form or _select_form(designs, y)
    correction = _with_error(_fit_form(chosen, designs[chosen], y), held_out, y)
    return ValidatedCorrection(correction, held_out, tuple(fits))


def transfer_to_scope(
    dense: ValidatedCorrection,
    indices: Sequence[int],
    networks: Sequence[OperatorLatencies],
    measured_ms: Sequence[float],
) -> ValidatedCorrection:
    """Keep the weights of a correction and fit a new intercept for another scope.

    Args:
        dense: Correction of the scope in which all networks were measured.
        indices: Index in `dense` of each network. Its prediction uses the weights fitted without it.
        networks: Operators of each network in the other scope.
        measured_ms: Measured latency of each network in the other scope, in ms.

    Raises:
        MeasurementError: There are fewer than `MIN_NETWORKS` networks.
    """
    y = _check_count(measured_ms)
    fits = []
    for index, rest in enumerate(_leave_one_out(len(y))):
        weights = dense.held_out_corrections[indices[index]]
        sums = design_matrix(weights.form, networks) @ np.array(weights.weights)
        fits.append(replace(weights, intercept_ms=_fit_intercept(sums[rest], y[rest])))
    rows = [design_matrix(fit.form, [network])[0] for fit, network in zip(fits, networks, strict=True)]
    held_out = np.array([_predict_network(fit, row) for fit, row in zip(fits, rows, strict=True)])
    sums = design_matrix(dense.correction.form, networks) @ np.array(dense.correction.weights)
    correction = replace(dense.correction, intercept_ms=_fit_intercept(sums, y))
    return ValidatedCorrection(_with_error(correction, held_out, y), held_out, tuple(fits))


def _check_count(measured_ms: Sequence[float]) -> Array:
    if len(measured_ms) < MIN_NETWORKS:
        raise MeasurementError(
            f"a calibration needs at least {MIN_NETWORKS} measured networks, but there are {len(measured_ms)}"
        )
    return np.asarray(measured_ms, float)


def _leave_one_out(count: int) -> NDArray[np.bool_]:
    """Return the masks of all rows except i, [count, count]."""
    return ~np.eye(count, dtype=bool)


def _with_error(correction: Correction, held_out: Array, y: Array) -> Correction:
    """Return the correction with its error on held-out networks."""
    error = float(np.sqrt(np.mean((held_out / y - 1) ** 2)) * 100)
    return replace(correction, error_pct=error, networks=len(y))


def _fit_intercept(sums: Array, y: Array) -> float:
    """Return the intercept with the smallest squared relative error."""
    return float(((y - sums) / y**2).sum() / (1 / y**2).sum())


def design_matrix(form: str, networks: Sequence[OperatorLatencies]) -> Array:
    """Return the features of each network, summed over its operators, [networks, features]."""
    features = FORMS[form].features
    return np.array([np.sum([features(spec, ms) for spec, ms in operators], axis=0) for operators in networks])


def _predict_network(correction: Correction, features: Array) -> float:
    return correction.intercept_ms + float(features @ np.array(correction.weights))


def _fit_form(form: str, x: Array, y: Array) -> Correction:
    """Fit by least squares of the relative error: the rows are divided by y."""
    from scipy.optimize import nnls

    if FORMS[form].fixed:
        return Correction(form, _fit_intercept(x[:, 0], y), (1.0,))
    columns = np.column_stack([1 / y, -1 / y, x / y[:, None]])  # an intercept of either sign
    target = np.ones_like(y)
    if FORMS[form].shrunk:
        count = FORMS[form].weights
        deviations = math.sqrt(SHRINKAGE) * (np.eye(count) - 1 / count)  # times weights: their distance from the mean
        columns = np.vstack([columns, np.column_stack([np.zeros((count, 2)), deviations])])
        target = np.concatenate([target, np.zeros(count)])
    scale = np.linalg.norm(columns, axis=0)
    scale[scale == 0] = 1.0
    solution, _ = nnls(columns / scale, target)
    up, down, *weights = (solution / scale).tolist()
    return Correction(form, up - down, tuple(weights))


def _select_form(designs: dict[str, Array], y: Array) -> str:
    """Return the form with most weights whose leave-one-out error is within a standard error of the smallest.

    Forms of equal quality swap places from sample to sample, so the smallest error alone would follow chance. Of
    these, the form that distinguishes most kinds ranks networks best.
    """
    errors: dict[str, Array] = {}
    for form, x in designs.items():
        if FORMS[form].fixed or len(y) > MIN_NETWORKS_PER_WEIGHT * FORMS[form].weights:
            masks = _leave_one_out(len(y))
            held_out = [
                _predict_network(_fit_form(form, x[rest], y[rest]), x[index]) for index, rest in enumerate(masks)
            ]
            errors[form] = np.abs(np.array(held_out) / y - 1)
    best = min(errors, key=lambda form: float(errors[form].mean()))
    for form in reversed(errors):
        excess = errors[form] - errors[best]
        if excess.mean() <= excess.std(ddof=1) / math.sqrt(len(y)):
            return form
    return best


_NEW_NAMES = {"ceiling_mape_pct": "split_half_mape_pct", "ceiling_kendall_tau": "split_half_kendall_tau"}
"""Old JSON key -> field. The old keys are written too until 0.3.0."""


def add_new_names(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return stored reports by scope, with the new keys next to the old ones, which early tables have alone."""
    return {
        scope: {**report, **{new: report[old] for old, new in _NEW_NAMES.items() if old in report}}
        for scope, report in stored.items()
        if isinstance(report, dict)
    }


@dataclass(frozen=True)
class PredictionReport:
    """Accuracy of predictions against measurements.

    Attributes:
        networks: Number of networks.
        mape_pct: Mean of |predicted - measured| / measured.
        bias_pct: Mean of (predicted - measured) / measured.
        worst_pct: Maximum of |predicted - measured| / measured.
        within_5_pct: Share of networks with an error of at most 5 %, in percent.
        within_10_pct: Same for 10 %.
        kendall_tau: Rank correlation of predicted and measured; 0 if either is constant.
        spearman_rho: Same by Spearman.
        split_half_mape_pct: `mape_pct` of the two halves of the measurement against each other. Their median ratio,
            which is the drift, is divided out.
        split_half_kendall_tau: `kendall_tau` of the two halves.
    """

    networks: int
    mape_pct: float
    bias_pct: float
    within_5_pct: float
    within_10_pct: float
    kendall_tau: float
    spearman_rho: float
    split_half_mape_pct: float
    split_half_kendall_tau: float
    worst_pct: float = field(default=float("nan"))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> PredictionReport:
        """Read a JSON object, with old or new keys.

        Raises:
            TypeError: `content` is not an object, or a key is missing or unknown.
        """
        return cls(**{_NEW_NAMES.get(key, key): value for key, value in {**content}.items()})

    def as_dict(self) -> dict[str, float]:
        """Return the report as a JSON object, with old and new keys."""
        content = asdict(self)
        return content | {old: content[new] for old, new in _NEW_NAMES.items()}


def evaluate_predictions(
    predicted_ms: Sequence[float] | Array, measured_ms: Sequence[float], halves_ms: Sequence[tuple[float, float]]
) -> PredictionReport:
    """Compare predictions with measurements.

    Args:
        predicted_ms: Predictions in ms.
        measured_ms: Measured latencies in ms.
        halves_ms: Latency of each network by either half of its sample batches, in ms.
    """
    predicted, measured = np.asarray(predicted_ms, float), np.asarray(measured_ms, float)
    error = (predicted - measured) / measured * 100
    even, odd = np.asarray(halves_ms, float).T
    ratio = even / odd
    return PredictionReport(
        networks=len(measured),
        mape_pct=float(np.abs(error).mean()),
        bias_pct=float(error.mean()),
        within_5_pct=float((np.abs(error) <= 5).mean() * 100),
        within_10_pct=float((np.abs(error) <= 10).mean() * 100),
        kendall_tau=_rank_correlation("kendalltau", predicted, measured),
        spearman_rho=_rank_correlation("spearmanr", predicted, measured),
        split_half_mape_pct=float(np.abs(ratio / np.median(ratio) - 1).mean() * 100),
        split_half_kendall_tau=_rank_correlation("kendalltau", even, odd),
        worst_pct=float(np.abs(error).max()),
    )


def _rank_correlation(kind: str, x: Array, y: Array) -> float:
    """Return scipy's `kendalltau` or `spearmanr`; 0 if either side is constant."""
    from scipy import stats

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(getattr(stats, kind)(x, y).statistic)
