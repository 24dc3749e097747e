from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgc.errors import MeasurementError
from lgc.lut.statistics.estimates import estimate_median, summarise_batches
from lgc.lut.statistics.measurement import CHECK_WINDOW, MAX_GAP_S, SMOOTHING_RADIUS, Measurement, SampleBatch

TRUE = {f"op{index}": 0.01 * 1.3**index for index in range(24)}


def visits_of(
    speed,
    rounds: int = 24,
    noise: float = 0.01,
    seed: int = 0,
    start: float = 0.0,
    session: int = 0,
    benchmarks=tuple(TRUE),
):
    """Return batches in random order, every 5 ms, on a machine with slowdown `speed(seconds)`."""
    rng = np.random.default_rng(seed)
    rows, now = [], start
    for number in range(rounds):
        for benchmark in rng.permutation(list(benchmarks)):
            runs = TRUE[benchmark] * speed(now) * (1 + noise * rng.random(3))
            rows.append(SampleBatch(str(benchmark), number, now, runs.tolist(), session))
            now += 0.005
    return rows


def worst_error_pct(rows, steady: bool = True) -> float:
    """Return the largest error of the latencies relative to each other."""
    found = Measurement(rows, "minima")
    ratios = np.array(
        [
            (found.summary(key) if steady else summarise_batches(found.durations(key), "minima")).latency_ms / TRUE[key]
            for key in found.benchmarks
        ]
    )
    return float(np.abs(ratios / np.median(ratios) - 1).max() * 100)


def two_speeds(now: float) -> float:
    """Return the slowdown of a machine that is fast half of the time, for some tenths of a second each."""
    return 0.65 if np.sin(now * 9) + np.sin(now * 5.3) > 0 else 1.0


def test_steady_machine_is_not_corrected():
    rows = visits_of(lambda now: 1.0)
    assert worst_error_pct(rows) < 0.6
    for key in TRUE:
        assert Measurement(rows, "minima").summary(key).latency_ms == pytest.approx(TRUE[key], rel=0.02)


def test_two_speeds_are_corrected():
    rows = visits_of(two_speeds)
    assert worst_error_pct(rows, steady=False) > 5
    assert worst_error_pct(rows) < 2


