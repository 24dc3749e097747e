"""Decoding of a network's output to a label map.

output   scores of C classes [1, C, h, w] or [1, h, w, C]; scores or probabilities of one class [1, 1, h, w]; a mask of
         booleans, or a label map of integers or integral floats, [1, 1, h, w], [1, h, w], [h, w] or [1, h, w, 1];
         integers may be quantised scores or probabilities
classes  at the network's size [H, W]: scores are interpolated bilinearly, by the file's geometry, before the largest is
         taken; labels by nearest neighbour
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FileFormatError, MeasurementError, UsageError
from ...models.geometry import Geometry
from ...models.map_sizes import covers_image
from ...models.onnx.reading.pixel_maps import PixelMap, is_ambiguous, list_pixel_maps
from ...models.onnx.signature import NHWC, OUTPUT_OPTION, ImageInput, TensorSpec
from .output_values import COLOURS, LABELS, LOGITS, MASK, PROBABILITIES, RANKING, StoredValues
from .resampling import Labels, resize_labels, upsample

MAX_MASK_CLASSES = 256
"""Number of classes that a byte can hold."""
DEFAULT_THRESHOLD = 0.5
"""Probability above which a pixel belongs to the only class."""
VALUES_OPTION = "--output-values"
"""Option of the commands that errors suggest."""
BYTE_PROBABILITIES = StoredValues(PROBABILITIES, 1 / 255)
"""Probabilities that are stored as 0 to 255."""

ROUNDING = 1e-3
"""Largest rounding error of a probability."""


@dataclass(frozen=True)
class OutputOptions:
    """Meaning of an output as the user specifies it.

    Attributes:
        values: one of `OUTPUT_VALUES`, of one channel; None to infer it from the graph.
        threshold: probability, between 0 and 1; None for `DEFAULT_THRESHOLD`.
        layout: `NCHW` or `NHWC`; None to infer it.
    """

    values: str | None = None
    threshold: float | None = None
    layout: str | None = None


@dataclass(frozen=True)
class OutputDecoder:
    """Conversion of an output to classes at the network's size.

    Attributes:
        output: output of the network.
        size: height and width of the network's image.
        layout: `NCHW` or `NHWC` of the output.
        channels: number of channels; 1 for masks and label maps.
        values: meaning and scale of the values; the meaning is one of `OUTPUT_VALUES` or `MASK`.
        threshold: probability above which a pixel belongs to the only class; None for label maps and several channels.
        remarks: assumptions, as sentences without a full stop.
        geometry: positions of scores in the image.
    """

    output: TensorSpec
    size: tuple[int, int]
    layout: str
    channels: int
    values: StoredValues
    threshold: float | None = None
    remarks: tuple[str, ...] = ()
    geometry: Geometry = Geometry.HALF_PIXEL

    @classmethod
    def for_output(
        cls, output: TensorSpec, image: ImageInput, inferred: StoredValues, options: OutputOptions, where: str
    ) -> OutputDecoder:
        """Return the decoder of an output.

        Args:
            output: output of the network.
            image: input of the network.
            inferred: values according to the graph.
            options: meaning as the user specifies it.
            where: file, for messages.

        Raises:
            FileFormatError: the output is not a segmentation.
            UsageError: an option has no effect on the output, or is missing.
        """
        pixel_map, remarks = _choose_map(output, image, options.layout, where)
        layout, channels = pixel_map.layout, pixel_map.channels
        is_bool = output.dtype == "bool"
        if channels > MAX_MASK_CLASSES or (is_bool and channels > 1):
            raise _not_segmentation(output, image.size, where)
        if channels == 1:
            values, remark = _choose_values(output, StoredValues(MASK) if is_bool else inferred, options, where)
            decoder = cls(output, image.size, layout, 1, values, remarks=remarks)
            return decoder._add_threshold(options, remark, where)
        if inferred.source is not None:
            raise FileFormatError(
                f"{where} returns {output}: its {channels} channels are the colours of labels, not scores of classes: "
                f"choose the labels with {OUTPUT_OPTION} {inferred.source}"
            )
        if inferred.meaning in (LABELS, MASK, RANKING):
            raise FileFormatError(
                f"{where} returns {output}: its {channels} channels are {inferred.meaning}, not scores of classes, by "
                f"the operator that computes it: choose another output with {OUTPUT_OPTION}"
            )
        if options.values not in (None, LOGITS) or options.threshold is not None:
            raise UsageError(f"{where} returns {output}: {VALUES_OPTION} and --threshold are for one channel")
        remarks += _describe_scores(output, channels, inferred.meaning)
        return cls(output, image.size, layout, channels, StoredValues(LOGITS), remarks=remarks)

    def _add_threshold(self, options: OutputOptions, remark: str | None, where: str) -> OutputDecoder:
        """Return the decoder of one channel with its threshold and the remark on its values."""
        remarks = (*self.remarks, *((remark,) if remark else ()))
        if self.values.meaning in (LABELS, MASK):
            if options.threshold is not None:
                raise UsageError(f"{where} returns {self.output}, a label map: omit --threshold")
            return replace(self, remarks=remarks)
        threshold = DEFAULT_THRESHOLD if options.threshold is None else options.threshold
        value = _describe_value(self.values)
        term = f"sigmoid({value})" if self.values.meaning == LOGITS else value
        remark = (
            f"output {self.output} is taken as {self.values.meaning} of one class: foreground where {term} > "
            f"{threshold:g} (change it with {VALUES_OPTION} and --threshold)"
        )
        return replace(self, threshold=threshold, remarks=(*self.remarks, remark))

    @property
    def is_mask(self) -> bool:
        """True if the classes are background and foreground."""
        return self.threshold is not None or self.values.meaning == MASK

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None for a label map."""
        if self.is_mask:
            return 2
        return self.channels if self.channels > 1 else None

    def decode(self, output: NDArray[Any]) -> Labels:
        """Return classes at the network's size, [H, W].

        Raises:
            MeasurementError: values are NaN, infinite, or outside their range.
        """
        maps = output.reshape(output.shape[-3:] if output.ndim > 2 else (1, *output.shape))
        if self.layout == NHWC:
            maps = np.moveaxis(maps, -1, 0)
        if np.issubdtype(maps.dtype, np.floating) and not np.isfinite(maps).all():
            raise MeasurementError("the network's output is not finite")
        if self.channels > 1:
            return find_largest_channel(maps.astype(np.float32, copy=False), self.size, self.geometry)
        values = maps[0]
        if self.values.is_scaled:
            values = ((values.astype(np.float64) - self.values.zero_point) * self.values.scale).astype(np.float32)
        if self.threshold is None:
            if self.values.is_scaled:  # labels multiplied by a number
                values = np.round(values)
            return resize_labels(_to_labels(values), self.size)
        values = values.astype(np.float32, copy=False)
        if self.values.meaning == PROBABILITIES and not -ROUNDING <= values.min() <= values.max() <= 1 + ROUNDING:
            raise MeasurementError(
                f"the network returned {values.min():g} to {values.max():g}, which are not probabilities: "
                f"use {VALUES_OPTION} {LOGITS} or {LABELS}"
            )
        is_probability = self.values.meaning == PROBABILITIES
        limit = self.threshold if is_probability else math.log(self.threshold / (1 - self.threshold))
        return (upsample(values, self.size, self.geometry) > limit).astype(np.uint8)


