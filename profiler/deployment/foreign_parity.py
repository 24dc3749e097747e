"""Comparison of an exported ONNX file with the file that it was made from, under ONNX Runtime's CPU provider."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FileFormatError, MeasurementError
from ...models.onnx.model import OnnxModel
from ...models.onnx.ort_probe import OrtProbe
from ...models.onnx.reading.pixel_maps import find_channel_axis
from .parity import Parity

REFERENCE = "the original"
MIN_SCALE = 1e-3
"""Smallest scale of an output: below, differences are those of the values that it was computed from."""
Outputs = Sequence[NDArray[Any]]
"""All outputs for one input."""


class Original:
    """ONNX file under ONNX Runtime's CPU provider, without optimisations.

    The file itself runs, not the model that lgc read, so that the comparison also covers the reading. Where it has
    other inputs or outputs than the model, as it was cut, or ONNX Runtime does not find its weights, the model runs.

    Attributes:
        axes: axis of the classes of each output, counted from the end; None for outputs other than scores.
    """

    def __init__(self, path: Path, model: OnnxModel) -> None:
        """Load the file that `model` was read from.

        Raises:
            FileFormatError: ONNX Runtime rejects it.
        """
        image = model.find_image()
        self.axes = [find_channel_axis(output, image) for output in model.outputs]
        self._inputs = [tensor.name for tensor in model.inputs]
        self._outputs = [tensor.name for tensor in model.outputs]
        try:
            self._probe = OrtProbe(str(path), str(path))
        except FileFormatError:  # e.g. weights under a path with the separators of Windows
            self._probe = OrtProbe(model.data, str(path))
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


def compare_with_original(
    expected: Sequence[Outputs], outputs: Sequence[Outputs], source: str, axes: Sequence[int | None]
) -> Parity:
    """Compare all outputs with the original's: values of float outputs, classes of logits and label maps.

    The result has the largest difference of the output that differs most relative to its own scale.

    Args:
        expected: outputs of the original for each input.
        outputs: outputs to compare, for the same inputs.
        source: `random` or `images`.
        axes: axis of the classes of each output, counted from the end; None for outputs other than scores.

    Raises:
        MeasurementError: the shapes differ, or an output is NaN or infinite where the original's is not.
    """
    means, relative, agreements = [], [], []
    largest: list[tuple[float, float]] = []  # difference and scale of each output
    pairs = zip(zip(*outputs, strict=True), zip(*expected, strict=True), axes, strict=True)
    for series, reference, axis in pairs:
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
        relative.append(mean / spread if spread else float(mean > 0))
        largest.append((float(differences.max()), max(float(np.abs(exact).max()), MIN_SCALE)))
        if axis is not None:
            agreements.append(float((actual.argmax(axis) == exact.argmax(axis)).mean() * 100))
    worst, scale = max(largest, key=lambda pair: pair[0] / pair[1], default=(None, 1.0))
    return Parity(
        worst,
        max(means, default=None),
        max(relative, default=None),
        min(agreements, default=None),
        len(expected),
        source,
        REFERENCE,
        scale,
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
