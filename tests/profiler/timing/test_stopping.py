"""When a subject is known well enough, and when it is given up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgc.lut import Target
from lgc.lut.statistics.estimates import BATCHES_PER_INSTANCE, NOISY_PCT, estimate_median
from lgc.profiler.timing.stopping import (
    CONVERGED,
    CPU_ALONE,
    CPU_NETWORK,
    CPU_PROBE,
    FLOOR_MS,
    GPU_NETWORK,
    GPU_PROBE,
    MIN_BATCHES,
    StoppingRule,
    stopping_rule,
)

PACE = StoppingRule(runs=1, period=1, min_batches=16, max_batches=128, precision_pct=0.5, cap_s=5.0)


def points(spread_pct, count, latency_ms=1.0):
    """Latencies, evenly spread, in an order that has every part of the range everywhere."""
    places = (np.arange(count) * (5**0.5 - 1) / 2) % 1 - 0.5
    return latency_ms * (1 + 2 * spread_pct / 100 * places)


def ci_pct(values):
    latency, ci = estimate_median(values)
    return ci / latency * 100


def test_a_narrow_interval_is_enough():
    values = points(1.0, 64)
    assert ci_pct(values) < 0.5
    assert PACE.decide(values) == CONVERGED
    assert PACE.decide(points(3.0, 64)) is None


def test_no_decision_before_minimum_batches():
    assert PACE.decide(points(0.0, 15)) is None
    assert PACE.decide(points(0.0, 16)) == CONVERGED
    assert PACE.decide(np.empty(0)) is None


@pytest.mark.parametrize(("latency_ms", "verdict"), [(2 * FLOOR_MS, CONVERGED), (200 * FLOOR_MS, None)])
def test_interval_below_floor_is_narrow_enough(latency_ms, verdict):
    """10 % of it, and still less than 0.2 us."""
    values = points(40.0, 64, latency_ms)
    assert 5 < ci_pct(values) < 20
    assert PACE.decide(values) == verdict


def test_the_most_visits_end_it():
    assert PACE.decide(points(30.0, 127)) is None
    assert (
        PACE.decide(points(30.0, 128)) == f"confidence interval of {ci_pct(points(30.0, 128)):.1f} % after 128 batches"
    )


def test_run_time_over_cap_is_noise():
    values = points(30.0, 20)
    assert PACE.decide(values, spent_s=5.0) is None
    assert PACE.decide(values, spent_s=5.1) == f"confidence interval of {ci_pct(values):.1f} % after 5 s"


def test_cap_applies_before_minimum_batches():
    values = points(60.0, MIN_BATCHES)
    assert PACE.decide(values, spent_s=20.0) == f"confidence interval of {ci_pct(values):.1f} % after 20 s"
    assert PACE.decide(values[:-1], spent_s=20.0) is None, "a few it needs all the same"
    assert PACE.decide(values) is None


def test_visits_that_stop_helping_end_it():
    """Twice it is doubled, and each time no more is known than before."""
    quarter, half, rest = points(20.0, 16), points(60.0, 16), points(120.0, 32)
    values = np.concatenate([quarter, half, rest])
    assert 5 < ci_pct(quarter) < ci_pct(values[:32]) < ci_pct(values)
    assert PACE.decide(values[:32]) is None, "once can be chance"
    assert (
        PACE.decide(values)
        == f"confidence interval of {ci_pct(values):.1f} % after 64 batches, where more no longer help"
    )
    soon = np.concatenate([quarter[:12], half[:12], rest[:24]])
    assert ci_pct(quarter[:12]) <= ci_pct(soon[:24]) < ci_pct(soon)
    assert PACE.decide(soon) is None, "too early to tell"
    assert PACE.decide(points(60.0, 64)) is None, "here they help"
    assert PACE.decide(np.concatenate([half, quarter, rest])) is None, "and here they helped at first"
    assert PACE.decide(np.concatenate([quarter, half, points(10.0, 32)])) is None, "and here at last"


@pytest.mark.parametrize(("count", "spent_s"), [(128, 0.0), (100, 6.0)], ids=["the most visits", "the time"])
def test_tolerable_interval_at_limit_is_converged(count, spent_s):
    tolerated, noisy = points(20.0, count), points(40.0, count)
    assert 0.5 < ci_pct(tolerated) < NOISY_PCT < ci_pct(noisy)
    assert PACE.decide(tolerated, spent_s) == CONVERGED
    assert PACE.decide(noisy, spent_s).startswith(f"confidence interval of {ci_pct(noisy):.1f} % after ")
    assert PACE.decide(tolerated[:90]) is None, "not given up yet"


def test_more_batches_cannot_replace_more_instances():
    """Where a graph lies in memory decides how fast it runs; a visit more says nothing of another place."""
    few, many = np.repeat([0, 1, 2], 32), np.repeat(np.arange(24), 4)
    place = 1 + 0.02 * np.cos(np.arange(24))
    assert PACE.decide(points(0.1, 96)) == CONVERGED
    assert PACE.decide(points(0.1, 96) * place[few], instances=few) is None
    loose = StoppingRule(runs=1, period=1, min_batches=16, max_batches=128, precision_pct=1.0)
    assert loose.decide(points(0.1, 96) * place[many], instances=many) == CONVERGED
    assert loose.decide(points(0.1, 96) * place[few], instances=few) is None


@given(st.lists(st.floats(0.5, 2.0), min_size=1, max_size=200), st.floats(1.0, 1e4), st.floats(0, 10))
def test_decision_is_independent_of_the_unit(values, factor, spent_s):
    """As long as the floor does not matter."""
    assert PACE.decide(np.array(values) * factor, spent_s) == PACE.decide(np.array(values), spent_s)


@given(st.lists(st.floats(0.01, 100.0), min_size=128, max_size=200))
def test_maximum_batches_always_decide(values):
    assert PACE.decide(np.array(values)) is not None


def test_averaged_noise_converges_at_minimum_batches():
    """At the pace of the CPU's probes, with 1 % of noise, and with no more visits than that needs."""
    rng, found = np.random.default_rng(0), []
    for _ in range(20):
        values = 1 + 0.01 * np.abs(rng.standard_normal(CPU_PROBE.max_batches))
        found.append(next(n for n in range(1, CPU_PROBE.max_batches) if CPU_PROBE.decide(values[:n]) is not None))
        assert CPU_PROBE.decide(values[: found[-1]]) == CONVERGED
    assert set(found) == {CPU_PROBE.min_batches}


