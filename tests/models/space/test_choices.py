"""Validation of choice and head arrays, and sums over them."""

import numpy as np
import pytest

from lgc.errors import UsageError
from lgc.models.space import choices as choice_arrays
from lgc.models.space.choices import check_choices, check_heads, gather_sum


@pytest.mark.parametrize(
    ("choices", "problem"),
    [
        (np.zeros((2, 3), int), r"space mini must be integers \[N, 15\], not int64 \[2, 3\]"),
        (np.zeros(15, int), r"not int64 \[15\]"),
        (np.zeros((2, 15)), r"not float64 \[2, 15\]"),
        (np.full((2, 15), 3), "choices must be from 0 to 2, got 3 to 3"),
        (np.full((2, 15), -1), "choices must be from 0 to 2, got -1 to -1"),
    ],
)
def test_invalid_choices_are_rejected(mini_space, choices, problem):
    with pytest.raises(UsageError, match=problem):
        check_choices(choices, mini_space)


@pytest.mark.parametrize(
    ("heads", "problem"),
    [
        (np.zeros(3, int), r"heads of 2 architectures must be integers \[2\], not int64 \[3\]"),
        (np.zeros((2, 1), int), r"not int64 \[2, 1\]"),
        (np.zeros(2), r"not float64 \[2\]"),
        (1, r"not int64 \[\]"),
        ([0, 3], "heads must be from 0 to 2, got 0 to 3"),
        ([-1, 0], "heads must be from 0 to 2, got -1 to 0"),
    ],
)
def test_invalid_heads_are_rejected(headed_space, heads, problem):
    with pytest.raises(UsageError, match=problem):
        check_heads(heads, headed_space, 2)


def test_missing_heads_are_the_default(headed_space):
    assert check_heads(None, headed_space, 3).tolist() == [1, 1, 1]
    assert check_heads([0, 2], headed_space, 2).tolist() == [0, 2]


@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
def test_gather_sum_matches_loop(monkeypatch, chunk_rows):
    monkeypatch.setattr(choice_arrays, "CHUNK_ROWS", chunk_rows)
    rng = np.random.default_rng(0)
    table, choices = rng.integers(0, 100, (4, 5)), rng.integers(0, 5, (7, 4))
    expected = [sum(table[edge, choice] for edge, choice in enumerate(row)) for row in choices]
    assert gather_sum(table, choices).tolist() == expected
    assert gather_sum(table, choices[:0]).shape == (0,)
