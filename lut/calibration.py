"""How well sums over a table predict whole networks, and the small correction that makes them do it better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import MeasurementError

MIN_NETWORKS = 4
"""Networks that a calibration needs: two for a line, two that it has not seen."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """Correction of a sum over slots: latency_ms = intercept_ms + slope * sum_ms."""

    intercept_ms: float = 0.0
    slope: float = 1.0

    def __call__(self, sum_ms: Array) -> Array:
        """Corrected latencies in milliseconds."""
        return self.intercept_ms + self.slope * sum_ms


@dataclass(frozen=True)
class Report:
    """How predictions compare with measurements.

    Attributes:
        networks: number of networks.
        mape_pct: mean of |predicted - measured| / measured.
        bias_pct: mean of (predicted - measured) / measured.
        within_5_pct: share of networks that are predicted within 5 %, in percent.
        within_10_pct: likewise within 10 %.
        kendall_tau: rank correlation of predicted and measured; 0 where all of one side are equal.
        spearman_rho: likewise.
        ceiling_mape_pct: mape_pct of one half of the measurement's rounds against the other.
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

    def as_dict(self) -> dict[str, float]:
        """The report as a JSON object."""
        return asdict(self)


def fit(sum_ms: Sequence[float], measured_ms: Sequence[float]) -> Affine:
    """The affine correction with the least squared relative error.

    A slope that is not positive, which a handful of like networks can give, is no correction: a factor is fitted then.

    Args:
        sum_ms: uncorrected predictions, milliseconds.
        measured_ms: measured latencies, milliseconds.
    """
    x, y = np.asarray(sum_ms, float), np.asarray(measured_ms, float)
    design = np.stack([1 / y, x / y], axis=1)
    (intercept, slope), _, rank, _ = np.linalg.lstsq(design, np.ones_like(y), rcond=None)
    if rank < 2 or slope <= 0:
        ratio = x / y
        return Affine(0.0, float(ratio.sum() / (ratio**2).sum()))
    return Affine(float(intercept), float(slope))


def cross_validate(sum_ms: Sequence[float], measured_ms: Sequence[float]) -> Array:
    """Predictions of every network by a correction fitted without it, in milliseconds.

    Networks are ordered by their sums and dealt to two halves in turn, so that both span the range; each half is
    predicted from the other.

    Raises:
        MeasurementError: fewer than `MIN_NETWORKS` networks.
    """
    x, y = np.asarray(sum_ms, float), np.asarray(measured_ms, float)
    if len(x) < MIN_NETWORKS:
        raise MeasurementError(f"{len(x)} networks were measured, a calibration needs {MIN_NETWORKS}")
    order = np.argsort(x, kind="stable")
    predicted = np.empty_like(x)
    for held_out, seen in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        predicted[held_out] = fit(list(x[seen]), list(y[seen]))(x[held_out])
    return predicted


def report(
    predicted_ms: Sequence[float], measured_ms: Sequence[float], halves_ms: Sequence[tuple[float, float]]
) -> Report:
    """Compare predictions with measurements.

    Args:
        predicted_ms: predictions, milliseconds.
        measured_ms: measured latencies, milliseconds.
        halves_ms: for each network, the same statistic over the even and over the odd rounds.
    """
    predicted, measured = np.asarray(predicted_ms, float), np.asarray(measured_ms, float)
    error = (predicted - measured) / measured * 100
    even, odd = np.asarray(halves_ms, float).T
    return Report(
        networks=len(measured),
        mape_pct=float(np.abs(error).mean()),
        bias_pct=float(error.mean()),
        within_5_pct=float((np.abs(error) <= 5).mean() * 100),
        within_10_pct=float((np.abs(error) <= 10).mean() * 100),
        kendall_tau=_rank_correlation("kendalltau", predicted, measured),
        spearman_rho=_rank_correlation("spearmanr", predicted, measured),
        ceiling_mape_pct=float(np.abs(even / odd - 1).mean() * 100),
        ceiling_kendall_tau=_rank_correlation("kendalltau", even, odd),
    )


def _rank_correlation(kind: str, x: Array, y: Array) -> float:
    """`kendalltau` or `spearmanr` of scipy; 0 where one side is constant and so ranks nothing."""
    from scipy import stats

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(getattr(stats, kind)(x, y).statistic)
