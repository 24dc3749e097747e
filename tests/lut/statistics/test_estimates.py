import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from lgc.errors import MeasurementError
from lgc.lut.statistics.estimates import (
    BATCHES_PER_INSTANCE,
    MIDMEAN_INEFFICIENCY,
    MIN_INSTANCES_FOR_MAD,
    estimate_latency,
    estimate_median,
    summarise_batches,
)

durations = st.floats(1e-3, 1e3)
batches = st.lists(st.lists(durations, min_size=1, max_size=5), min_size=1, max_size=20)
statistics = st.sampled_from(["medians", "minima"])


def test_minima_match_the_definition():
    """Minima of the batches are 4, 2, 8, 6, 10; their median is 6, the quartiles 4 and 8."""
    found = summarise_batches([[4, 9], [7, 2], [8], [6, 6.5], [11, 10]], "minima")
    assert found.latency_ms == 6
    assert found.min_ms == 2
    assert found.median_ms == pytest.approx(7)
    assert found.spread_pct == pytest.approx((8 - 4) / 2 / 6 * 100)
    assert found.ci_ms == (10 - 2) / 2, "the range of five points"
    assert (found.batches, found.samples) == (5, 9)


def test_medians_match_the_definition():
    """Medians of the batches are 5, 3, 10; their median is 5, the quartiles 4 and 7.5."""
    found = summarise_batches([[4, 5, 60], [1, 5], [10]], "medians")
    assert found.latency_ms == 5
    assert found.spread_pct == pytest.approx((7.5 - 4) / 2 / 5 * 100)


@given(batches, statistics)
def test_latency_lies_among_the_durations(rows, statistic):
    found = summarise_batches(rows, statistic)
    every = [duration for row in rows for duration in row]
    assert min(every) == found.min_ms <= found.latency_ms <= max(every)
    assert (found.batches, found.samples) == (len(rows), len(every))
    assert found.spread_pct >= 0
    assert 0 <= found.ci_ms <= (max(every) - min(every)) / 2


@given(batches, statistics, st.floats(1e-3, 1e3))
def test_unit_does_not_matter(rows, statistic, factor):
    found, scaled = (summarise_batches([[c * ms for ms in row] for row in rows], statistic) for c in (1.0, factor))
    for name in ("latency_ms", "ci_ms", "median_ms", "min_ms"):
        assert getattr(scaled, name) == pytest.approx(factor * getattr(found, name), rel=1e-9, abs=1e-12 * factor)
    assert scaled.spread_pct == pytest.approx(found.spread_pct, rel=1e-6, abs=1e-9)


@given(batches, statistics, st.randoms(use_true_random=False))
def test_order_does_not_matter(rows, statistic, random):
    shuffled = [random.sample(row, len(row)) for row in random.sample(rows, len(rows))]
    assert summarise_batches(shuffled, statistic) == summarise_batches(rows, statistic)


def test_minimum_is_robust_to_disturbances():
    rng = np.random.default_rng(0)
    calm = [[float(1 + 0.01 * x) for x in rng.random(5)] for _ in range(24)]
    loud = [[x * (3 if index % 3 == 0 else 1) for x in row] for index, row in enumerate(calm)]
    assert np.mean(loud) > 1.5 * np.mean(calm)
    undisturbed = summarise_batches(calm, "minima").latency_ms
    assert summarise_batches(loud, "minima").latency_ms == pytest.approx(undisturbed, rel=0.01)


@pytest.mark.parametrize("rows", [[], [[]], [[1.0, 0.0]], [[1.0, -1.0]], [[1.0], [math.nan]], [[math.inf]]], ids=str)
def test_invalid_durations_are_rejected(rows):
    with pytest.raises(MeasurementError):
        summarise_batches(rows, "medians")


def test_slowdown_corrects_latency_and_spread_only():
    found = summarise_batches([[1.0, 2.0], [4.0, 8.0], [2.0, 4.0]], "minima", [1.0, 4.0, 2.0])
    assert (found.latency_ms, found.spread_pct) == (1.0, 0.0)
    assert (found.min_ms, found.median_ms) == (1.0, 3.0)


def test_interval_matches_the_formula():
    """For 16 points the binomial distribution gives the fifth and thirteenth: 8 -+ 1.96 * 2, rounded outwards."""
    points = np.array([100, 90, 80, 70, *range(12)], float)
    latency, ci = estimate_median(points)
    assert latency == 7.5
    assert ci == (70 - 4) / 2


@pytest.mark.parametrize("count", [6, 12, 16, 24, 96, 192])
@pytest.mark.parametrize("skewed", [False, True], ids=["normal", "skewed"])
def test_intervals_cover_95_percent(count, skewed):
    """Use a skewed distribution like that of latencies, whose median is known: a squared normal variable."""
    rng = np.random.default_rng(count)
    points = rng.standard_normal((2000, count))
    points, truth = (points**2, 0.6744897501960817**2) if skewed else (points, 0.0)
    found = np.array([estimate_median(row) for row in points])
    held = (np.abs(found[:, 0] - truth) <= found[:, 1]).mean()
    assert 0.93 < held < 0.99


