"""The protocol of rounds, under a simulated clock."""

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgc.lut.statistics import summarise
from lgc.profiler.rounds import MAX_REPEATS, MIN_REPEATS, interleave


class Clock:
    """Seconds that pass only while something runs."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Runner:
    """Takes `ms(now)` each run, and notes every call in `log`."""

    def __init__(self, name, clock, ms, log):
        self.name, self.clock, self.ms, self.log = name, clock, ms, log

    def run(self, repeats):
        self.log.append((self.name, repeats))
        durations = []
        for _ in range(repeats):
            durations.append(self.ms(self.clock.now) if callable(self.ms) else self.ms)
            self.clock.now += durations[-1] / 1000
        return durations


class Bench:
    """Runners by name, and what a call of `interleave` did with them."""

    def __init__(self, **ms):
        self.clock, self.log, self.rounds, self.progress = Clock(), [], [], []
        self.runners = {name: Runner(name, self.clock, each, self.log) for name, each in ms.items()}

    def measure(self, rounds, done=None, **options):
        options.setdefault("on_progress", self.progress.append)
        interleave(self.runners, done or {}, rounds, self.rounds.append, clock=self.clock, **options)
        return self

    @property
    def visits(self):
        return [(subject, number) for visits in self.rounds for subject, number, _, _ in visits]

    @property
    def orders(self):
        return [[subject for subject, *_ in visits] for visits in self.rounds]

    def durations(self, subject):
        return [durations for visits in self.rounds for name, _, _, durations in visits if name == subject]


def letters(count, ms=1.0):
    return {chr(ord("a") + index): ms for index in range(count)}


counts = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 12), min_size=1)


@given(counts, st.integers(0, 10), st.integers(0, 99))
def test_every_subject_gets_the_rounds_that_it_lacks(done, rounds, seed):
    bench = Bench(**dict.fromkeys(done, 1.0)).measure(rounds, done, seed=seed)
    expected = {(subject, number) for subject, behind in done.items() for number in range(behind, rounds)}
    assert set(bench.visits) == expected
    assert len(bench.visits) == len(expected)


def test_each_round_visits_each_subject_once():
    bench = Bench(**letters(5)).measure(7)
    assert [sorted(order) for order in bench.orders] == [list("abcde")] * 7
    assert [{number for _, number, _, _ in visits} for visits in bench.rounds] == [{n} for n in range(7)]
    calls = [name for name, _ in bench.log][5:]
    assert calls == [subject for order in bench.orders for subject in order], "visits were made in the order reported"


def test_the_order_is_random_and_the_seeds():
    orders = Bench(**letters(6)).measure(8, seed=1).orders
    assert len({tuple(order) for order in orders}) > 4
    assert Bench(**letters(6)).measure(8, seed=1).orders == orders
    assert Bench(**letters(6)).measure(8, seed=2).orders != orders


def test_a_resumed_measurement_goes_on_in_the_order_of_an_unbroken_one():
    unbroken = Bench(**letters(4)).measure(6).orders
    assert Bench(**letters(4)).measure(6, dict.fromkeys("abcd", 2)).orders == unbroken[2:]


def test_nothing_is_reported_where_nothing_is_left():
    bench = Bench(**letters(2)).measure(3, {"a": 3, "b": 5})
    assert bench.rounds == bench.progress == []


@pytest.mark.parametrize("min_rounds", [1, 4])
def test_the_budget_waits_for_the_least_rounds(min_rounds):
    bench = Bench(**letters(3, ms=50.0)).measure(20, budget_s=0.0, min_rounds=min_rounds)
    assert len(bench.rounds) == min_rounds


def test_the_budget_ends_the_rounds():
    """Two subjects of 100 ms, three runs a visit: 0.6 s to count the repeats, 0.6 s each round."""
    bench = Bench(**letters(2, ms=100.0)).measure(100, budget_s=5.0, min_rounds=2)
    assert len(bench.rounds) == 8
    assert {sorted(order) == ["a", "b"] for order in bench.orders} == {True}
    assert bench.clock() - 100 == pytest.approx(0.6 + 8 * 0.6)


def test_a_budget_that_is_large_enough_ends_nothing():
    assert len(Bench(**letters(2)).measure(9, budget_s=1e9).rounds) == 9


@pytest.mark.parametrize("budget_s", [None, 4.0, 1e9])
def test_progress_rises_to_one_and_the_time_left_falls_to_nothing(budget_s):
    bench = Bench(a=10.0, b=20.0, c=70.0)
    told = []
    bench.measure(40, budget_s=budget_s, on_progress=lambda progress: told.append((bench.clock(), progress)))
    end = bench.clock()
    shares = [progress.done for _, progress in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert told[-1][1].left_s == 0
    for at, progress in told[len(told) // 4 :]:
        assert progress.left_s == pytest.approx(end - at, abs=0.25 * (end - 100))


def test_progress_of_a_resumed_measurement_counts_what_is_left():
    bench = Bench(**letters(2)).measure(4, {"a": 2})
    assert [progress.done for progress in bench.progress] == pytest.approx([n / 6 for n in range(1, 7)])


@pytest.mark.parametrize(("ms", "repeats"), [(0.001, MAX_REPEATS), (0.5, 8), (1.0, 4), (100.0, MIN_REPEATS)])
def test_a_visit_lasts_some_milliseconds(ms, repeats):
    bench = Bench(a=ms).measure(4)
    assert [count for _, count in bench.log] == [MIN_REPEATS, *[repeats] * 4]
    assert [len(durations) for durations in bench.durations("a")] == [repeats] * 4


def test_a_device_that_slows_down_hits_all_alike():
    """Its pace halves while it measures: ratios stay right, where one subject after the other would be far off."""
    true = {"a": 1.0, "b": 2.0, "c": 4.0}
    total_s = 3.0

    def slowing(ms):
        return lambda now: ms * (1 + min((now - 100) / total_s, 1))

    bench = Bench(**{name: slowing(ms) for name, ms in true.items()})
    bench.measure(10_000, budget_s=total_s, min_rounds=4)
    assert bench.clock() - 100 >= total_s
    found = {name: summarise(bench.durations(name), "medians").latency_ms for name in true}
    assert found["b"] / found["a"] == pytest.approx(2, rel=0.02)
    assert found["c"] / found["a"] == pytest.approx(4, rel=0.02)

    one_after_the_other = {}
    clock = Clock()
    for name, ms in true.items():
        alone = Bench(a=slowing(ms))
        alone.clock.now = clock.now
        alone.measure(10_000, budget_s=total_s / 3, min_rounds=4)
        clock.now = alone.clock.now
        one_after_the_other[name] = summarise(alone.durations("a"), "medians").latency_ms
    assert one_after_the_other["c"] / one_after_the_other["a"] > 4 * 1.2


def test_an_interrupted_round_is_not_reported_and_the_finished_ones_are():
    bench = Bench(**letters(4))

    def interrupt(progress):
        if progress.done > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.measure(5, on_progress=interrupt)
    assert [sorted(order) for order in bench.orders] == [list("abcd")] * 3


@pytest.fixture(params=[True, False], ids=["collector on", "collector off"])
def collector(request):
    (gc.enable if request.param else gc.disable)()
    yield request.param
    gc.enable()


def test_the_garbage_collector_rests_during_a_visit_only(collector):
    seen = []
    Bench(a=lambda now: seen.append(gc.isenabled()) or 100.0).measure(4)
    assert seen[MIN_REPEATS:] == [False] * 4 * MIN_REPEATS
    assert gc.isenabled() == collector


def test_a_visit_that_fails_gives_the_garbage_collector_back(collector):
    seen = []
    with pytest.raises(ZeroDivisionError):
        Bench(a=lambda now: 1 / 0 if len(seen) == MIN_REPEATS else seen.append(now) or 100.0).measure(4)
    assert gc.isenabled() == collector
