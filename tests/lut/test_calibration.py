import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lgc.errors import MeasurementError
from lgc.lut.calibration import Affine, cross_validate, fit, report

sums = st.lists(st.floats(0.1, 100), min_size=4, max_size=30, unique=True)


@given(sums, st.floats(0, 10), st.floats(0.1, 10))
def test_a_fit_recovers_an_affine_truth(x, intercept, slope):
    assume(np.ptp(x) > 0.05 * max(x))
    found = fit(x, [intercept + slope * value for value in x])
    assert found(np.array(x)) == pytest.approx(np.array([intercept + slope * value for value in x]), rel=1e-6)
    assert found.slope == pytest.approx(slope, rel=1e-4)


def test_a_fit_minimises_the_relative_error():
    """Twice the latency with a wobble: no neighbouring line has a smaller sum of squared relative errors."""
    x = np.array([1.0, 2.0, 5.0, 9.0, 20.0])
    y = 2 * x * np.array([1.1, 0.95, 1.02, 0.9, 1.05]) + 0.3
    best = fit(x, y)

    def loss(line):
        return float((((line(x) - y) / y) ** 2).sum())

    for intercept, slope in [(0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)]:
        assert loss(best) < loss(Affine(best.intercept_ms + intercept, best.slope + slope))


@pytest.mark.parametrize(
    ("x", "y"),
    [([1, 2, 3, 4], [4, 3, 2, 1]), ([2, 2, 2, 2], [3, 4, 5, 6])],
    ids=["the slower the faster", "one sum for all"],
)
def test_a_line_that_cannot_be_right_becomes_a_factor(x, y):
    found = fit(x, y)
    ratio = np.array(x) / np.array(y)
    assert found.intercept_ms == 0
    assert found.slope == pytest.approx(ratio.sum() / (ratio**2).sum())
    assert found.slope > 0


@given(sums, st.randoms(use_true_random=False), st.floats(0.2, 5))
def test_a_network_is_predicted_without_its_own_measurement(x, random, factor):
    y = [value * random.uniform(0.5, 2) for value in x]
    before = cross_validate(x, y)
    index = random.randrange(len(x))
    y[index] *= factor
    assert cross_validate(x, y)[index] == before[index]


def test_the_other_half_does_learn_from_a_measurement():
    x, y = [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]
    before = cross_validate(x, y)
    assert before == pytest.approx(np.array(x))
    y[0] = 5.0
    assert (cross_validate(x, y) != before).tolist() == [False, True, False, True]


def test_both_halves_span_the_range():
    """With a truth that bends, halves that split low from high would extrapolate, and err by more than a tenth."""
    x = np.linspace(1, 10, 20)
    y = 0.5 + x + 0.05 * x**2
    low, high = x < 5.5, x >= 5.5
    assert np.abs(fit(x[low], y[low])(x[high]) / y[high] - 1).max() > 0.1
    in_any_order = np.random.default_rng(0).permutation(20)
    x, y = x[in_any_order], y[in_any_order]
    assert np.median(np.abs(cross_validate(x, y) / y - 1)) < 0.05


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_networks_are_refused(count):
    with pytest.raises(MeasurementError, match=f"{count} networks were measured, a calibration needs 4"):
        cross_validate([1.0] * count, [1.0] * count)


def test_a_report_by_hand():
    """Errors are +10 %, -4 %, 0 %, -20 %; of the six pairs of networks one is out of order."""
    found = report([11.0, 19.2, 30.0, 25.6], [10.0, 20.0, 30.0, 32.0], [(10, 10), (22, 20), (30, 40), (33, 30)])
    assert found.networks == 4
    assert found.mape_pct == pytest.approx((10 + 4 + 0 + 20) / 4)
    assert found.bias_pct == pytest.approx((10 - 4 + 0 - 20) / 4)
    assert found.within_5_pct == 50
    assert found.within_10_pct == 75
    assert found.kendall_tau == pytest.approx((5 - 1) / 6)
    assert found.spearman_rho == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert found.ceiling_mape_pct == pytest.approx((0 + 10 + 25 + 10) / 4)
    assert found.ceiling_kendall_tau == pytest.approx((5 - 1) / 6)


def test_a_perfect_prediction():
    found = report([1, 2, 3], [1, 2, 3], [(1, 1), (2, 2), (3, 3)])
    assert (found.mape_pct, found.bias_pct, found.within_5_pct, found.kendall_tau) == (0, 0, 100, 1)
    assert found.spearman_rho == pytest.approx(1)


def test_equal_predictions_rank_nothing():
    """And give numbers that JSON, and so a table, can hold."""
    found = report([2, 2, 2, 2], [1, 2, 3, 4], [(1, 1)] * 4)
    assert (found.kendall_tau, found.spearman_rho, found.ceiling_kendall_tau) == (0, 0, 0)
