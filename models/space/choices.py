"""Arrays of architectures: operator indices [N, E], one architecture per row, and head indices [N]."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from .lgcnet import SearchSpace

Indices = NDArray[np.integer]
Number = TypeVar("Number", np.int64, np.float64)

CHUNK_ROWS = 8192
"""Architectures processed at once, few enough for the CPU's cache."""


def check_choices(choices: Indices, space: SearchSpace) -> Indices:
    """Return the choices as an array of operator indices, [N, E].

    Raises:
        UsageError: Wrong shape or type, or an index out of range.
    """
    choices = np.asarray(choices)
    if choices.ndim != 2 or choices.shape[1] != space.edges or choices.dtype.kind not in "iu":
        expected = f"integers [N, {space.edges}]"
        raise UsageError(f"choices in space {space.name} must be {expected}, not {choices.dtype} {list(choices.shape)}")
    _check_range("choices", choices, len(space.operators) - 1)
    return choices


def check_heads(heads: Indices | None, space: SearchSpace, count: int) -> Indices:
    """Return the heads as an array of indices in the space's `heads`, [count]; None becomes the default head.

    Raises:
        UsageError: Wrong shape or type, or an index out of range.
    """
    if heads is None:
        return np.full(count, space.default_head)
    heads = np.asarray(heads)
    if heads.shape != (count,) or heads.dtype.kind not in "iu":
        expected = f"integers [{count}]"
        raise UsageError(f"heads of {count} architectures must be {expected}, not {heads.dtype} {list(heads.shape)}")
    _check_range("heads", heads, len(space.heads) - 1)
    return heads


def _check_range(name: str, indices: Indices, highest: int) -> None:
    if indices.size and not 0 <= indices.min() <= indices.max() <= highest:
        raise UsageError(f"{name} must be from 0 to {highest}, got {indices.min()} to {indices.max()}")


def row_chunks(count: int) -> Iterator[slice]:
    """Yield slices of `CHUNK_ROWS` rows that cover `count` rows; a single empty one if there are no rows."""
    for first in range(0, max(count, 1), CHUNK_ROWS):
        yield slice(first, first + CHUNK_ROWS)


def gather_sum(table: NDArray[Number], choices: Indices) -> NDArray[Number]:
    """Sum table[e, choices[n, e]] over the edges e: table [E, O], choices [N, E] -> [N]."""
    edges = np.arange(len(table))
    return np.concatenate([table[edges, choices[rows]].sum(axis=1) for rows in row_chunks(len(choices))])