@pytest.mark.parametrize("seed", range(20))
def test_random_speed_changes_are_corrected(seed):
    """Both speeds are equally frequent, so the plain median of a benchmark has either by chance."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum(rng.exponential(0.3, size=400))
    assert worst_error_pct(visits_of(lambda now: 1.4 if np.searchsorted(ends, now) % 2 else 1.0, 32, seed=seed)) < 3


def test_slow_drift_is_corrected():
    rows = visits_of(lambda now: 1 + now / 3, rounds=6)
    assert worst_error_pct(rows) < 1.5


def test_points_are_drift_corrected():
    found = Measurement(visits_of(two_speeds), "minima")
    for key, latency in TRUE.items():
        points = found.points(key)
        assert len(points) == 24
        assert np.median(points) == found.summary(key).latency_ms
        assert estimate_median(points)[1] == found.summary(key).ci_ms
        assert np.quantile(points / latency, 0.9) / np.quantile(points / latency, 0.1) < 1.05
        raw = np.array([min(durations) for durations in found.durations(key)])
        assert np.quantile(raw / latency, 0.9) / np.quantile(raw / latency, 0.1) > 1.4
    assert len(found.points("nobody")) == 0


def test_halves_agree_within_noise():
    found = Measurement(visits_of(two_speeds), "minima")
    even, odd = found.split_halves()
    assert {batch.round % 2 for batch in even.batches} == {0}
    assert {batch.round % 2 for batch in odd.batches} == {1}
    for key in TRUE:
        assert even.summary(key).latency_ms == pytest.approx(odd.summary(key).latency_ms, rel=0.04)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 1), st.integers(0, 2)), min_size=1, max_size=60))
def test_halves_alternate_instances(drawn):
    """Halves with a common instance would share its memory addresses; with one instance, batches alternate."""
    rows = [SampleBatch(key, 0, float(at), [1.0 + at], session, load) for at, (key, session, load) in enumerate(drawn)]
    even, odd = Measurement(rows, "minima").split_halves()
    for key in "abc":
        own = sorted((row for row in rows if row.benchmark == key), key=lambda row: (row.session, row.at_unix_s))
        places = sorted({(row.session, row.instance) for row in own})
        number = [places.index((row.session, row.instance)) if len(places) > 1 else n for n, row in enumerate(own)]
        for half, parity in ((even, 0), (odd, 1)):
            wanted = [row for row, n in zip(own, number, strict=True) if n % 2 == parity]
            assert [batch for batch in half.batches if batch.benchmark == key] == wanted
    assert sorted([*even.batches, *odd.batches]) == sorted(rows)


def test_instances_are_numbered_over_sessions():
    places = [(0, 0), (0, 1), (0, 1), (1, 0), (1, 0), (2, 7)]
    rows = [SampleBatch("a", n, float(n), [1.0], *place) for n, place in enumerate(places)]
    found = Measurement([*rows, SampleBatch("b", 0, 9.0, [1.0], 2, 3)], "minima")
    assert found.instances("a").tolist() == [0, 1, 1, 2, 2, 3]
    assert found.instances("b").tolist() == [0]
    assert len(found.instances("nobody")) == 0


def test_instances_determine_the_interval():
    """Instances differ by some percent, so many batches of two instances leave a wide interval."""
    rng = np.random.default_rng(0)
    rows = visits_of(lambda now: 1.0, rounds=48)
    place = {load: 1 + 0.03 * rng.standard_normal() for load in range(12)}
    found = {}
    for instances in (2, 12):
        moved = [
            row._replace(
                durations_ms=[ms * place[row.round * instances // 48] for ms in row.durations_ms],
                instance=row.round * instances // 48,
            )
            if row.benchmark == "op5"
            else row
            for row in rows
        ]
        found[instances] = Measurement(moved, "minima")
    steady = found[2].summary("op6")
    assert steady.ci_ms < 0.005 * steady.latency_ms
    few, many = (found[instances].summary("op5") for instances in (2, 12))
    assert few.ci_ms > 0.05 * few.latency_ms
    assert 0.005 * many.latency_ms < many.ci_ms < 0.5 * few.ci_ms
    assert abs(many.latency_ms / TRUE["op5"] - 1) < 0.03


def test_raw_durations_are_unchanged():
    rows = visits_of(two_speeds, rounds=4)
    found = Measurement(rows, "minima")
    wanted = [row.durations_ms for row in rows if row.benchmark == "op3"]
    assert found.durations("op3") == wanted
    every = np.concatenate(wanted)
    summary = found.summary("op3")
    assert (summary.min_ms, summary.median_ms) == (every.min(), np.median(every))
    assert (summary.batches, summary.samples) == (4, every.size)


@given(st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_order_of_batches_does_not_matter(random):
    rows = [*visits_of(two_speeds, rounds=3), *visits_of(lambda now: 2.0, rounds=2, seed=1, session=1)]
    found, shuffled = Measurement(rows, "minima"), Measurement(random.sample(rows, len(rows)), "minima")
    assert found.batches == shuffled.batches
    for key in TRUE:
        assert found.summary(key) == shuffled.summary(key)


SOME_VISITS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(0, 2), st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=3)),
    min_size=1,
    max_size=80,
)


@given(SOME_VISITS, st.floats(1e-3, 1e3), st.sampled_from(["minima", "medians"]))
def test_unit_does_not_matter(drawn, factor, statistic):
    """Scaled durations give scaled latencies."""
    one, other = (
        Measurement(
            [
                SampleBatch(key, n, float(n), [c * ms for ms in runs], session)
                for n, (key, session, runs) in enumerate(drawn)
            ],
            statistic,
        )
        for c in (1.0, factor)
    )
    for key in one.benchmarks:
        assert other.points(key) == pytest.approx(factor * one.points(key), rel=1e-6)
        assert other.summary(key).latency_ms == pytest.approx(factor * one.summary(key).latency_ms, rel=1e-6)


@given(SOME_VISITS, st.dictionaries(st.sampled_from("abcd"), st.floats(1e-2, 1e2)), st.floats(-1e6, 1e6))
def test_scaled_benchmark_leaves_the_others(drawn, factors, shift_s):
    """Only ratios to a benchmark's usual latency give the speed; the start time does not matter."""
    one, other = (
        Measurement(
            [
                SampleBatch(key, n, n + shift, [each.get(key, 1.0) * ms for ms in runs], session)
                for n, (key, session, runs) in enumerate(drawn)
            ],
            "minima",
        )
        for each, shift in (({}, 0.0), (factors, shift_s))
    )
    for key in one.benchmarks:
        scale = factors.get(str(key), 1.0)
        assert other.summary(key).latency_ms == pytest.approx(scale * one.summary(key).latency_ms, rel=1e-6)


