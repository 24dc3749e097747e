"""How rounds spend the time they are given: least visits, the share of loading."""

from dataclasses import replace

import pytest

from .test_rounds import ENDLESS, Bench, Runner


def test_minimum_batches_are_made_beyond_the_limit():
    bench = Bench(ENDLESS, a=1000.0, b=1.0)
    bench.rounds().run(5.0, min_batches=20)
    assert bench.count("a") == 20
    assert bench.count("b") in (20, 21)
    assert Bench(ENDLESS, a=1000.0).measure(5.0).count("a") < 20


class TestShareOfLoading:
    """Loading a graph takes a second here, its run 10 ms."""

    def loads(self, loading, seconds=60.0):
        bench = Bench(replace(ENDLESS, reload=8, loading=loading), a=10.0, b=10.0)

        def load(subject):
            bench.clock.now += 1.0
            return Runner(subject, bench.clock, 10.0, bench.log)

        bench.measure(seconds, load=load)
        return max(visit.instance for visit in bench.visits), sum(sum(v.durations_ms) for v in bench.visits) / 1000

    def test_takes_no_more_than_its_share(self):
        loads, run_s = self.loads(0.2)
        assert 2 * loads / run_s == pytest.approx(0.2, rel=0.25)
        assert run_s > 45

    def test_is_free_to_take_what_it_takes(self):
        loads, run_s = self.loads(float("inf"))
        assert run_s < 10 < loads
