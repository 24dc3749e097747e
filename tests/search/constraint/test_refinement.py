"""Landing by measurement, on a device that is known exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgc.errors import OutputError, UsageError
from lgc.models import Architecture
from lgc.search.config import SearchConfig
from lgc.search.constraint.latency import Latency
from lgc.search.constraint.projection import project_to_target
from lgc.search.constraint.refinement import (
    MAX_REFINEMENTS,
    MEASURED_TOLERANCE,
    refine_by_measurement,
    require_refinable,
)
from lgc.search.decisions import Decisions
from lgc.search.engine import search


class Device:
    """Runs what the table says, but some operators faster or slower than it says."""

    def __init__(self, latency: Latency, seed: int, off: float) -> None:
        rng = np.random.default_rng(seed)
        self.latency, self.asked = latency, 0
        self.ms = latency.ms[0] * (1 + off * rng.uniform(-1, 1, latency.ms.shape[2]))
        self.overall = 1 + off * rng.uniform(-1, 1)

    def __call__(self, architecture: Architecture) -> float:
        self.asked += 1
        picked = np.array(architecture.choices)
        edges = self.ms[np.arange(len(picked)), picked].sum()
        head = self.latency.head_ms[0, architecture.head]
        return float(self.overall * (self.latency.fixed_ms[0] + edges + head))


@pytest.fixture
def latency(deep_space, made_up) -> Latency:
    blocks, predictor = Decisions(deep_space), made_up(deep_space, 0)
    free = Latency(blocks, [predictor])
    fastest = float(free.load(*free.fastest)[0])
    slowest = float(free.load(*free.slowest)[0])
    return Latency(blocks, [predictor], [fastest + 0.4 * (slowest - fastest)])


@given(seed=st.integers(0, 1000), off=st.sampled_from([0.0, 0.02, 0.05, 0.1]))
@settings(max_examples=30)
def test_the_device_and_not_the_table_has_the_last_word(latency, seed, off):
    target = float(latency.targets_ms[0])
    preference = np.random.default_rng(seed).normal(size=latency.ms.shape[1:])
    start = project_to_target(preference.argmax(axis=1)[None], preference, latency)
    device = Device(latency, seed, off)
    landed = refine_by_measurement(start, latency, device)
    assert 1 <= len(landed) == device.asked <= MAX_REFINEMENTS
    errors = [abs(one.measured_ms / target - 1) for one in landed]
    assert errors == sorted(errors)
    assert errors[0] <= 1.5 * MEASURED_TOLERANCE, "though the table was off by up to a tenth"
    if off == 0:
        assert len(landed) == 1
        assert landed[0].predicted_ms == pytest.approx(landed[0].measured_ms)


def test_what_is_expected_is_corrected_by_the_neighbour(latency):
    preference = np.random.default_rng(3).normal(size=latency.ms.shape[1:])
    start = project_to_target(preference.argmax(axis=1)[None], preference, latency)

    def slow(architecture: Architecture) -> float:
        picked, head = np.array([architecture.choices]), np.array([architecture.head])
        return 1.07 * float(latency.predicted_ms(picked, head)[0, 0])

    landed = refine_by_measurement(start, latency, slow)
    assert len(landed) == 2
    assert landed[0].predicted_ms == pytest.approx(landed[0].measured_ms)
    assert landed[1].predicted_ms == pytest.approx(landed[1].measured_ms / 1.07)
    changed = (landed[0].found.picked != landed[1].found.picked).sum()
    assert 0 < changed + (landed[0].found.heads != landed[1].found.heads)[0] <= 8, "few operators change"


def test_a_search_takes_what_was_measured(street, scenes, short, tmp_path):
    """Everything runs 5 % slower than the table says: the result is that much lighter than one by the table alone."""
    middle = (street.predict(street.fastest) + street.predict(street.slowest)) / 2
    config = SearchConfig(**(short.model_dump() | {"targets_ms": ((middle,),)}))
    found = search(street, scenes, tmp_path / "run", config, measure=lambda one: 1.05 * street.predict(one))
    architecture = Architecture.load(found["architecture"])
    assert found["measured_ms"] == pytest.approx(1.05 * street.predict(architecture))
    assert found["corrected_ms"] == pytest.approx(found["measured_ms"])
    assert found["predicted_ms"] == pytest.approx(street.predict(architecture))
    assert found["measured_ms"] <= middle * 1.01
    assert found["landings"] == 2
    with pytest.raises(OutputError, match="landing"):  # a run landed otherwise is another run
        search(street, scenes, tmp_path / "run", config)


@pytest.mark.parametrize(
    ("config", "tables"),
    [({}, 1), ({"targets_ms": ((1.0, 2.0),)}, 2), ({"targets_ms": ((1.0,),), "quantile": 0.9}, 1)],
)
def test_only_one_target_on_one_device_is_measured(config, tables):
    with pytest.raises(UsageError, match="one table, a target for it and no quantile"):
        require_refinable(SearchConfig(steps=1, **config), tables)
    require_refinable(SearchConfig(steps=1, targets_ms=((1.0,), (2.0,))), 1)