def test_interval_narrows_with_root_of_batches():
    rng = np.random.default_rng(0)

    def width(count):
        return np.mean([estimate_median(rng.exponential(1.0, count))[1] for _ in range(300)])

    assert width(400) / width(100) == pytest.approx(0.5, rel=0.1)


class TestInstances:
    """A graph whose speed differs between instances."""

    @staticmethod
    def drawn(instances, batches, place=0.03, noise=0.003, seed=0):
        """Return (points, instances): 1 ms times a factor per instance and noise per batch."""
        rng = np.random.default_rng(seed)
        which = np.repeat(np.arange(instances), batches)
        return (1 + place * rng.standard_normal(instances))[which] * (
            1 + noise * rng.standard_normal(len(which))
        ), which

    def test_interval_matches_the_formula(self):
        """Three instances of 4 batches with medians 1.5, 3.5 and 2.5; a quarter of the points is cut at either end."""
        points = np.array([1, 1, 2, 2, 3, 3, 4, 4, 2, 2, 3, 3], float)
        latency, ci = estimate_latency(points, np.repeat([5, 6, 9], 4))
        assert latency == pytest.approx(np.mean([2, 2, 2, 3, 3, 3]))
        deviation = np.std([1.5, 3.5, 2.5], ddof=1)
        assert ci == pytest.approx(student.ppf(0.975, 2) * MIDMEAN_INEFFICIENCY * deviation / 3**0.5)

    def test_single_instance_uses_the_median(self):
        points, _ = self.drawn(1, 40)
        assert estimate_latency(points) == estimate_latency(points, np.zeros(40, int)) == estimate_median(points)

    def test_instance_with_few_batches_is_ignored(self):
        points = np.array([1.0, 1.01, 1.02, 1.03, 2.0, 2.0, 2.0])
        instances = np.array([0, 0, 0, 0, 1, 1, 1])
        assert BATCHES_PER_INSTANCE == 4
        assert estimate_latency(points, instances) == estimate_median(points)
        assert estimate_latency(np.append(points, 2.0), np.append(instances, 1))[1] > 3

    @pytest.mark.parametrize(("instances", "batches"), [(6, 16), (12, 8), (24, 16)])
    def test_intervals_cover_95_percent(self, instances, batches):
        """The median of all batches and its interval, which ignore instances, do not."""
        found = [estimate_latency(*self.drawn(instances, batches, seed=seed)) for seed in range(600)]
        held = np.mean([abs(latency - 1) <= ci for latency, ci in found])
        naive = [estimate_median(self.drawn(instances, batches, seed=seed)[0]) for seed in range(600)]
        assert 0.87 < held < 0.99
        assert held > np.mean([abs(latency - 1) <= ci for latency, ci in naive]) + 0.03

    def test_instances_narrow_it_but_batches_do_not(self):
        def width(instances, batches):
            return np.mean([estimate_latency(*self.drawn(instances, batches, seed=seed))[1] for seed in range(200)])

        assert width(48, 8) < 0.6 * width(12, 8)
        assert width(12, 32) > 0.85 * width(12, 8)

    def test_disturbed_instance_has_no_effect(self):
        points, instances = self.drawn(12, 8)
        before = estimate_latency(points, instances)
        after = estimate_latency(np.where(instances == 3, 4 * points, points), instances)
        assert after[0] == pytest.approx(before[0], rel=0.02)
        assert after[1] < 2 * before[1]
        assert MIN_INSTANCES_FOR_MAD <= 12

    @given(st.lists(st.floats(0.1, 10), min_size=8, max_size=60), st.integers(1, 9), st.floats(1e-3, 1e3))
    def test_unit_and_instance_names_do_not_matter(self, values, count, factor):
        points, instances = np.array(values), np.arange(len(values)) * count // len(values)
        latency, ci = estimate_latency(points, instances)
        assert min(values) <= latency <= max(values)
        assert ci >= 0
        assert estimate_latency(factor * points, 100 - 3 * instances) == pytest.approx(
            (factor * latency, factor * ci), rel=1e-9
        )


def test_summary_uses_instances():
    rows = [[1.0], [1.0], [1.0], [1.0], [1.2], [1.2], [1.2], [1.2]]
    found = summarise_batches(rows, "minima", instances=[0] * 4 + [1] * 4)
    assert (found.latency_ms, found.ci_ms) == estimate_latency(np.array(rows).ravel(), np.repeat([0, 1], 4))
    assert found.ci_ms > 0.5 > summarise_batches(rows, "minima").ci_ms