@pytest.mark.parametrize(("pause_s", "session"), [(2 * MAX_GAP_S, 0), (0.0, 1)], ids=["pause", "session"])
def test_pauses_and_sessions_separate_slowdowns(pause_s, session):
    """Slow the last six batches before a pause or of a session: later ones must not outvote them."""
    early = visits_of(lambda now: 2.0 if now > 0.6875 else 1.0, rounds=6)
    late = visits_of(lambda now: 1.0, rounds=6, seed=1, start=0.72 + pause_s, session=session)
    assert [row.durations_ms[0] > 1.5 * TRUE[row.benchmark] for row in early] == [False] * 138 + [True] * 6
    found = Measurement([*early, *late], "minima")
    for key, latency in TRUE.items():
        assert found.points(key) == pytest.approx(np.full(12, latency), rel=0.05)


class TestSessions:
    """Processes at different speeds, connected by shared benchmarks."""

    keys = tuple(TRUE)

    def test_sessions_have_independent_speeds(self):
        """Run two machines at the same time, with independent speed changes."""
        rows = [*visits_of(two_speeds), *visits_of(lambda now: two_speeds(now + 0.4), seed=1, session=1)]
        assert worst_error_pct(rows) < 2

    @pytest.mark.parametrize("speed", [0.5, 1.0, 1.7, 20.0])
    def test_shared_benchmarks_connect_two_speeds(self, speed):
        first = visits_of(lambda now: 1.0, benchmarks=self.keys[:16])
        second = visits_of(lambda now: speed, benchmarks=self.keys[12:], seed=1, session=1)
        found = Measurement([*first, *second], "minima")
        for key in self.keys:
            assert found.summary(key).latency_ms == pytest.approx(TRUE[key] * 1.0025, rel=0.01)

    def test_unconnected_sessions_stay_unchanged(self):
        first = visits_of(lambda now: 1.0, benchmarks=self.keys[:12])
        second = visits_of(lambda now: 3.0, benchmarks=self.keys[12:], seed=1, session=1)
        found = Measurement([*first, *second], "minima")
        for index, key in enumerate(self.keys):
            assert found.summary(key).latency_ms == pytest.approx(TRUE[key] * (1 if index < 12 else 3), rel=0.02)

    def test_largest_session_sets_the_speed(self):
        few = visits_of(lambda now: 1.0, rounds=4, session=1)
        many = visits_of(lambda now: 2.0, rounds=9, seed=1, session=2)
        found = Measurement([*few, *many], "minima")
        assert found.summary("op5").latency_ms == pytest.approx(2 * TRUE["op5"], rel=0.01)
        assert Counter(batch.session for batch in found.batches) == {1: 4 * 24, 2: 9 * 24}

    def test_sessions_connect_through_others(self):
        """Only the second session shares benchmarks with both others."""
        rows = [
            *visits_of(lambda now: 1.0, rounds=30, benchmarks=self.keys[:10]),
            *visits_of(lambda now: 1.5, benchmarks=self.keys[6:16], seed=1, session=1),
            *visits_of(lambda now: 4.0, benchmarks=self.keys[12:], seed=2, session=2),
        ]
        assert worst_error_pct(rows) < 1.5

    def test_disturbed_sentinel_does_not_move_a_session(self):
        first = visits_of(lambda now: 1.0, benchmarks=self.keys[:16])
        second = visits_of(lambda now: 1.5, benchmarks=self.keys[9:], seed=1, session=1)
        second = [
            row._replace(durations_ms=[3 * ms for ms in row.durations_ms]) if row.benchmark == "op12" else row
            for row in second
        ]
        found = Measurement([*first, *second], "minima")
        for key in self.keys[16:]:
            assert found.summary(key).latency_ms == pytest.approx(TRUE[key], rel=0.02)


