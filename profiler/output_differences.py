"""Differences of outputs from a reference, accumulated image by image."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 22
"""Number of values that are converted to float64 at once."""


class OutputDifferences:
    """Differences of one output from its reference, in float64, without holding the outputs of two images at once.

    A value that is the same NaN or infinity in both differs by 0; other differences from such a value are NaN or
    infinite. Label maps and outputs of integers and booleans have classes only: those of their scores, or the values
    themselves.

    Attributes:
        max_abs_diff: largest absolute difference; None without float values.
        scale: largest finite absolute value of the reference.
    """

    def __init__(self, axis: int | None = None, *, is_label_map: bool = False) -> None:
        """Start without images.

        Args:
            axis: axis of the scores of classes, counted from the end; None where there are none.
            is_label_map: True for values that are classes, even of a float type.
        """
        self.max_abs_diff: float | None = None
        self.scale = 0.0
        self._axis, self._is_label_map = axis, is_label_map
        self._size, self._sum = 0, 0.0
        self._mean, self._squares = 0.0, 0.0  # of the reference: mean, sum of the squared deviations from it
        self._pixels, self._equal = 0, 0

    def add(self, actual: NDArray[Any], exact: NDArray[Any]) -> None:
        """Add an output and its reference, of the same shape."""
        has_values = exact.dtype.kind == "f" and not self._is_label_map
        if self._axis is not None:
            self._add_classes(actual.argmax(self._axis) == exact.argmax(self._axis))
        elif not has_values:
            self._add_classes(actual == exact)
        if not has_values:
            return
        values, reference = actual.reshape(-1), exact.reshape(-1)
        for start in range(0, exact.size, BLOCK):
            block = slice(start, start + BLOCK)
            self._add_values(values[block], reference[block].astype(np.float64))

    @property
    def mean_abs_diff(self) -> float | None:
        """Mean absolute difference; None without float values."""
        return self._sum / self._size if self._size else None

    @property
    def relative_diff(self) -> float | None:
        """Mean difference relative to the reference's standard deviation; None without float values."""
        mean = self.mean_abs_diff
        if mean is None:
            return None
        spread = math.sqrt(self._squares / self._size)
        return mean / spread if spread else float(mean > 0)

    @property
    def agreement_pct(self) -> float | None:
        """Share of pixels with the reference's class, in percent; None without classes."""
        return self._equal / self._pixels * 100 if self._pixels else None

    def _add_classes(self, equal: NDArray[np.bool_]) -> None:
        self._pixels += equal.size
        self._equal += int(np.count_nonzero(equal))

    def _add_values(self, actual: NDArray[Any], exact: NDArray[np.float64]) -> None:
        with np.errstate(invalid="ignore"):
            same = (actual == exact) | (np.isnan(actual) & np.isnan(exact))
            differences = np.where(same, 0.0, np.abs(actual - exact))
        exact = np.where(np.isfinite(exact), exact, 0.0)
        self.max_abs_diff = float(np.maximum(self.max_abs_diff or 0.0, differences.max()))  # keeps NaN
        self.scale = max(self.scale, float(np.abs(exact).max()))
        self._sum += float(differences.sum())
        # Chan, Golub, LeVeque: Updating formulae and a pairwise algorithm for computing sample variances, 1979
        before, self._size = self._size, self._size + exact.size
        delta = float(exact.mean()) - self._mean
        self._mean += delta * exact.size / self._size
        self._squares += float(exact.var()) * exact.size + delta**2 * before * exact.size / self._size
