"""Post-training quantisation: convolutions of a float32 ONNX model in int8, in TensorRT's explicit quantisation.

Every convolution has int8 weights with one scale per output channel, and an int8 input with one scale. Both are
symmetric: TensorRT rejects zero points other than 0, and int32 biases. A convolution and its ReLU stay one layer, as no
Q/DQ nodes come between them. Operators without weights (additions, concatenations, pooling, resizing, argmax, and the
pre-processing of scope end-to-end) are not quantised themselves; they share a rounded tensor only with a convolution.
Quantising them too made networks less accurate and engines no faster.

ONNX Runtime's CPU provider computes such a model in float32 between rounding steps: valid for comparing outputs, not
for timing.
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
"""Largest number of images used."""

PERCENTILE = 99.99
"""Share of a tensor's absolute values that int8 represents without clipping, in percent.

Pixels with torch's float32 class, in percent, on 48 generated scenes outside the training (96) and the calibration (32
of these); four architectures of `tiny`, trained for 200 steps, the last for 500:

    ranges by the maximum                99.04  98.89  98.79  99.15
    ranges by entropy                    98.41  98.81  98.44  98.68
    99.999 %                             99.13  98.92  98.86  99.22
    99.99 %                              99.17  99.16  98.90  99.28
    ... with additions, pools, resizes   98.95  99.07  98.77  99.18
    ... without the first convolution    99.17  99.13  98.89  99.30
    ... without the last convolution     99.18  99.16  98.90  99.29
    ... with 4 images                    99.15  99.11  98.92  99.26
    ... with 1 image                     98.10  98.38  98.14  98.24

On a held-out series of 48 scenes, these settings gave 99.03, 99.14, 98.79 and 99.23.
"""

_OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "OpTypesToExcludeOutputQuantization": ["Conv"],
    "CalibTensorRangeSymmetric": True,
    "CalibPercentile": PERCENTILE,
    "CalibStridedMinMax": 1,  # for every method: keeps the activations of one image in memory, not of all
}


def quantize(model: bytes, images: Sequence[NDArray[Any]], where: str = "the model") -> bytes:
    """Quantise a model's convolutions to int8 with ranges from images; inputs, outputs and metadata stay the same.

    Args:
        model: serialised float32 ONNX model with static shapes, simplified: weights are initializers.
        images: inputs of the model, one array per image: normalised float32 [1, 3, H, W], or uint8 [1, H, W, 3].
            `CALIBRATION_IMAGES` of them are used, evenly spaced.
        where: name of the model in errors.

    Raises:
        FileFormatError: the model is not ONNX, or has dynamic shapes.
        DataError: `images` is empty, or an image has NaN, infinite values, or the wrong shape or type.
        MeasurementError: the model is quantised, has no convolutions, or is rejected by ONNX Runtime.
    """
    import onnx

    parsed = OnnxModel.parse(model, where)
    if parsed.is_quantised:
        raise MeasurementError(f"{where} is quantised: use the float32 model it was made from")
    if "Conv" not in parsed.operators:
        raise MeasurementError(f"{where} has no convolutions to quantise")
    reader = _ImageReader(parsed, images, where)
    source = onnx.load_model_from_string(model)
    try:
        quantised = _run_quantiser(source, reader)
        onnx.checker.check_model(quantised, full_check=True)
    except MemoryError:
        raise
    except Exception as error:  # quantiser and checker raise errors of any type
        reason = (str(error).splitlines() or [""])[0]
        raise MeasurementError(f"ONNX Runtime cannot quantise {where}: {type(error).__name__}, {reason}") from error
    del quantised.metadata_props[:]  # the quantiser adds its own
    quantised.metadata_props.extend(onnx.load_model_from_string(model).metadata_props)
    return bytes(quantised.SerializeToString())


def _run_quantiser(model: Any, reader: _ImageReader) -> Any:
    """Return the model quantised by ONNX Runtime, through temporary files."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory(prefix="lgc-int8-") as folder, _silence_quantiser():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            path,
            reader,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options=dict(_OPTIONS),
        )
        return onnx.load(path)


class _ImageReader:
    """Images with the interface of ONNX Runtime's `CalibrationDataReader`."""

    def __init__(self, model: OnnxModel, images: Sequence[NDArray[Any]], where: str) -> None:
        if len(images) == 0:
            raise DataError(f"cannot quantise {where} without images: they determine the ranges")
        count = min(len(images), CALIBRATION_IMAGES)
        spread = np.linspace(0, len(images) - 1, count).round().astype(int).tolist()
        self._images = [images[index] for index in spread]
        if len(model.inputs) != 1:
            raise DataError(f"cannot quantise {where}: it has {len(model.inputs)} inputs, not one image")
        expected = model.inputs[0]
        self._name, self._next = expected.name, iter(self._images)
        for index, image in zip(spread, self._images, strict=True):
            if image.shape != expected.shape or image.dtype != expected.dtype:
                actual = f"{image.dtype} {'x'.join(map(str, image.shape))}"
                raise DataError(f"image {index} for the ranges of {where} is {actual}, expected {expected}")
            if not np.all(np.isfinite(image)):
                raise DataError(f"image {index} for the ranges of {where} has NaN or infinite values")

    def __len__(self) -> int:
        return len(self._images)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Continue with the images from `start_index` to before `end_index`."""
        self._next = iter(self._images[start_index:end_index])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """Return the next inputs; None after the last image."""
        image = next(self._next, None)
        return None if image is None else {self._name: image}


@contextmanager
def _silence_quantiser() -> Iterator[None]:
    """Suppress the quantiser's prints and its warnings, which go to the root logger and configure it."""
    silence_warnings()
    handlers, level = logging.root.handlers[:], logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)
        logging.root.handlers[:] = handlers
