"""Refinement by measurement, on a simulated device with known latencies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgc.errors import OutputError, UsageError
from lgc.models import Architecture
from lgc.search.config import SearchConfig
from lgc.search.constraint.constraint import CostConstraint
from lgc.search.constraint.projection import ArchitectureBatch, project_to_target
from lgc.search.constraint.refinement import (
    ACCEPTED,
    MAX_REFINEMENTS,
    refine_by_measurement,
    require_refinable,
)
from lgc.search.engine import search
from lgc.search.supernet.blocks import BlockDecisions


class Device:
    """A device on which some operators are faster or slower than in the table."""

    def __init__(self, latency: CostConstraint, seed: int, off: float) -> None:
        rng = np.random.default_rng(seed)
        self.calls = 0
        own = latency.costs[0]
        factors = 1 + off * rng.uniform(-1, 1, latency.decisions.searched_shape[1])
        self.cost = replace(own, single=np.vstack([own.single[:-1] * factors, own.single[-1:]]))
        self.overall = 1 + off * rng.uniform(-1, 1)

    def __call__(self, architecture: Architecture) -> float:
        self.calls += 1
        return float(self.overall * self.cost.evaluate(np.array([architecture.choices]))[0])


@pytest.fixture
def latency(deep_space, random_predictor, latency_at) -> CostConstraint:
    return latency_at(BlockDecisions(deep_space), random_predictor(deep_space, 0), 0.4)


@given(seed=st.integers(0, 1000), off=st.sampled_from([0.0, 0.02, 0.05, 0.1]))
@settings(max_examples=30)
def test_refinement_meets_target_on_the_device(latency, seed, off):
    target = float(latency.targets[0])
    preference = np.random.default_rng(seed).normal(size=latency.decisions.searched_shape)
    start = project_to_target(preference.argmax(axis=1)[None], preference, latency)
    device = Device(latency, seed, off)
    measured = refine_by_measurement(start, latency, device)
    assert 1 <= len(measured) == device.calls <= MAX_REFINEMENTS
    ratios = [result.measured_ms / target for result in measured]
    assert 0.96 < ratios[0] <= 1, "the table may be off by a tenth"
    assert ratios[0] == max(ratio for ratio in ratios if ratio <= 1)
    if off == 0:
        assert measured[0].predicted_ms == pytest.approx(measured[0].measured_ms)


@given(seed=st.integers(0, 1000))
@settings(max_examples=30)
def test_noise_leads_to_no_result_above_the_target(latency, seed):
    """Measurements that vary by 2 % are answered by more caution."""
    preference = np.random.default_rng(seed).normal(size=latency.decisions.searched_shape)
    start = project_to_target(preference.argmax(axis=1)[None], preference, latency)
    rng, device = np.random.default_rng(seed), Device(latency, seed, 0.03)
    measured = refine_by_measurement(start, latency, lambda architecture: device(architecture) * rng.normal(1, 0.01))
    assert measured[0].measured_ms <= float(latency.targets[0])


def test_slow_device_gives_the_nearest_above_the_target(latency):
    """Where the device is twice as slow as the table, no architecture may meet the target."""
    measured = refine_by_measurement(ArchitectureBatch(latency.cheapest), latency, lambda _: 3.0 * latency.targets[0])
    assert [result.measured_ms for result in measured] == [3.0 * latency.targets[0]] * len(measured)
    assert len(measured) < MAX_REFINEMENTS


def test_prediction_is_corrected_by_previous_measurement(latency):
    preference = np.random.default_rng(3).normal(size=latency.decisions.searched_shape)
    start = project_to_target(preference.argmax(axis=1)[None], preference, latency)

    def slow(architecture: Architecture) -> float:
        return 1.07 * float(latency.evaluate(np.array([architecture.choices]))[0, 0])

    measured = refine_by_measurement(start, latency, slow)
    assert len(measured) == 2
    assert ACCEPTED[0] <= measured[0].measured_ms / latency.targets[0] <= ACCEPTED[1]
    assert measured[0].predicted_ms == pytest.approx(measured[0].measured_ms)
    assert measured[1].predicted_ms == pytest.approx(measured[1].measured_ms / 1.07)
    changed = (measured[0].architecture.choices != measured[1].architecture.choices).sum()
    assert 0 < changed <= 8, "few operators may change"


def test_search_returns_the_measured_architecture(street, scenes, short, tmp_path):
    """Measured latencies are 5 % above the table's, so the result has a lower prediction than the target."""
    middle = (street.predict(street.fastest) + street.predict(street.slowest)) / 2
    config = SearchConfig(**(short.model_dump() | {"targets_ms": ((middle,),)}))
    result = search(
        street, scenes, tmp_path / "run", config, measure=lambda architecture: 1.05 * street.predict(architecture)
    )
    architecture = Architecture.load(result.architecture)
    assert result.measured_ms == pytest.approx(1.05 * street.predict(architecture))
    assert result.corrected_ms == pytest.approx(result.measured_ms)
    assert result.predicted_ms == pytest.approx(street.predict(architecture))
    assert 0.96 * middle < result.measured_ms <= middle
    assert result.refinements >= 2
    with pytest.raises(OutputError, match="landing"):  # a search without refinement is a different run
        search(street, scenes, tmp_path / "run", config)


@pytest.mark.parametrize(
    ("config", "tables"),
    [({}, 1), ({"targets_ms": ((1.0, 2.0),)}, 2), ({"targets_ms": ((1.0,),), "quantile": 0.9}, 1)],
)
def test_refinement_needs_one_target_and_table(config, tables):
    with pytest.raises(UsageError, match="one table, a target for it and no quantile"):
        require_refinable(SearchConfig(steps=1, **config), tables)
    require_refinable(SearchConfig(steps=1, targets_ms=((1.0,), (2.0,))), 1)
