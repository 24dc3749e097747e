"""Suggested spaces hold a target that the table's space does not."""

from __future__ import annotations

import pytest

from lgc.lut.predictor import Predictor
from lgc.models import SearchSpace
from lgc.search.constraint.suggestion import ROOM, suggest_space


@pytest.fixture
def tiny(predict) -> Predictor:
    """Predictor of `tiny` from random latencies, whose range is small."""
    return predict(SearchSpace.load("tiny").with_input(64, 96))


@pytest.mark.parametrize("factor", [0.2, 0.5, 0.9, 1.5, 4.0])
def test_suggested_range_holds_the_target(tiny, factor):
    low, high = tiny.range_ms
    target = factor * (low if factor < 1 else high)
    suggestion = suggest_space(tiny, target)
    fastest, slowest = suggestion.range_ms
    assert fastest * ROOM <= target <= slowest / ROOM
    height, width = suggestion.space.input
    assert f" --space {suggestion.space.name} --input {height}x{width} --classes 11 " in suggestion.command
    assert suggestion.command.startswith("lgc-profile --device cpu ")
    assert suggestion.command.endswith(f"{suggestion.space.name}-{height}x{width}.lut")


def test_own_size_comes_first(tiny):
    """The preset at the present size is preferred to a change of the images."""
    own = suggest_space(tiny, 1.5 * tiny.range_ms[1])
    assert (own.space.name, own.space.input) == ("rapid", (64, 96))


def test_impossible_target_has_no_suggestion(tiny):
    assert suggest_space(tiny, 1e-6) is None
    assert suggest_space(tiny, 1e9) is None
