"""The protocol of rounds, under a simulated clock."""

import gc
import math
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgc.lut.statistics.estimates import summarise_batches
from lgc.lut.statistics.measurement import SampleBatch
from lgc.profiler.timing.observer import MeasurementObserver
from lgc.profiler.timing.rounds import (
    BATCH_MS,
    CHECK_GROWTH,
    COMMIT_S,
    FIRST_CHECK,
    MAX_REPEATS,
    MIN_REPEATS,
    MIN_ROUND_SIZE,
    Rounds,
    Session,
    steady_clock,
)
from lgc.profiler.timing.stopping import CONVERGED, StoppingRule

from ..conftest import Clock

QUICK = StoppingRule(runs=1, period=1, min_batches=4, max_batches=64)
ENDLESS = StoppingRule(runs=1, period=1, min_batches=10**9, max_batches=10**9)


def after(visits):
    """A pace at which a subject gets its verdict after so many visits, whatever they say."""
    return StoppingRule(runs=1, period=1, min_batches=visits, max_batches=visits)


class Runner:
    """Takes `ms(now)` each run, and notes every call in `log`."""

    def __init__(self, name, clock, ms, log):
        self.name, self.clock, self.ms, self.log, self.closed = name, clock, ms, log, False

    def close(self):
        assert not self.closed
        self.closed = True

    def run(self, repeats):
        assert not self.closed
        self.log.append((self.name, repeats))
        durations = []
        for _ in range(repeats):
            durations.append(self.ms(self.clock.now) if callable(self.ms) else self.ms)
            self.clock.now += durations[-1] / 1000
        return durations


def noisy(ms, spread=2.0):
    """Durations that never agree: from `ms` to `spread` times that, evenly."""
    count = iter(range(10**9))
    return lambda now: ms * (1 + (spread - 1) * (next(count) * (5**0.5 - 1) / 2 % 1))


class Bench(MeasurementObserver):
    """Runners by name, and what `Rounds` did with them."""

    def __init__(self, pace=QUICK, rules=None, **ms):
        self.clock, self.log, self.commits, self.verdicts, self.progress = Clock(), [], [], {}, []
        self.runners = {name: Runner(name, self.clock, each, self.log) for name, each in ms.items()}
        self.rules = {name: (rules or {}).get(name, pace) for name in ms}
        self.judged = []

    def on_batches(self, batches):
        self.commits.append(batches)

    def on_decisions(self, measurement, verdicts):
        assert not set(verdicts) & set(self.verdicts), "judged twice"
        self.verdicts |= verdicts
        self.judged.append((len(self.visits), sorted(verdicts), measurement))

    def on_progress(self, progress):
        self.progress.append((self.clock(), progress))

    def rounds(self, load=None, **session):
        session = Session(**session)
        return Rounds(self.runners, self.rules, "minima", self, session=session, load=load, clock=self.clock)

    def measure(self, seconds=math.inf, always=(), **options):
        self.start = self.clock()
        rounds = self.rounds(**options)
        self.found = rounds.run(seconds, always=always)
        self.undecided = rounds.undecided
        return self

    @property
    def visits(self):
        return [visit for commit in self.commits for visit in commit]

    @property
    def order(self):
        return [visit.benchmark for visit in self.visits]

    def count(self, subject):
        return self.order.count(subject)


def letters(count, ms=1.0):
    return {f"s{index:02}": ms for index in range(count)}


