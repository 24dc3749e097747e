"""Ratios of networks measured side by side, on quiet and on busy machines."""

from __future__ import annotations

import numpy as np
import pytest

from lgc.lut.statistics.measurement import Measurement, SampleBatch
from lgc.profiler.timing.ratios import compute_ratio, group_by_round


@pytest.mark.parametrize("together", [1, 8])
@pytest.mark.parametrize("rounds", [67, 400])
def test_interval_of_ratio_has_stated_coverage(rounds, together):
    """Also where neighbouring rounds are of one place in memory, which shifts them all."""
    draw, held = np.random.default_rng(0), 0
    for _ in range(300):
        places = np.repeat(draw.normal(0, 0.05, rounds // together + 1), together)[:rounds]
        one = dict(enumerate(1.5 * np.exp(places + draw.normal(0, 0.02, rounds))))
        middle, low, high = compute_ratio(one, dict.fromkeys(one, 1.0))
        assert low <= middle <= high
        held += low <= 1.5 <= high
    assert 0.87 <= held / 300 <= 0.98


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_waits_leave_the_ratio(share):
    """The runs of the slower network are longer, so other programs interrupt more of them."""
    draw, batches = np.random.default_rng(0), []
    for number in range(200):
        for at, (name, ms, runs, hit) in enumerate([("small", 1.0, 4, share / 4), ("large", 3.7, 3, share)]):
            durations = ms * draw.uniform(1, 1.02, runs) + 20 * (draw.random(runs) < hit)
            batches.append(SampleBatch(name, number, number + at / 10, durations.tolist()))
    measurement = Measurement(batches, "minima")
    ratio, low, high = compute_ratio(group_by_round(measurement, "large"), group_by_round(measurement, "small"))
    assert ratio == pytest.approx(3.7, rel=0.02)
    assert low <= 3.7 * 1.01
    assert high - low < 0.2


def test_interval_shows_a_busy_part():
    """Where some parts are disturbed beyond the statistic, the interval is wide."""
    quiet = dict.fromkeys(range(160), 3.7)
    busy = {n: ms * (4 if n % 80 >= 40 else 1) for n, ms in quiet.items()}
    own, low, high = compute_ratio(busy, dict.fromkeys(busy, 1.0))
    assert low < own < high
    assert high - low > 10


def test_point_is_the_statistic_of_the_batch():
    batches = [SampleBatch("a", 3, 0.0, [2.0, 1.0, 9.0]), SampleBatch("b", 3, 0.1, [5.0])]
    assert group_by_round(Measurement(batches, "minima"), "a") == {3: 1.0}
    assert group_by_round(Measurement(batches, "medians"), "a") == {3: 2.0}