def _choose_map(
    output: TensorSpec, image: ImageInput, layout: str | None, where: str
) -> tuple[PixelMap, tuple[str, ...]]:
    """Return the reading of an output as a map, and a remark if it also fits the other layout.

    Raises:
        FileFormatError: the output does not have the image's proportions, or may be a cut-out.
        UsageError: the output does not have the layout.
    """
    maps = list_pixel_maps(output, image)
    if not maps:
        raise _not_segmentation(output, image.size, where)
    chosen = maps[0] if layout is None else next((each for each in maps if each.layout == layout), None)
    if chosen is None:
        raise UsageError(f"{where} returns {output}, which is not {layout}: omit --output-layout")
    if not covers_image(chosen.size, image.size):
        size, full = (f"{height}x{width}" for height, width in (chosen.size, image.size))
        raise FileFormatError(
            f"{where} returns {output}: {size} is not its image's {full} divided by an integer, so borders may be cut "
            "off (convolutions without padding), and its position in the image is unknown: pad the image or the output "
            "to the same size inside the network"
        )
    remark = f"output {output} is read as {chosen.layout} (change it with --output-layout)"
    return chosen, (remark,) * (layout is None and is_ambiguous(maps, image))


def _choose_values(
    output: TensorSpec, inferred: StoredValues, options: OutputOptions, where: str
) -> tuple[StoredValues, str | None]:
    """Return meaning and scale of one channel, and a remark on label maps that are assumed.

    Raises:
        UsageError: the meaning is unknown, or integers cannot be read as the user specifies.
    """
    is_float, is_byte = output.dtype.startswith("float"), output.dtype in ("uint8", "int8")
    meaning = options.values or (None if inferred.meaning in (RANKING, COLOURS) else inferred.meaning)
    if options.values is not None and inferred.meaning in (LABELS, MASK) and meaning != LABELS:
        inferred = StoredValues()
    if meaning is None and (is_float or is_byte):
        raise UsageError(
            f"{where} returns {output}, one channel whose meaning the file does not specify: add {VALUES_OPTION} "
            f"{LOGITS}, {PROBABILITIES} or {LABELS}"
        )
    if options.values == LABELS or meaning is None:
        kind = "floats" if is_float else "integers"
        remark = f"output {output} is taken as a label map in {kind} (change it with {VALUES_OPTION})"
        return StoredValues(LABELS), remark
    if meaning in (LABELS, MASK):
        assumed = f"output {output} is taken as a label map in floats (change it with {VALUES_OPTION})"
        kind = "a mask" if meaning == MASK else "a label map"
        scaled = f"output {output} is taken as {kind}, {_describe_value(inferred)} (change it with {VALUES_OPTION})"
        return inferred, scaled if inferred.is_scaled else assumed if is_float else None
    if is_float or inferred.is_scaled:
        return replace(inferred, meaning=meaning), None
    if meaning == PROBABILITIES:
        return BYTE_PROBABILITIES if output.dtype == "uint8" else StoredValues(PROBABILITIES), None
    raise UsageError(
        f"{where} returns {output}: integers without a scale (QuantizeLinear) cannot be {LOGITS}: choose another "
        f"{VALUES_OPTION}, or another output with {OUTPUT_OPTION}"
    )


