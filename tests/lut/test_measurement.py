from __future__ import annotations

import numpy as np
import pytest

from lgc.errors import MeasurementError
from lgc.lut.measurement import PAUSE_S, Measurement
from lgc.lut.statistics import summarise

TRUE = {f"op{index}": 0.01 * 1.3**index for index in range(24)}


def visits_of(speed, rounds: int = 24, noise: float = 0.01, seed: int = 0, start: float = 0.0):
    """Visits to `TRUE` in random order, 5 ms apart, on a machine that is `speed(seconds)` times slower than usual."""
    rng = np.random.default_rng(seed)
    rows, now = [], start
    for number in range(rounds):
        for subject in rng.permutation(list(TRUE)):
            runs = TRUE[subject] * speed(now) * (1 + noise * rng.random(3))
            rows.append((str(subject), number, now, runs.tolist()))
            now += 0.005
    return rows


def worst_error_pct(rows, steady: bool = True) -> float:
    """Largest error of the subjects' latencies relative to each other."""
    found = Measurement(rows, "minima")
    estimates = {
        key: found.summary(key).latency_ms if steady else summarise(found.durations(key), "minima").latency_ms
        for key in TRUE
    }
    ratios = np.array([estimates[key] / TRUE[key] for key in TRUE])
    return float(np.abs(ratios / np.median(ratios) - 1).max() * 100)


def two_speeds(now: float) -> float:
    """Fast for half of the time, in stretches of some tenths of a second."""
    return 0.65 if np.sin(now * 9) + np.sin(now * 5.3) > 0 else 1.0


def test_a_steady_machine_is_left_alone():
    rows = visits_of(lambda now: 1.0)
    assert worst_error_pct(rows) < 0.6
    for key in TRUE:
        assert Measurement(rows, "minima").summary(key).latency_ms == pytest.approx(TRUE[key], rel=0.02)


def test_a_machine_of_two_speeds_is_seen_through():
    rows = visits_of(two_speeds)
    assert worst_error_pct(rows, steady=False) > 5
    assert worst_error_pct(rows) < 2


@pytest.mark.parametrize("seed", range(20))
def test_speeds_that_change_at_random_moments_are_seen_through(seed):
    """As often fast as slow, so that the plain median of a subject falls into either speed by chance."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum(rng.exponential(0.3, size=400))
    assert worst_error_pct(visits_of(lambda now: 1.4 if np.searchsorted(ends, now) % 2 else 1.0, 32, seed=seed)) < 3


def test_a_slow_drift_is_divided_out():
    rows = visits_of(lambda now: 1 + now / 3, rounds=6)
    assert worst_error_pct(rows) < 1.5


def test_halves_agree_as_well_as_the_noise_allows():
    found = Measurement(visits_of(two_speeds), "minima")
    even, odd = found.halves()
    assert {number % 2 for _, number, _, _ in even.visits} == {0}
    assert {number % 2 for _, number, _, _ in odd.visits} == {1}
    for key in TRUE:
        assert even.summary(key).latency_ms == pytest.approx(odd.summary(key).latency_ms, rel=0.04)


def test_raw_durations_are_kept_as_they_were():
    rows = visits_of(two_speeds, rounds=4)
    found = Measurement(rows, "minima")
    wanted = [runs for key, _, _, runs in rows if key == "op3"]
    assert found.durations("op3") == wanted
    every = np.concatenate(wanted)
    summary = found.summary("op3")
    assert (summary.min_ms, summary.median_ms) == (every.min(), np.median(every))
    assert summary.samples == every.size


def test_order_of_the_rows_does_not_matter():
    rows = visits_of(two_speeds, rounds=4)
    shuffled = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
    for key in TRUE:
        assert Measurement(rows, "minima").summary(key) == Measurement(shuffled, "minima").summary(key)


def test_a_later_session_tells_nothing_of_an_earlier_one():
    """Twice as slow after a pause: were the two mixed, visits near the pause would be taken for something else."""
    late = visits_of(lambda now: 2.0, rounds=6, start=1000 + PAUSE_S)
    rows = visits_of(lambda now: 1.0, rounds=6, seed=1) + [(k, n + 6, at, runs) for k, n, at, runs in late]
    assert worst_error_pct(rows) < 1.0


def test_one_subject_alone_keeps_its_median():
    rows = [("a", number, float(number), [value]) for number, value in enumerate([3.0, 1.0, 2.0, 5.0, 4.0])]
    assert Measurement(rows, "minima").summary("a").median_ms == 3.0


def test_what_was_not_visited_or_is_no_duration_is_refused():
    found = Measurement(visits_of(two_speeds, rounds=2), "minima")
    with pytest.raises(MeasurementError):
        found.summary("nobody")
    for wrong in ([], [0.0], [-1.0], [float("nan")], [float("inf")]):
        with pytest.raises(MeasurementError):
            Measurement([("a", 0, 0.0, wrong)], "minima")
