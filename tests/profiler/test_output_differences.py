"""Differences that are accumulated image by image are those of all images together."""

import numpy as np
import pytest

from lgc.profiler import output_differences
from lgc.profiler.output_differences import OutputDifferences


@pytest.mark.parametrize("block", [7, 1000])
@pytest.mark.parametrize("offset", [0, 1e4])
def test_differences_are_those_of_the_stack(block, offset, monkeypatch):
    monkeypatch.setattr(output_differences, "BLOCK", block)
    rng = np.random.default_rng(0)
    exact = rng.standard_normal((3, 1, 4, 5, 6), np.float32) + np.float32(offset)
    actual = exact + rng.standard_normal(exact.shape, np.float32) / 8
    differences = OutputDifferences(-3)
    for pair in zip(actual, exact, strict=True):
        differences.add(*pair)
    wide, error = exact.astype(np.float64), np.abs(actual - exact.astype(np.float64))
    assert differences.max_abs_diff == error.max()
    assert differences.mean_abs_diff == pytest.approx(error.mean(), rel=1e-12)
    assert differences.relative_diff == pytest.approx(error.mean() / wide.std(), rel=1e-9)
    assert differences.scale == np.abs(exact).max()
    assert differences.agreement_pct == 100 * (actual.argmax(-3) == exact.argmax(-3)).mean()


def test_integer_scores_have_classes():
    exact = np.array([[200, 20], [50, 30]], np.uint8)
    differences = OutputDifferences(-1)
    differences.add(exact - np.uint8(1), exact)
    assert (differences.agreement_pct, differences.max_abs_diff) == (100, None)
    differences.add(exact[:, ::-1], exact)
    assert differences.agreement_pct == 50


def test_constant_outputs_have_no_spread():
    differences = OutputDifferences()
    for change in (0.0, 0.5):
        differences.add(np.full((2, 3), 1 + change), np.ones((2, 3)))
    assert (differences.max_abs_diff, differences.mean_abs_diff, differences.relative_diff) == (0.5, 0.25, 1.0)
    assert differences.agreement_pct is None


def test_only_equal_infinities_differ_by_nothing():
    differences = OutputDifferences()
    exact = np.float32([1, np.inf, np.nan])
    differences.add(exact, exact)
    assert (differences.max_abs_diff, differences.scale) == (0, 1)
    differences.add(np.float32([1, 2, 3]), exact)
    differences.add(exact, exact)
    assert np.isnan(differences.max_abs_diff)


def test_integers_are_compared_as_classes():
    differences = OutputDifferences()
    differences.add(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]))
    differences.add(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 4]))
    assert differences.agreement_pct == 87.5
    assert (differences.max_abs_diff, differences.mean_abs_diff, differences.relative_diff) == (None, None, None)


def test_label_maps_of_floats_have_classes():
    differences = OutputDifferences(is_label_map=True)
    differences.add(np.float32([0, 1, 2, 3]), np.float32([0, 1, 2, 0]))
    assert (differences.agreement_pct, differences.max_abs_diff) == (75, None)
