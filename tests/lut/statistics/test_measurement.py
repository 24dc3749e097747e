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
    subjects=tuple(TRUE),
):
    """Visits in random order, 5 ms apart, on a machine that is `speed(seconds)` times slower than usual."""
    rng = np.random.default_rng(seed)
    rows, now = [], start
    for number in range(rounds):
        for subject in rng.permutation(list(subjects)):
            runs = TRUE[subject] * speed(now) * (1 + noise * rng.random(3))
            rows.append(SampleBatch(str(subject), number, now, runs.tolist(), session))
            now += 0.005
    return rows


def worst_error_pct(rows, steady: bool = True) -> float:
    """Largest error of the subjects' latencies relative to each other."""
    found = Measurement(rows, "minima")
    ratios = np.array(
        [
            (found.summary(key) if steady else summarise_batches(found.durations(key), "minima")).latency_ms / TRUE[key]
            for key in found.subjects
        ]
    )
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


def test_points_have_the_speed_divided_out():
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


def test_halves_agree_as_well_as_the_noise_allows():
    found = Measurement(visits_of(two_speeds), "minima")
    even, odd = found.split_halves()
    assert {visit.round % 2 for visit in even.visits} == {0}
    assert {visit.round % 2 for visit in odd.visits} == {1}
    for key in TRUE:
        assert even.summary(key).latency_ms == pytest.approx(odd.summary(key).latency_ms, rel=0.04)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 1), st.integers(0, 2)), min_size=1, max_size=60))
def test_each_half_has_every_other_load_of_each_subject(drawn):
    """Halves that shared a load would agree about its place in memory; where there is one load, visits take turns."""
    rows = [SampleBatch(key, 0, float(at), [1.0 + at], session, load) for at, (key, session, load) in enumerate(drawn)]
    even, odd = Measurement(rows, "minima").split_halves()
    for key in "abc":
        own = sorted((row for row in rows if row.subject == key), key=lambda row: (row.session, row.at_unix_s))
        places = sorted({(row.session, row.load) for row in own})
        number = [places.index((row.session, row.load)) if len(places) > 1 else n for n, row in enumerate(own)]
        for half, parity in ((even, 0), (odd, 1)):
            wanted = [row for row, n in zip(own, number, strict=True) if n % 2 == parity]
            assert [visit for visit in half.visits if visit.benchmark == key] == wanted
    assert sorted([*even.visits, *odd.visits]) == sorted(rows)


def test_loads_are_counted_over_all_sessions():
    places = [(0, 0), (0, 1), (0, 1), (1, 0), (1, 0), (2, 7)]
    rows = [SampleBatch("a", n, float(n), [1.0], *place) for n, place in enumerate(places)]
    found = Measurement([*rows, SampleBatch("b", 0, 9.0, [1.0], 2, 3)], "minima")
    assert found.instances("a").tolist() == [0, 1, 1, 2, 2, 3]
    assert found.instances("b").tolist() == [0]
    assert len(found.instances("nobody")) == 0


def test_loads_tell_how_well_a_subject_is_known():
    """It runs some percent faster or slower where it was loaded; many visits to two places tell little of others."""
    rng = np.random.default_rng(0)
    rows = visits_of(lambda now: 1.0, rounds=48)
    place = {load: 1 + 0.03 * rng.standard_normal() for load in range(12)}
    found = {}
    for loads in (2, 12):
        moved = [
            row._replace(
                durations_ms=[ms * place[row.round * loads // 48] for ms in row.durations_ms],
                instance=row.round * loads // 48,
            )
            if row.subject == "op5"
            else row
            for row in rows
        ]
        found[loads] = Measurement(moved, "minima")
    steady = found[2].summary("op6")
    assert steady.ci_ms < 0.005 * steady.latency_ms
    few, many = (found[loads].summary("op5") for loads in (2, 12))
    assert few.ci_ms > 0.05 * few.latency_ms
    assert 0.005 * many.latency_ms < many.ci_ms < 0.5 * few.ci_ms
    assert abs(many.latency_ms / TRUE["op5"] - 1) < 0.03


def test_raw_durations_are_kept_as_they_were():
    rows = visits_of(two_speeds, rounds=4)
    found = Measurement(rows, "minima")
    wanted = [row.durations_ms for row in rows if row.subject == "op3"]
    assert found.durations("op3") == wanted
    every = np.concatenate(wanted)
    summary = found.summary("op3")
    assert (summary.min_ms, summary.median_ms) == (every.min(), np.median(every))
    assert (summary.visits, summary.samples) == (4, every.size)


@given(st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_order_of_the_rows_does_not_matter(random):
    rows = [*visits_of(two_speeds, rounds=3), *visits_of(lambda now: 2.0, rounds=2, seed=1, session=1)]
    found, shuffled = Measurement(rows, "minima"), Measurement(random.sample(rows, len(rows)), "minima")
    assert found.batches == shuffled.visits
    for key in TRUE:
        assert found.summary(key) == shuffled.summary(key)


SOME_VISITS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(0, 2), st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=3)),
    min_size=1,
    max_size=80,
)