class TestDisagreement:
    """Windows in which the machine slows the benchmarks by different factors."""

    @staticmethod
    def disturbed(rows, first, last, seed=0):
        """Return the batches, with an individual slowdown from `first` to `last`."""
        rng = np.random.default_rng(seed)
        return [
            row._replace(durations_ms=[factor * ms for ms in row.durations_ms]) if first <= index < last else row
            for index, (row, factor) in enumerate(zip(rows, 1 + 2 * rng.random(len(rows)), strict=True))
        ]

    @pytest.mark.parametrize("speed", [lambda now: 1.0, two_speeds, lambda now: 1 + now / 3], ids=["1", "2", "drift"])
    def test_uniform_slowdown_is_accepted(self, speed):
        assert Measurement(visits_of(speed), "minima").num_rejected <= CHECK_WINDOW

    def test_disagreeing_windows_are_rejected(self):
        """Disturb a quarter of the batches."""
        rows = visits_of(lambda now: 1.0, rounds=32)
        quiet, loud = Measurement(rows, "minima"), Measurement(self.disturbed(rows, 256, 448), "minima")
        assert quiet.num_rejected == 0
        assert 192 <= loud.num_rejected <= 192 + 2 * CHECK_WINDOW
        assert sum(len(loud.points(key)) for key in TRUE) == len(rows) - loud.num_rejected
        for key, latency in TRUE.items():
            assert loud.summary(key).latency_ms == pytest.approx(latency * 1.0025, rel=0.006)
            assert loud.summary(key).ci_ms < 0.005 * latency
            assert loud.summary(key).batches == len(loud.points(key)) < 32
            assert len(loud.durations(key)) == 32, "all raw durations are kept"

    def test_benchmark_of_rejected_windows_keeps_its_batches(self):
        rows = self.disturbed(visits_of(lambda now: 1.0, rounds=32), 256, 320)
        rows = [row._replace(benchmark="late") if index in (280, 290, 300) else row for index, row in enumerate(rows)]
        found = Measurement(rows, "minima")
        assert found.num_rejected >= CHECK_WINDOW
        assert (len(found.points("late")), found.summary("late").batches) == (3, 3)


def test_single_benchmark_keeps_its_median():
    rows = [SampleBatch("a", number, float(number), [value]) for number, value in enumerate([3.0, 1.0, 2.0, 5.0, 4.0])]
    assert Measurement(rows, "minima").summary("a").median_ms == 3.0


@pytest.mark.parametrize(
    "count", [1, 2, 3, SMOOTHING_RADIUS, 2 * SMOOTHING_RADIUS, 2 * SMOOTHING_RADIUS + 1, 2 * SMOOTHING_RADIUS + 2]
)
def test_few_batches_are_enough(count):
    rows = [SampleBatch("ab"[n % 2], n, float(n), [1.0 + n % 2]) for n in range(count)]
    assert Measurement(rows, "minima").summary("a").latency_ms == pytest.approx(1.0)


def test_measurement_may_be_empty():
    found = Measurement([], "minima")
    assert (list(found.benchmarks), len(found.points("a")), found.durations("a")) == ([], 0, [])
    with pytest.raises(MeasurementError):
        found.summary("a")


def test_missing_and_invalid_batches_are_rejected():
    found = Measurement(visits_of(two_speeds, rounds=2), "minima")
    for nobody in ("nobody", "", "zzz"):
        with pytest.raises(MeasurementError):
            found.summary(nobody)
    for wrong in ([], [0.0], [-1.0], [float("nan")], [float("inf")]):
        with pytest.raises(MeasurementError):
            Measurement([SampleBatch("a", 0, 0.0, wrong)], "minima")
