import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgc.errors import MeasurementError
from lgc.lut.statistics import summarise

durations = st.floats(1e-3, 1e3)
visits = st.lists(st.lists(durations, min_size=1, max_size=5), min_size=1, max_size=20)


def test_minima_by_hand():
    """Minima of the visits are 4, 2, 8, 6, 10; the middle one is 6, the quartiles 4 and 8."""
    found = summarise([[4, 9], [7, 2], [8], [6, 6.5], [11, 10]], "minima")
    assert found.latency_ms == 6
    assert found.min_ms == 2
    assert found.median_ms == pytest.approx(7)
    assert found.spread_pct == pytest.approx((8 - 4) / 2 / 6 * 100)
    assert found.samples == 9


def test_medians_by_hand():
    """Medians of the visits are 5, 3, 10; the middle one is 5, the quartiles 4 and 7.5."""
    found = summarise([[4, 5, 60], [1, 5], [10]], "medians")
    assert found.latency_ms == 5
    assert found.spread_pct == pytest.approx((7.5 - 4) / 2 / 5 * 100)


@given(visits, st.sampled_from(["medians", "minima"]))
def test_the_statistic_lies_among_the_durations(rows, statistic):
    found = summarise(rows, statistic)
    every = [duration for row in rows for duration in row]
    assert min(every) == found.min_ms <= found.latency_ms <= max(every)
    assert found.samples == len(every)
    assert found.spread_pct >= 0


def test_a_noisy_neighbour_moves_the_mean_and_not_the_statistic():
    rng = np.random.default_rng(0)
    calm = [[float(1 + 0.01 * x) for x in rng.random(5)] for _ in range(24)]
    loud = [[x * (3 if index % 3 == 0 else 1) for x in row] for index, row in enumerate(calm)]
    assert np.mean(loud) > 1.5 * np.mean(calm)
    undisturbed = summarise(calm, "minima").latency_ms
    assert summarise(loud, "minima").latency_ms == pytest.approx(undisturbed, rel=0.01)


@pytest.mark.parametrize("rows", [[], [[]], [[1.0, 0.0]], [[1.0, -1.0]], [[1.0], [math.nan]], [[math.inf]]], ids=str)
def test_what_is_no_duration_is_refused(rows):
    with pytest.raises(MeasurementError):
        summarise(rows, "medians")


def test_a_slowdown_is_divided_out_of_the_latency_alone():
    found = summarise([[1.0, 2.0], [4.0, 8.0], [2.0, 4.0]], "minima", [1.0, 4.0, 2.0])
    assert (found.latency_ms, found.spread_pct) == (1.0, 0.0)
    assert (found.min_ms, found.median_ms) == (1.0, 3.0)
