"""Random views: their windows, places and scales."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgc.search.data.views.geometry import JITTER, MIN_COVER, SCALES, draw_view

SIDES = st.tuples(st.integers(1, 400), st.integers(1, 400))


@settings(max_examples=200, deadline=None)
@given(file=SIDES, size=SIDES, crop=SIDES, seed=st.integers(0, 2**32))
def test_windows_and_places_stay_inside(file, size, crop, seed):
    view = draw_view(np.random.default_rng(seed), file, size, crop)
    for axis in (0, 1):
        for start, length, whole in (
            (view.window[axis], view.window[axis + 2], file[axis]),
            (view.place[axis], view.place[axis + 2], crop[axis]),
        ):
            assert length >= 1
            assert 0 <= start <= whole - length
    assert all(1 - JITTER <= factor <= 1 + JITTER for factor in view.jitter)


def draw(file, size, crop, count=400):
    return [draw_view(np.random.default_rng(seed), file, size, crop) for seed in range(count)]


def test_scales_spread_over_their_range():
    factors = [view.place[2] / view.window[2] for view in draw((1000, 2000), (1000, 2000), (250, 500))]
    assert SCALES[0] * 0.99 < min(factors) < 0.55
    assert 1.85 < max(factors) < SCALES[1] * 1.01
    assert abs(np.mean(np.log(factors))) < 0.1  # halving and doubling are equally likely


@pytest.mark.parametrize(
    ("file", "size"), [((720, 960), (360, 480)), ((360, 480), (360, 480)), ((90, 480), (360, 480))]
)
def test_whole_crops_are_mostly_picture(file, size):
    views = draw(file, size, size)
    shares = [view.place[2] * view.place[3] / math.prod(size) for view in views]
    assert min(shares) >= MIN_COVER**2 * 0.98
    assert np.mean(shares) > 0.9  # four fifths without the limit
    assert {view.flip for view in views} == {True, False}


def test_windows_move_over_the_whole_image():
    views = draw((100, 200), (100, 200), (50, 100))
    assert min(view.window[0] for view in views) == 0
    assert max(view.window[0] + view.window[2] for view in views) == 100
    assert max(view.window[1] + view.window[3] for view in views) == 200
    assert len({view.window[:2] for view in views}) > 200


def test_same_state_draws_the_same_view():
    first, second = (draw((100, 200), (90, 180), (60, 60), count=20) for _ in range(2))
    assert first == second
    assert len(set(first)) == 20