@pytest.mark.parametrize(
    ("ci_ms", "visits", "wanted"),
    [(0.02, 16, 128), (0.01, 20, 80), (0.005, 40, 40), (0.001, 40, 16), (0.0, 40, 16)],
)
def test_visits_that_are_still_wanted_by_hand(ci_ms, visits, wanted):
    """Half the width takes four times the visits; within the least and the most."""
    assert PACE.estimate_batches(1.0, ci_ms, visits) == wanted


def test_fewer_visits_can_be_asked_for():
    assert PACE.limit_batches(None) == PACE
    assert (PACE.limit_batches(50).min_batches, PACE.limit_batches(50).max_batches) == (16, 50)
    assert (PACE.limit_batches(4).min_batches, PACE.limit_batches(4).max_batches) == (4, 4)
    assert PACE.limit_batches(4).decide(points(60.0, 4)).startswith("confidence interval of ")
    assert PACE.limit_batches(4).decide(points(60.0, 3)) is None


@pytest.mark.parametrize(
    ("device", "kind", "context", "pace"),
    [
        ("cpu", "operator", "carriers", CPU_PROBE),
        ("cpu", "carrier", "carriers", CPU_PROBE),
        ("cpu", "operator", "isolated", CPU_ALONE),
        ("cpu", "network", "carriers", CPU_NETWORK),
        ("cpu", "network", "isolated", CPU_NETWORK),
        ("cuda:0", "operator", "carriers", GPU_PROBE),
        ("cuda:1", "carrier", "carriers", GPU_PROBE),
        ("cuda:0", "operator", "isolated", GPU_PROBE),
        ("cuda:0", "network", "isolated", GPU_NETWORK),
    ],
)
def test_stopping_rule_follows_kind_and_context(device, kind, context, pace):
    assert stopping_rule(Target(device, "torch"), kind, context) == pace


@pytest.mark.parametrize("pace", [CPU_PROBE, CPU_ALONE, CPU_NETWORK, GPU_PROBE, GPU_NETWORK])
def test_an_interval_knows_several_builds(pace):
    assert pace.reload >= BATCHES_PER_INSTANCE
    assert 2 * pace.reload <= pace.min_batches
    assert pace.loading > 0


def test_cpu_probes_run_once_per_batch():
    """Again and again they would be found in the nearest caches."""
    assert CPU_PROBE.runs == 1
    assert all(pace.runs is None for pace in (CPU_ALONE, CPU_NETWORK, GPU_PROBE, GPU_NETWORK))
    assert all(
        6 <= pace.min_batches < pace.max_batches for pace in (CPU_PROBE, CPU_ALONE, CPU_NETWORK, GPU_PROBE, GPU_NETWORK)
    )
