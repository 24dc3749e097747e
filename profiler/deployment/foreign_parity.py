"""Comparison of an exported ONNX file with the file that it was made from, under ONNX Runtime's CPU provider."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FileFormatError, MeasurementError
from ...models.onnx.model import OnnxModel
from ...models.onnx.ort_probe import OrtProbe
from ..file_outputs import start_comparisons
from ..output_differences import OutputDifferences
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
    """

    def __init__(self, path: Path, model: OnnxModel) -> None:
        """Load the file that `model` was read from.

        Raises:
            FileFormatError: ONNX Runtime rejects it.
        """
        self._model = model
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

    def start_comparisons(self) -> list[OutputDifferences]:
        """Return `start_comparisons` of the model."""
        return start_comparisons(self._model)


def compare_with_original(
    expected: Iterable[Outputs], outputs: Iterable[Outputs], source: str, compared: Sequence[OutputDifferences]
) -> Parity:
    """Compare all outputs with the original's: values of float outputs, classes of logits and label maps.

    The result has the largest difference of the output that differs most relative to its own scale. Iterators are
    read input by input.

    Args:
        expected: outputs of the original for each input.
        outputs: outputs to compare, for the same inputs.
        source: `random` or `images`.
        compared: comparison of each output, without images; see `start_comparisons`.

    Raises:
        MeasurementError: the shapes differ, or an output is NaN or infinite where the original's is not.
    """
    images = 0
    for actual, exact in zip(outputs, expected, strict=True):
        shapes, exact_shapes = ([array.shape for array in arrays] for arrays in (actual, exact))
        if shapes != exact_shapes:
            raise MeasurementError(f"outputs have shapes {shapes}, not {exact_shapes}")
        for differences, *arrays in zip(compared, actual, exact, strict=True):
            differences.add(*arrays)
        images += 1
    worst, scale = max(
        ((each.max_abs_diff, max(each.scale, MIN_SCALE)) for each in compared if each.max_abs_diff is not None),
        key=lambda pair: pair[0] / pair[1],
        default=(None, 1.0),
    )
    means = [each.mean_abs_diff for each in compared if each.mean_abs_diff is not None]
    if not np.all(np.isfinite(means)):
        raise MeasurementError("an output is NaN or infinite where the original's is not")
    return Parity(
        worst,
        max(means, default=None),
        max((each.relative_diff for each in compared if each.relative_diff is not None), default=None),
        min((each.agreement_pct for each in compared if each.agreement_pct is not None), default=None),
        images,
        source,
        REFERENCE,
        scale,
    )