@given(SOME_VISITS, st.floats(1e-3, 1e3), st.sampled_from(["minima", "medians"]))
def test_in_another_unit_every_latency_is_the_same(drawn, factor, statistic):
    """All durations times a factor give all latencies times it: nothing in between depends on the unit."""
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
    for key in one.subjects:
        assert other.points(key) == pytest.approx(factor * one.points(key), rel=1e-6)
        assert other.summary(key).latency_ms == pytest.approx(factor * one.summary(key).latency_ms, rel=1e-6)


@given(SOME_VISITS, st.dictionaries(st.sampled_from("abcd"), st.floats(1e-2, 1e2)), st.floats(-1e6, 1e6))
def test_a_subject_in_another_unit_leaves_the_others_alone(drawn, factors, shift_s):
    """Only ratios to a subject's own usual latency tell the machine's speed; nor does it matter when it all was."""
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
    for key in one.subjects:
        scale = factors.get(str(key), 1.0)
        assert other.summary(key).latency_ms == pytest.approx(scale * one.summary(key).latency_ms, rel=1e-6)


@pytest.mark.parametrize(("pause_s", "session"), [(2 * MAX_GAP_S, 0), (0.0, 1)], ids=["pause", "session"])
def test_what_comes_later_tells_nothing_of_what_was_before(pause_s, session):
    """The last six visits before a pause, or of a session, are slow: what comes then must not outvote them."""
    early = visits_of(lambda now: 2.0 if now > 0.6875 else 1.0, rounds=6)
    late = visits_of(lambda now: 1.0, rounds=6, seed=1, start=0.72 + pause_s, session=session)
    assert [row.durations_ms[0] > 1.5 * TRUE[row.subject] for row in early] == [False] * 138 + [True] * 6
    found = Measurement([*early, *late], "minima")
    for key, latency in TRUE.items():
        assert found.points(key) == pytest.approx(np.full(12, latency), rel=0.05)


class TestSessions:
    """Processes that ran at different speeds, each with its own subjects, tied by the ones they share."""

    keys = tuple(TRUE)

    def test_each_has_its_own_clock_of_speeds(self):
        """At the same time, on two machines that change their speeds independently of each other."""
        rows = [*visits_of(two_speeds), *visits_of(lambda now: two_speeds(now + 0.4), seed=1, session=1)]
        assert worst_error_pct(rows) < 2

    @pytest.mark.parametrize("speed", [0.5, 1.0, 1.7, 20.0])
    def test_shared_subjects_tie_two_speeds(self, speed):
        first = visits_of(lambda now: 1.0, subjects=self.keys[:16])
        second = visits_of(lambda now: speed, subjects=self.keys[12:], seed=1, session=1)
        found = Measurement([*first, *second], "minima")
        for key in self.keys:
            assert found.summary(key).latency_ms == pytest.approx(TRUE[key] * 1.0025, rel=0.01)

    def test_nothing_shared_leaves_each_as_it_is(self):
        first = visits_of(lambda now: 1.0, subjects=self.keys[:12])
        second = visits_of(lambda now: 3.0, subjects=self.keys[12:], seed=1, session=1)
        found = Measurement([*first, *second], "minima")
        for index, key in enumerate(self.keys):
            assert found.summary(key).latency_ms == pytest.approx(TRUE[key] * (1 if index < 12 else 3), rel=0.02)

    def test_the_session_with_most_visits_sets_the_speed(self):
        few = visits_of(lambda now: 1.0, rounds=4, session=1)
        many = visits_of(lambda now: 2.0, rounds=9, seed=1, session=2)
        found = Measurement([*few, *many], "minima")
        assert found.summary("op5").latency_ms == pytest.approx(2 * TRUE["op5"], rel=0.01)
        assert Counter(visit.session for visit in found.batches) == {1: 4 * 24, 2: 9 * 24}

    def test_sessions_are_tied_through_others(self):
        """The first shares nothing with the third, but each shares some with the second."""
        rows = [
            *visits_of(lambda now: 1.0, rounds=30, subjects=self.keys[:10]),
            *visits_of(lambda now: 1.5, subjects=self.keys[6:16], seed=1, session=1),
            *visits_of(lambda now: 4.0, subjects=self.keys[12:], seed=2, session=2),
        ]
        assert worst_error_pct(rows) < 1.5

    def test_one_disturbed_sentinel_of_several_does_not_move_a_session(self):
        first = visits_of(lambda now: 1.0, subjects=self.keys[:16])
        second = visits_of(lambda now: 1.5, subjects=self.keys[9:], seed=1, session=1)
        second = [
            row._replace(durations_ms=[3 * ms for ms in row.durations_ms]) if row.subject == "op12" else row
            for row in second
        ]
        found = Measurement([*first, *second], "minima")
        for key in self.keys[16:]:
            assert found.summary(key).latency_ms == pytest.approx(TRUE[key], rel=0.02)