def _describe_value(values: StoredValues) -> str:
    """Return the value as a term of the output."""
    if not values.is_scaled:
        return "output"
    stored = f"(output - {values.zero_point:g})" if values.zero_point else "output"
    return f"{values.scale:.3g} * {stored}"


def _describe_scores(output: TensorSpec, channels: int, meaning: str | None) -> tuple[str, ...]:
    """Return a remark on scores whose largest is not the class by their definition."""
    if meaning == PROBABILITIES:
        return (f"output {output} has {channels} independent probabilities per pixel: the largest is the class",)
    if not output.dtype.startswith("float"):
        return (f"output {output} is taken as integer scores of {channels} classes: the largest is the class",)
    return ()


def _not_segmentation(output: TensorSpec, size: tuple[int, int], where: str) -> FileFormatError:
    height, width = size
    sides = [pair for pair in (output.shape[-2:], output.shape[-3:-1]) if len(pair) == 2]
    if any(height < rows and height * columns == width * rows for rows, columns in sides):
        return FileFormatError(
            f"{where} returns {output}, larger than its image, {height}x{width}: choose an output of at most this size "
            f"with {OUTPUT_OPTION}"
        )
    return FileFormatError(
        f"{where} returns {output}: neither scores (1xCxhxw or 1xhxwxC, at most {MAX_MASK_CLASSES} classes) nor a mask "
        f"or label map (1xhxw) with the proportions of the image, {height}x{width}"
    )


def _to_labels(values: NDArray[Any]) -> Labels:
    """Return the values of a mask or label map as bytes.

    Raises:
        MeasurementError: a value is not an integer, or outside a byte's range.
    """
    if np.issubdtype(values.dtype, np.floating) and (values != np.round(values)).any():
        raise MeasurementError(
            f"the network returned {values.min():g} to {values.max():g} with fractions, which are not labels: "
            f"use {VALUES_OPTION} {LOGITS} or {PROBABILITIES}"
        )
    if values.dtype not in (np.uint8, np.bool_) and not 0 <= values.min() <= values.max() < MAX_MASK_CLASSES:
        raise MeasurementError(
            f"the network returned classes {values.min():g} to {values.max():g}, outside 0 to {MAX_MASK_CLASSES - 1}"
        )
    return values.astype(np.uint8, copy=False)


def find_largest_channel(
    scores: NDArray[np.float32], size: tuple[int, int], geometry: Geometry = Geometry.HALF_PIXEL
) -> Labels:
    """Return the largest channel of every pixel, [C, h, w] -> [*size].

    Channels are upsampled one by one: together they take hundreds of megabytes at Cityscapes' size.
    """
    labels, best = np.zeros(size, np.uint8), upsample(scores[0], size, geometry)
    for index in range(1, len(scores)):
        channel = upsample(scores[index], size, geometry)
        larger = channel > best
        labels[larger] = index
        np.maximum(best, channel, out=best)
    return labels
