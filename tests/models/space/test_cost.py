"""Validation of choice arrays, and sums over them."""

import numpy as np
import pytest

from lgc.errors import UsageError
from lgc.models.space import cost
from lgc.models.space.cost import check_choices, gather_sum


@pytest.mark.parametrize(
    ("choices", "problem"),
    [
        (np.zeros((2, 3), int), r"space headed must be integers \[N, 16\], not int64 \[2, 3\]"),
        (np.zeros(16, int), r"not int64 \[16\]"),
        (np.zeros((2, 16)), r"not float64 \[2, 16\]"),
        (np.full((2, 16), 3), "choices of cell0/n0<in0 in space headed must be from 0 to 2, got 3 to 3"),
        (np.full((2, 16), -1), "must be from 0 to 2, got -1 to -1"),
        ([[0] * 15 + [0], [0] * 15 + [3]], "choices of head in space headed must be from 0 to 2, got 0 to 3"),
    ],
)
def test_invalid_choices_are_rejected(headed_space, choices, problem):
    with pytest.raises(UsageError, match=problem):
        check_choices(choices, headed_space)


@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
def test_gather_sum_matches_loop(monkeypatch, chunk_rows):
    monkeypatch.setattr(cost, "CHUNK_ROWS", chunk_rows)
    rng = np.random.default_rng(0)
    table, choices = rng.integers(0, 100, (4, 5)), rng.integers(0, 5, (7, 4))
    expected = [sum(table[edge, choice] for edge, choice in enumerate(row)) for row in choices]
    assert gather_sum(table, choices).tolist() == expected
    assert gather_sum(table, choices[:0]).shape == (0,)