class TestVisits:
    def test_each_round_visits_each_subject_once(self):
        bench = Bench(**letters(5)).measure()
        rounds = [bench.order[at : at + 5] for at in range(0, len(bench.order), 5)]
        assert [sorted(order) for order in rounds] == [sorted(bench.runners)] * FIRST_CHECK
        assert bench.order == [name for name, _ in bench.log], "visits were made in the order reported"

    def test_the_order_is_random_and_the_seeds(self):
        orders = Bench(**letters(6)).measure(seed=1).order
        rounds = {tuple(orders[at : at + 6]) for at in range(0, len(orders), 6)}
        assert len(rounds) > FIRST_CHECK / 2
        assert Bench(**letters(6)).measure(seed=1).order == orders
        assert Bench(**letters(6)).measure(seed=2).order != orders
        assert Bench(**letters(6)).measure(seed=1, number=2).order != orders, "or a second session would repeat it"

    def test_batch_has_time_round_session_and_durations(self):
        bench = Bench(a=2.0, b=lambda now: 3.0).measure(number=7)
        assert {visit.session for visit in bench.visits} == {7}
        assert [visit.round for visit in bench.visits if visit.benchmark == "a"] == list(range(bench.count("a")))
        assert [visit.at_unix_s for visit in bench.visits] == sorted({visit.at_unix_s for visit in bench.visits})
        assert bench.visits[0].at_unix_s == bench.start
        durations = {visit.benchmark: visit.durations_ms for visit in bench.visits}
        assert durations == {"a": [2.0], "b": [3.0]}

    @pytest.mark.parametrize(("ms", "repeats"), [(0.001, MAX_REPEATS), (0.5, 8), (1.0, 4), (100.0, MIN_REPEATS)])
    def test_batch_without_fixed_runs_lasts_milliseconds(self, ms, repeats):
        bench = Bench(StoppingRule(runs=None, period=1, min_batches=4, max_batches=64), a=ms).measure()
        assert [count for _, count in bench.log] == [MIN_REPEATS, *[repeats] * FIRST_CHECK]
        assert {len(visit.durations_ms) for visit in bench.visits} == {repeats}
        assert repeats * ms >= BATCH_MS / 2 or repeats in (MIN_REPEATS, MAX_REPEATS)

    def test_batch_of_fixed_runs_needs_no_trial(self):
        assert {count for _, count in Bench(a=0.001).measure().log} == {1}

    @pytest.mark.parametrize("period", [2, 3, 8])
    def test_networks_run_once_per_period(self, period):
        """And of several networks some in each, so that no round has them all."""
        rules = {
            f"n{index}": StoppingRule(runs=1, period=period, min_batches=4, max_batches=64) for index in range(period)
        }
        bench = Bench(rules=rules, **letters(4), **dict.fromkeys(rules, 1.0)).measure()
        turns = [index for index, visit in enumerate(bench.visits) if visit.benchmark.startswith("n")]
        each = 4 + 1  # one network a round, among the four others
        assert sorted(index // each for index in turns) == list(range(len(turns)))
        for name in rules:
            rounds = [index // each for index, visit in enumerate(bench.visits) if visit.benchmark == name]
            assert {later - earlier for earlier, later in pairwise(rounds)} == {period}

    def test_garbage_collector_is_off_during_batches(self, collector):
        seen = []
        Bench(a=lambda now: seen.append(gc.isenabled()) or 1.0).measure()
        assert seen == [False] * FIRST_CHECK
        assert gc.isenabled() == collector

    def test_garbage_collector_is_restored_after_failure(self, collector):
        with pytest.raises(ZeroDivisionError):
            Bench(a=lambda now: 1 / 0).measure()
        assert gc.isenabled() == collector

    @pytest.fixture(params=[True, False], ids=["collector on", "collector off"])
    def collector(self, request):
        (gc.enable if request.param else gc.disable)()
        yield request.param
        gc.enable()


class TestStopping:
    def test_what_is_known_is_not_waited_for(self):
        """The noisy one is visited until it is given up; the others need it no longer than they need themselves."""
        bench = Bench(a=1.0, b=noisy(1.0), c=2.0).measure()
        (first, known, _), *_, (last, given_up, _) = bench.judged
        assert known == ["a", "c"]
        assert (first, given_up) == (3 * FIRST_CHECK, ["b"])
        assert bench.verdicts["a"] == bench.verdicts["c"] == CONVERGED
        assert bench.verdicts["b"].startswith("confidence interval of ")
        assert last == len(bench.visits)
        assert bench.undecided == []

    def test_decisions_receive_all_batches_so_far(self):
        bench = Bench(a=1.0, b=noisy(1.0)).measure()
        for visits, _, measurement in bench.judged:
            assert len(measurement.batches) == visits
        assert sorted(bench.found.batches) == sorted(bench.visits)

    def test_verdicts_are_sought_ever_less_often(self):
        """They take time themselves: so many more visits are made than were needed, and no more."""
        seen = []

        class Counting(StoppingRule):
            def decide(self, points, spent_s=0.0, instances=None):
                seen.append(len(points))
                return super().decide(points, spent_s, instances)

        Bench(Counting(runs=1, period=1, min_batches=4, max_batches=300), a=noisy(1.0)).measure()
        assert seen[:3] == [0, FIRST_CHECK, 2 * FIRST_CHECK]
        steps = list(pairwise(seen[3:]))
        assert all(later - earlier >= FIRST_CHECK for earlier, later in steps)
        assert all(later <= max(earlier * CHECK_GROWTH, earlier + FIRST_CHECK) for earlier, later in steps)
        assert any(later - earlier > 2 * FIRST_CHECK for earlier, later in steps)

    def test_cap_counts_only_the_benchmarks_runs(self):
        """Of some 150 ms each: after 3 s of them, not after 3 s of all."""
        capped = StoppingRule(runs=1, period=1, min_batches=4, max_batches=10**6, cap_s=3.0)
        bench = Bench(ENDLESS, {"slow": capped}, slow=noisy(100.0), **letters(5, 50.0)).measure(60.0)
        assert bench.verdicts["slow"].startswith("confidence interval of ")
        assert bench.verdicts["slow"].endswith(" s")
        (visits, _, _), *_ = bench.judged
        own = sum(visit.durations_ms[0] for visit in bench.visits[:visits] if visit.benchmark == "slow") / 1000
        assert 3 < own < 3 + 1.2 * CHECK_GROWTH * FIRST_CHECK * 0.15

    def test_visits_made_before_count(self):
        """Of another session, and enough for a verdict: nothing is run."""
        before = [SampleBatch("a", number, float(number), [1.0], 1) for number in range(8)]
        bench = Bench(a=1.0).measure(earlier=before, number=2)
        assert (bench.log, bench.visits, bench.verdicts) == ([], [], {"a": CONVERGED})
        assert bench.found.batches == before

    def test_visits_made_before_shorten_what_is_left(self):
        first = Bench(after(40), a=1.0, b=2.0).measure(0.075, number=1)
        assert 20 <= first.count("a") < 32
        second = Bench(after(40), a=1.0, b=2.0).measure(earlier=first.visits, number=2)
        assert 40 <= first.count("a") + second.count("a") <= 40 + CHECK_GROWTH * FIRST_CHECK
        assert second.verdicts.keys() == {"a", "b"}
        assert len(second.found.durations("a")) == first.count("a") + second.count("a")

    def test_sentinels_run_in_every_round_without_decision(self):
        bench = Bench(a=noisy(1.0), tie=1.0, loud=noisy(1.0, 5.0)).measure(always=["tie", "loud"])
        assert bench.count("tie") == bench.count("loud") == bench.count("a") == len(bench.visits) / 3
        assert set(bench.verdicts) == {"a"}
        assert bench.undecided == []
        alone = Bench(tie=1.0).measure(always=["tie"])
        assert alone.visits == []


class TestCompany:
    def test_last_benchmark_does_not_run_alone(self):
        """A probe that runs again right after itself finds its caches warm: known subjects stay as company."""
        bench = Bench(after(8), {"last": after(64)}, last=1.0, **letters(40)).measure()
        known_at, known, _ = bench.judged[0]
        assert len(known) == 40
        late = bench.order[known_at:]
        rounds = [late[at : at + MIN_ROUND_SIZE] for at in range(0, len(late), MIN_ROUND_SIZE)]
        assert [order.count("last") for order in rounds] == [1] * len(rounds)
        assert all(len(set(order)) == MIN_ROUND_SIZE for order in rounds)
        assert len({tuple(sorted(order)) for order in rounds}) == len(rounds), "not always the same ones"
        assert set(late) == set(bench.runners)

    def test_company_fills_up_only_what_is_missing(self):
        """While enough are open, the known ones rest."""
        many = {f"n{index}": after(64) for index in range(MIN_ROUND_SIZE)}
        bench = Bench(after(8), many, **letters(10), **dict.fromkeys(many, 1.0)).measure()
        assert [known for _, known, _ in bench.judged] == [sorted(letters(10)), sorted(many)]
        assert {bench.count(name) for name in letters(10)} == {8}

    def test_small_rounds_run_every_benchmark(self):
        bench = Bench(after(8), {"last": after(64)}, last=1.0, **letters(5)).measure()
        assert {bench.count(name) for name in letters(5)} == {bench.count("last")}

    def test_a_known_network_keeps_its_period(self):
        slow = StoppingRule(runs=1, period=8, min_batches=2, max_batches=2)
        bench = Bench(after(64), {"net": slow}, net=1.0, **letters(5)).measure()
        assert bench.count("net") == -(-bench.count("s00") // 8)

    def test_cold_latencies_are_measured_to_the_end(self):
        """A runner that has just run is twice as fast; the last one open is still as slow as it is cold."""
        bench, last = Bench(after(8), {"s00": after(96)}, **letters(6)), []
        for name, runner in bench.runners.items():

            def cold(now, name=name):
                last.append(name)
                return 0.5 if last[-2:-1] == [name] else 1.0

            runner.ms = cold
        bench.measure()
        assert bench.count("s00") >= 96
        warm = [visit for visit in bench.visits if visit.durations_ms == [0.5]]
        assert 0 < len(warm) < len(bench.visits) / 20, "only where a round ends with what the next begins with"
        assert bench.found.summary("s00").latency_ms == pytest.approx(1.0)


class TestTime:
    def test_no_batch_starts_after_the_limit(self):
        bench = Bench(a=noisy(100.0), b=noisy(100.0)).measure(5.0)
        assert 5.0 <= bench.clock() - bench.start < 5.0 + 0.2 + 1e-6
        assert len(bench.visits) == len(bench.log)
        assert bench.undecided == ["a", "b"]
        assert bench.verdicts == {}

    def test_even_within_a_round(self):
        bench = Bench(**letters(10, noisy(100.0))).measure(0.95)
        assert len(bench.visits) < 10

    def test_seconds_that_are_enough_end_nothing(self):
        bench = Bench(a=1.0).measure(1e9)
        assert (bench.verdicts, bench.undecided) == ({"a": CONVERGED}, [])

    def test_decisions_are_made_at_the_limit(self):
        """Checks are rare: one is made at the end."""
        bench = Bench(
            StoppingRule(runs=1, period=1, min_batches=4, max_batches=10**6), a=100.0, b=noisy(100.0)
        ).measure(1.3)
        assert bench.count("a") < FIRST_CHECK
        assert (bench.verdicts, bench.undecided) == ({"a": CONVERGED}, ["b"])

    def test_visits_are_handed_over_about_every_second(self):
        """And before each check, so that a verdict is never in a table without the visits that it is about."""
        bench = Bench(after(200), a=40.0, b=60.0).measure()
        assert bench.clock() - bench.start > 19
        assert 15 <= len(bench.commits) <= 40
        for commit in bench.commits:
            assert 0 <= commit[-1].at_unix_s - commit[0].at_unix_s <= COMMIT_S
        assert bench.judged[0][0] == len(bench.visits) == len(bench.found.batches)

    @pytest.mark.parametrize("moment", [0.5, 3.3, 7.77])
    def test_interruption_loses_only_uncommitted_batches(self, moment):
        """At any moment: what ended more than `COMMIT_S` and a visit before it is there."""

        def interrupted(now):
            if now > 1000.0 + moment:
                raise KeyboardInterrupt
            return 45.0

        bench = Bench(ENDLESS, a=interrupted, b=interrupted, c=interrupted)
        with pytest.raises(KeyboardInterrupt):
            bench.measure()
        made = [name for name, _ in bench.log][:-1]
        assert bench.order == made[: len(bench.order)]
        assert len(made) - len(bench.order) <= COMMIT_S / 0.045 + 1
        assert (len(bench.order) > 0) == (moment > 1.1)

    def test_a_clock_that_never_jumps_back(self):
        clock = steady_clock()
        times = [clock() for _ in range(100)]
        assert times == sorted(times)
        assert times[0] > 1.5e9, "seconds since 1970"


class TestProgress:
    @pytest.mark.parametrize("runs", [1, None])
    @pytest.mark.parametrize("seconds", [math.inf, 1e9])
    def test_progress_ends_at_one_without_time_left(self, seconds, runs):
        bench = Bench(
            StoppingRule(runs=runs, period=1, min_batches=40, max_batches=200), a=10.0, b=20.0, c=noisy(30.0)
        ).measure(seconds)
        shares = [progress.done for _, progress in bench.progress]
        assert len(shares) > 5
        assert all(0 <= share <= 1 for share in shares)
        assert shares[-1] == 1
        assert all(share < 1 for share in shares[:-1])
        assert bench.progress[-1][1].left_s == 0
        assert {progress.label for _, progress in bench.progress} == {"measuring"}

    def test_the_time_left_is_about_right(self):
        bench = Bench(after(100), a=10.0, b=20.0, c=noisy(30.0)).measure()
        end = bench.clock()
        assert len(bench.progress) > 5
        for at, progress in bench.progress:
            assert progress.left_s == pytest.approx(end - at, abs=0.25 * (end - bench.start))
            assert progress.done == pytest.approx((at - bench.start) / (end - bench.start), abs=0.25)

    def test_remaining_time_stays_within_the_limit(self):
        bench = Bench(ENDLESS, a=10.0).measure(2.0)
        assert len(bench.progress) > 5
        for at, progress in bench.progress:
            assert progress.left_s <= max(2.0 - (at - bench.start), 0)


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([0.1, 1.0, 7.0]), min_size=1),
    st.integers(1, 40),
    st.integers(1, 8),
    st.integers(0, 99),
)
@settings(max_examples=40)
def test_every_benchmark_converges_with_minimum_batches(ms, least, period, seed):
    bench = Bench(StoppingRule(runs=1, period=period, min_batches=least, max_batches=64), **ms).measure(seed=seed)
    assert bench.verdicts == dict.fromkeys(ms, CONVERGED)
    assert min(bench.count(name) for name in ms) >= least
    assert Counter(bench.order) == Counter(name for name, _ in bench.log)


def test_ratios_hold_while_device_slows_down():
    """Its pace halves while it measures: ratios stay right, where one subject after the other would be far off."""
    true = {"a": 1.0, "b": 2.0, "c": 4.0}
    total_s = 3.0
    endless = StoppingRule(runs=None, period=1, min_batches=10**9, max_batches=10**9)

    def slowing(ms):
        return lambda now: ms * (1 + min((now - 1000) / total_s, 1))

    bench = Bench(endless, **{name: slowing(ms) for name, ms in true.items()}).measure(total_s)
    raw = {name: summarise_batches(bench.found.durations(name), "medians").latency_ms for name in true}
    assert raw["b"] / raw["a"] == pytest.approx(2, rel=0.02)
    assert raw["c"] / raw["a"] == pytest.approx(4, rel=0.02)
    steady = {name: bench.found.summary(name).latency_ms for name in true}
    assert steady["c"] / steady["a"] == pytest.approx(4, rel=0.01)

    one_after_the_other, now = {}, 1000.0
    for name, ms in true.items():
        alone = Bench(endless, a=slowing(ms))
        alone.clock.now = now
        alone.measure(total_s / 3)
        now = alone.clock.now
        one_after_the_other[name] = summarise_batches(alone.found.durations("a"), "medians").latency_ms
    assert one_after_the_other["c"] / one_after_the_other["a"] > 4 * 1.2
