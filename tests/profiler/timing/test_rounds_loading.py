"""How rounds load graphs again, under a simulated clock."""

from collections import Counter
from itertools import pairwise

from lgc.lut.statistics.estimates import BATCHES_PER_INSTANCE
from lgc.profiler.timing.stopping import CONVERGED, StoppingRule

from .test_rounds import Bench, Runner, after, letters


class TestLoading:
    """A graph is loaded again now and then, elsewhere in memory."""

    PACE = StoppingRule(runs=1, period=1, min_batches=40, max_batches=40, reload=8)

    class Loads(Bench):
        """Loads take `load_s`; each new runner is slower by a hundredth."""

        load_s = 0.0

        def load(self, subject):
            self.clock.now += self.load_s
            self.log.append((subject, "load"))
            old = self.runners[subject]
            assert not old.closed, "or the new one would get the old one's place"
            self.before.append(old)
            return Runner(subject, self.clock, old.ms + 0.01, self.log)

        def measure(self, *arguments, **options):
            self.before = []
            return super().measure(*arguments, load=self.load, **options)

    def test_after_so_many_visits(self):
        names = ["s" * length for length in range(1, 9)]
        bench = self.Loads(self.PACE, **dict.fromkeys(names, 1.0)).measure()
        for name in names:
            visits = [visit for visit in bench.visits if visit.benchmark == name]
            counts = Counter(visit.instance for visit in visits)
            assert [visit.instance for visit in visits] == sorted(visit.instance for visit in visits)
            assert set(counts) == set(range(len(counts)))
            first, *middle, _ = (counts[load] for load in sorted(counts))
            assert BATCHES_PER_INSTANCE <= first < 8 + BATCHES_PER_INSTANCE, "an interval counts the first load too"
            assert len(middle) >= 3
            assert set(middle) == {8}
            assert {visit.durations_ms[0] for visit in visits if visit.instance == 2} == {1.02}, (
                "the new one is what runs"
            )

    def test_reload_closes_the_previous_runner(self):
        bench = self.Loads(self.PACE, a=1.0, bb=1.0).measure()
        assert len(bench.before) > 6
        assert all(runner.closed for runner in bench.before)
        assert not any(runner.closed for runner in bench.runners.values()), "whoever gave them closes the last ones"

    def test_reloads_happen_between_rounds(self):
        bench = self.Loads(self.PACE, **letters(10)).measure()
        what = [word for _, word in bench.log]
        rounds = [number for number, word in enumerate(what) if word == "load"]
        assert all((at - what[:at].count("load")) % 10 == 0 for at in rounds)

    def test_reloads_are_spread_over_rounds(self):
        bench = self.Loads(self.PACE, **{"s" * n: 1.0 for n in range(1, 9)}).measure()
        loads = [at for at, (_, word) in enumerate(bench.log) if word == "load"]
        assert not any(later == earlier + 1 for earlier, later in pairwise(loads))

    def test_failed_reload_keeps_the_instance(self):
        bench = Bench(self.PACE, a=1.0).measure(load=lambda subject: None)
        assert {visit.instance for visit in bench.visits} == {0}
        assert bench.verdicts == {"a": CONVERGED}

    def test_not_where_nothing_is_said_of_it(self):
        bench = self.Loads(after(40), a=1.0).measure()
        assert bench.before == []
        assert {visit.instance for visit in Bench(self.PACE, a=1.0).measure().visits} == {0}

    def test_no_reload_starts_after_the_limit(self):
        bench = self.Loads(self.PACE, **letters(20))
        bench.load_s = 1.0
        bench.measure(5.0)
        assert len(bench.before) > 1
        assert bench.clock() - bench.start < 5.0 + 1.0 + 0.01

    def test_differing_instances_need_more_reloads(self):
        """Many visits, but to a few places that differ by 4 %: it needs more of them, and the others do not."""
        pace = StoppingRule(runs=1, period=1, min_batches=160, max_batches=1600, reload=40, precision_pct=1.0)
        bench, moves = Bench(pace, a=1.0, moving=1.0, **letters(6)), iter(range(10**9))

        def load(subject):
            place = 1 + 0.04 * (next(moves) * 0.618 % 1 - 0.5) if subject == "moving" else 1.0
            return Runner(subject, bench.clock, place, bench.log)

        bench.measure(load=load)
        (visits, known, measurement), *later = bench.judged
        assert known == sorted({*bench.runners} - {"moving"})
        assert pace.decide(measurement.points("moving")) == CONVERGED, "were its visits all to one place"
        assert any("moving" in names for _, names, _ in later)
        assert visits < 10 * 160
