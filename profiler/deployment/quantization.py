"""Post-training quantisation: a float32 ONNX model's convolutions in int8, as TensorRT's explicit quantisation wants.

Every convolution takes int8 weights, one scale for each output channel, and an int8 input with one scale, both
symmetric: TensorRT refuses zero points other than 0, and biases in int32. Nothing comes between a convolution and its
ReLU, so that both stay one layer. What has no weights (sums, concatenations, pooling, resizing, argmax, and the
pre-processing of scope end-to-end) is not quantised for its own sake: it takes a rounded tensor only where a
convolution takes the same one. Rounding its inputs and outputs too made networks less exact and engines no shorter.

ONNX Runtime's CPU provider computes such a model in float32, between rounding steps: right for comparing outputs, of
no use for speed.
"""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError, MeasurementError
from ...models.onnx.model import OnnxModel
from ..backends.ort.loader import silence_warnings

CALIBRATION_IMAGES = 32
"""Images whose activations are looked at where more are given."""

PERCENTILE = 99.99
"""Share of a tensor's absolute values, in percent, that int8 holds unclipped.

Pixels of the class that torch gives in float32, in percent, on 48 generated scenes that neither the training (96) nor
the calibration (32 of these) saw; four architectures of `tiny`, trained for 200 steps, the last for 500:

    ranges of the largest value      99.04  98.89  98.79  99.15
    ranges of least entropy          98.41  98.81  98.44  98.68
    99.999 %                         99.13  98.92  98.86  99.22
    99.99 %                          99.17  99.16  98.90  99.28
    ... sums, pools, resizes, too    98.95  99.07  98.77  99.18
    ... not the first convolution    99.17  99.13  98.89  99.30
    ... not the last convolution     99.18  99.16  98.90  99.29
    ... of 4 images                  99.15  99.11  98.92  99.26
    ... of 1 image                   98.10  98.38  98.14  98.24

On 48 scenes of another series, on which nothing was chosen, what stands here gave 99.03, 99.14, 98.79 and 99.23.
"""

_OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "OpTypesToExcludeOutputQuantization": ["Conv"],
    "CalibTensorRangeSymmetric": True,
    "CalibPercentile": PERCENTILE,
    "CalibStridedMinMax": 1,  # of any method: one image's activations in memory at a time, not those of all
}


def quantize(model: bytes, images: Sequence[NDArray[Any]], where: str = "the model") -> bytes:
    """The model with its convolutions in int8, ranges taken from images; inputs, outputs and metadata are kept.

    Args:
        model: serialised float32 ONNX model of static shapes, simplified: weights are initializers.
        images: what the model takes, one array for each image: float32 [1, 3, H, W], normalised, or uint8
            [1, H, W, 3]. Of more than `CALIBRATION_IMAGES`, as many are taken, evenly spread.
        where: names the model in errors.

    Raises:
        FileFormatError: it is no ONNX model of static shapes.
        DataError: there are no images, or one is of another shape or type than the model takes, or not finite.
        MeasurementError: the model is quantised already, has no convolutions, or is refused by ONNX Runtime.
    """
    import onnx

    parsed = OnnxModel.parse(model, where)
    if parsed.is_quantised:
        raise MeasurementError(f"{where} is quantised already: give the float32 model that it was made from")
    if "Conv" not in parsed.operators:
        raise MeasurementError(f"{where} has no convolutions, the only operators that are quantised")
    feed = _Feed(parsed, images, where)
    read = onnx.load_model_from_string(model)
    try:
        quantised = _quantised(read, feed)
    except Exception as error:  # ONNX Runtime's quantiser raises whatever goes wrong inside it
        said = (str(error).splitlines() or [""])[0]
        raise MeasurementError(f"ONNX Runtime cannot quantise {where}: {type(error).__name__}, {said}") from error
    del quantised.metadata_props[:]  # the quantiser adds a note of its own
    quantised.metadata_props.extend(onnx.load_model_from_string(model).metadata_props)
    onnx.checker.check_model(quantised, full_check=True)
    return bytes(quantised.SerializeToString())


def _quantised(model: Any, feed: _Feed) -> Any:
    """The ONNX model that ONNX Runtime makes of `model`, by way of temporary files."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory(prefix="lgc-int8-") as folder, _quiet():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            path,
            feed,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options=dict(_OPTIONS),
        )
        return onnx.load(path)


class _Feed:
    """The images as ONNX Runtime's quantiser asks for them: the methods of its `CalibrationDataReader`."""

    def __init__(self, model: OnnxModel, images: Sequence[NDArray[Any]], where: str) -> None:
        if len(images) == 0:
            raise DataError(f"{where} cannot be quantised without images, from which its ranges are taken")
        count = min(len(images), CALIBRATION_IMAGES)
        spread = np.linspace(0, len(images) - 1, count).round().astype(int).tolist()
        self._images = [images[index] for index in spread]
        if len(model.inputs) != 1:
            raise DataError(f"{where} takes {len(model.inputs)} inputs, not one image")
        wanted = model.inputs[0]
        self._name, self._next = wanted.name, iter(self._images)
        for index, image in zip(spread, self._images, strict=True):
            if image.shape != wanted.shape or image.dtype != wanted.dtype:
                given = f"{image.dtype} {'x'.join(map(str, image.shape))}"
                raise DataError(f"{where} takes {wanted}, but image {index} is {given}")
            if not np.all(np.isfinite(image)):
                raise DataError(f"image {index}, of those to quantise {where} with, holds values that are not finite")

    def __len__(self) -> int:
        return len(self._images)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Go on with the images of these indices, the last one excluded."""
        self._next = iter(self._images[start_index:end_index])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """Inputs of the next run; None after the last."""
        image = next(self._next, None)
        return None if image is None else {self._name: image}


@contextmanager
def _quiet() -> Iterator[None]:
    """Context without the quantiser's prints and warnings; the latter go to the root logger, and set that up."""
    silence_warnings()
    handlers, level = logging.root.handlers[:], logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)
        logging.root.handlers[:] = handlers