class TestDisagreement:
    """Stretches in which the machine did not slow all subjects alike."""

    @staticmethod
    def disturbed(rows, first, last, seed=0):
        """The same visits, those from `first` to `last` each slowed by a factor of its own."""
        rng = np.random.default_rng(seed)
        return [
            row._replace(durations_ms=[factor * ms for ms in row.durations_ms]) if first <= index < last else row
            for index, (row, factor) in enumerate(zip(rows, 1 + 2 * rng.random(len(rows)), strict=True))
        ]

    @pytest.mark.parametrize("speed", [lambda now: 1.0, two_speeds, lambda now: 1 + now / 3], ids=["1", "2", "drift"])
    def test_a_machine_that_slows_all_alike_is_believed(self, speed):
        assert Measurement(visits_of(speed), "minima").num_rejected <= CHECK_WINDOW

    def test_what_disagrees_is_left_out(self):
        """A quarter of the visits is worth nothing."""
        rows = visits_of(lambda now: 1.0, rounds=32)
        quiet, loud = Measurement(rows, "minima"), Measurement(self.disturbed(rows, 256, 448), "minima")
        assert quiet.num_rejected == 0
        assert 192 <= loud.num_rejected <= 192 + 2 * CHECK_WINDOW
        assert sum(len(loud.points(key)) for key in TRUE) == len(rows) - loud.num_rejected
        for key, latency in TRUE.items():
            assert loud.summary(key).latency_ms == pytest.approx(latency * 1.0025, rel=0.006)
            assert loud.summary(key).ci_ms < 0.005 * latency
            assert loud.summary(key).visits == len(loud.points(key)) < 32
            assert len(loud.durations(key)) == 32, "raw durations are all kept"

    def test_a_subject_that_was_only_there_in_a_bad_stretch_keeps_what_there_is(self):
        rows = self.disturbed(visits_of(lambda now: 1.0, rounds=32), 256, 320)
        rows = [row._replace(benchmark="late") if index in (280, 290, 300) else row for index, row in enumerate(rows)]
        found = Measurement(rows, "minima")
        assert found.num_rejected >= CHECK_WINDOW
        assert (len(found.points("late")), found.summary("late").visits) == (3, 3)


def test_one_subject_alone_keeps_its_median():
    rows = [SampleBatch("a", number, float(number), [value]) for number, value in enumerate([3.0, 1.0, 2.0, 5.0, 4.0])]
    assert Measurement(rows, "minima").summary("a").median_ms == 3.0


@pytest.mark.parametrize(
    "count", [1, 2, 3, SMOOTHING_RADIUS, 2 * SMOOTHING_RADIUS, 2 * SMOOTHING_RADIUS + 1, 2 * SMOOTHING_RADIUS + 2]
)
def test_a_few_visits_are_enough(count):
    rows = [SampleBatch("ab"[n % 2], n, float(n), [1.0 + n % 2]) for n in range(count)]
    assert Measurement(rows, "minima").summary("a").latency_ms == pytest.approx(1.0)


def test_no_visits_are_a_measurement_of_nothing():
    found = Measurement([], "minima")
    assert (list(found.subjects), len(found.points("a")), found.durations("a")) == ([], 0, [])
    with pytest.raises(MeasurementError):
        found.summary("a")


def test_what_was_not_visited_or_is_no_duration_is_refused():
    found = Measurement(visits_of(two_speeds, rounds=2), "minima")
    for nobody in ("nobody", "", "zzz"):
        with pytest.raises(MeasurementError):
            found.summary(nobody)
    for wrong in ([], [0.0], [-1.0], [float("nan")], [float("inf")]):
        with pytest.raises(MeasurementError):
            Measurement([SampleBatch("a", 0, 0.0, wrong)], "minima")
