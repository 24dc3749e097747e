"""Comparison of an exported ONNX file with the file that it was made from, under ONNX Runtime's CPU provider."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import MeasurementError
from ...models.onnx.model import OnnxModel
from ...models.onnx.ort_probe import OrtProbe
from .parity import Parity

REFERENCE = "the original"
Outputs = Sequence[NDArray[Any]]
"""All outputs for one input."""


class Original:
    """ONNX file under ONNX Runtime's CPU provider, without optimisations.

    The file itself runs, not the model that lgc read, so that the comparison also covers the reading. Where it has
    other inputs or outputs than the model, as it was cut, the model runs.
    """

    def __init__(self, path: Path, model: OnnxModel) -> None:
        """Load the file that `model` was read from.

        Raises:
            FileFormatError: ONNX Runtime rejects it.
        """
        self._inputs = [tensor.name for tensor in model.inputs]
        self._outputs = [tensor.name for tensor in model.outputs]
        self._probe = OrtProbe(str(path), str(path))
        session = self._probe.session
        inputs, outputs = ({value.name for value in values} for values in (session.get_inputs(), session.get_outputs()))
        if inputs != set(self._inputs) or not set(self._outputs) <= outputs:
            self._probe = OrtProbe(model.data, str(path))

    def run(self, inputs: Sequence[NDArray[Any]]) -> Outputs:
        """Return the outputs of the model.

        Raises:
            FileFormatError: ONNX Runtime fails.
        """
        return self._probe.run(dict(zip(self._inputs, inputs, strict=True)), self._outputs)


def compare_with_original(expected: Sequence[Outputs], outputs: Sequence[Outputs], source: str) -> Parity:
    """Compare all outputs with the original's: values of float outputs, classes of logits and label maps.

    Args:
        expected: outputs of the original for each input.
        outputs: outputs to compare, for the same inputs.
        source: `random` or `images`.

    Raises:
        MeasurementError: the shapes differ, or an output is NaN or infinite where the original's is not.
    """
    means, maxima, relative, scales, agreements = [], [], [], [1.0], []
    for series, reference in zip(zip(*outputs, strict=True), zip(*expected, strict=True), strict=True):
        if [array.shape for array in series] != [array.shape for array in reference]:
            raise MeasurementError(
                f"outputs have shapes {[a.shape for a in series]}, not {[a.shape for a in reference]}"
            )
        actual, exact = np.stack(series), np.stack(reference)
        if exact.dtype.kind != "f":
            agreements.append(float((actual == exact).mean() * 100))
            continue
        differences, exact = _compute_differences(actual, exact.astype(np.float64))
        mean, spread = float(differences.mean()), float(exact.std())
        means.append(mean)
        maxima.append(float(differences.max()))
        relative.append(mean / spread if spread else float(mean > 0))
        scales.append(float(np.abs(exact).max()))
        if exact.ndim == 5 and exact.shape[2] > 1:
            agreements.append(float((actual.argmax(axis=2) == exact.argmax(axis=2)).mean() * 100))
    return Parity(
        max(maxima, default=None),
        max(means, default=None),
        max(relative, default=None),
        min(agreements, default=None),
        len(expected),
        source,
        REFERENCE,
        max(scales),
    )


def _compute_differences(
    actual: NDArray[Any], exact: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the absolute differences, 0 where both are the same NaN or infinity, and the finite reference."""
    with np.errstate(invalid="ignore"):
        same = (actual == exact) | (np.isnan(actual) & np.isnan(exact))
        differences = np.where(same, 0.0, np.abs(actual - exact))
    if not np.all(np.isfinite(differences)):
        raise MeasurementError("an output is NaN or infinite where the original's is not")
    return differences, np.where(np.isfinite(exact), exact, 0.0)
