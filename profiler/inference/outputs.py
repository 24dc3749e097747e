"""Decoding of a network's output to a label map.

output   scores of C classes [1, C, h, w] or [1, h, w, C]; scores or probabilities of one class [1, 1, h, w]; a mask of
         booleans, or a label map of integers or integral floats, [1, 1, h, w], [1, h, w], [h, w] or [1, h, w, 1]
classes  at the network's size [H, W]: scores are interpolated bilinearly, corners not aligned, before the largest is
         taken; labels by nearest neighbour
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FileFormatError, MeasurementError, UsageError
from ...models.onnx.signature import NCHW, NHWC, ImageInput, TensorSpec
from .output_values import LABELS, LOGITS, PROBABILITIES
from .resampling import Labels, resize_labels, upsample

MAX_CLASSES = 256
"""Number of classes that a byte can hold."""
DEFAULT_THRESHOLD = 0.5
"""Probability above which a pixel belongs to the only class."""

ROUNDING = 1e-3
"""Largest rounding error of a probability."""


@dataclass(frozen=True)
class OutputOptions:
    """Meaning of a one-channel output as the user specifies it.

    Attributes:
        values: one of `OUTPUT_VALUES`; None to infer it from the graph.
        threshold: probability, between 0 and 1; None for `DEFAULT_THRESHOLD`.
    """

    values: str | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class OutputDecoder:
    """Conversion of an output to classes at the network's size.

    Attributes:
        output: output of the network.
        size: height and width of the network's image.
        layout: `NCHW` or `NHWC` of the output.
        channels: number of channels; 1 for masks and label maps.
        values: one of `OUTPUT_VALUES`.
        threshold: probability above which a pixel belongs to the only class; None for label maps and several channels.
        remarks: assumptions, as sentences without a full stop.
    """

    output: TensorSpec
    size: tuple[int, int]
    layout: str
    channels: int
    values: str
    threshold: float | None = None
    remarks: tuple[str, ...] = ()

    @classmethod
    def for_output(
        cls, output: TensorSpec, image: ImageInput, inferred: str | None, options: OutputOptions, where: str
    ) -> OutputDecoder:
        """Return the decoder of an output.

        Args:
            output: output of the network.
            image: input of the network.
            inferred: meaning of the values according to the graph; None if unknown.
            options: meaning as the user specifies it.
            where: file, for messages.

        Raises:
            FileFormatError: the output is not a segmentation.
            UsageError: an option has no effect on the output, or is missing.
        """
        layout, channels, remarks = _find_channels(output, image, where)
        is_float, is_mask = output.dtype.startswith("float"), output.dtype == "bool"
        if channels > MAX_CLASSES or (is_mask and channels > 1):
            raise _not_segmentation(output, image.size, where)
        if channels > 1 or not is_float:
            if options.values not in (None, LOGITS if channels > 1 else LABELS) or options.threshold is not None:
                raise UsageError(
                    f"{where} returns {output}: --output-values and --threshold are for one channel of floats"
                )
            if channels > 1:
                remarks += _describe_scores(output, channels, inferred)
            return cls(output, image.size, layout, channels, LOGITS if channels > 1 else LABELS, remarks=remarks)
        return cls._for_mask(output, image.size, layout, options.values or inferred, options, where)

    @classmethod
    def _for_mask(
        cls,
        output: TensorSpec,
        size: tuple[int, int],
        layout: str,
        values: str | None,
        options: OutputOptions,
        where: str,
    ) -> OutputDecoder:
        """Return the decoder of an output with one channel of floats."""
        if values is None:
            raise UsageError(
                f"{where} returns {output}, one channel whose meaning the file does not specify: add --output-values "
                f"{LOGITS}, {PROBABILITIES} or {LABELS}"
            )
        if values == LABELS:
            if options.threshold is not None:
                raise UsageError(f"{where} returns {output}, a label map: omit --threshold")
            remark = f"output {output} is taken as a label map in floats (change it with --output-values)"
            return cls(output, size, layout, 1, values, remarks=(remark,))
        threshold = DEFAULT_THRESHOLD if options.threshold is None else options.threshold
        term = "sigmoid(output)" if values == LOGITS else "output"
        remark = (
            f"output {output} is taken as {values} of one class: foreground where {term} > {threshold:g} "
            "(change it with --output-values and --threshold)"
        )
        return cls(output, size, layout, 1, values, threshold, (remark,))

    @property
    def is_mask(self) -> bool:
        """True if the classes are background and foreground."""
        return self.threshold is not None or self.output.dtype == "bool"

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
            return find_largest_channel(maps.astype(np.float32, copy=False), self.size)
        if self.threshold is None:
            return resize_labels(_to_labels(maps[0]), self.size)
        values = maps[0].astype(np.float32, copy=False)
        if self.values == PROBABILITIES and not -ROUNDING <= values.min() <= values.max() <= 1 + ROUNDING:
            raise MeasurementError(
                f"the network returned {values.min():g} to {values.max():g}, which are not probabilities: "
                f"use --output-values {LOGITS}"
            )
        limit = self.threshold if self.values == PROBABILITIES else math.log(self.threshold / (1 - self.threshold))
        return (upsample(values, self.size) > limit).astype(np.uint8)


def _find_channels(output: TensorSpec, image: ImageInput, where: str) -> tuple[str, int, tuple[str, ...]]:
    """Return the layout of an output, its number of channels, and a remark if another layout would fit too.

    Raises:
        FileFormatError: the output does not have the image's proportions.
    """
    shape, is_known = output.shape, output.dtype == "bool" or "int" in output.dtype or "float" in output.dtype
    if is_known and len(shape) == 2 and _is_scaled(shape, image.size):
        return NCHW, 1, ()
    candidates = []
    if is_known and (len(shape) == 3 or (len(shape) == 4 and shape[0] == 1)):
        axes = shape[-3:]
        for layout, size, channels in ((NCHW, axes[1:], axes[0]), (NHWC, axes[:2], axes[2])):
            if _is_scaled(size, image.size):
                candidates.append((size != image.size, layout != image.layout, layout, channels))
    if not candidates:
        raise _not_segmentation(output, image.size, where)
    (resized, _, layout, channels), *others = sorted(candidates)
    is_ambiguous = any(other[0] == resized for other in others)
    return layout, channels, (f"output {output} is read as {layout}",) * is_ambiguous


def _is_scaled(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Return True if a map has the proportions of an image that it is not larger than, up to a row or column."""
    (height, width), (full_height, full_width) = shape, size
    if height > full_height or width > full_width or (height * width == 1 and size != (1, 1)):
        return False
    rows, columns = width * full_height / full_width, height * full_width / full_height
    return abs(height - rows) <= 1 or abs(width - columns) <= 1


def _describe_scores(output: TensorSpec, channels: int, inferred: str | None) -> tuple[str, ...]:
    """Return a remark on scores whose largest is not the class by their definition."""
    if inferred == PROBABILITIES:
        return (f"output {output} has {channels} independent probabilities per pixel: the largest is the class",)
    if not output.dtype.startswith("float"):
        return (f"output {output} is taken as integer scores of {channels} classes: the largest is the class",)
    return ()


def _not_segmentation(output: TensorSpec, size: tuple[int, int], where: str) -> FileFormatError:
    height, width = size
    return FileFormatError(
        f"{where} returns {output}: neither scores (1xCxhxw or 1xhxwxC, at most {MAX_CLASSES} classes) nor a mask or "
        f"label map (1xhxw) with the proportions of the image, {height}x{width}"
    )


def _to_labels(values: NDArray[Any]) -> Labels:
    """Return the values of a mask or label map as bytes.

    Raises:
        MeasurementError: a value is not an integer, or outside a byte's range.
    """
    if np.issubdtype(values.dtype, np.floating) and (values != np.round(values)).any():
        raise MeasurementError(
            f"the network returned {values.min():g} to {values.max():g} with fractions, which are not labels: "
            f"use --output-values {LOGITS} or {PROBABILITIES}"
        )
    if values.dtype not in (np.uint8, np.bool_) and not 0 <= values.min() <= values.max() < MAX_CLASSES:
        raise MeasurementError(
            f"the network returned classes {values.min():g} to {values.max():g}, outside 0 to {MAX_CLASSES - 1}"
        )
    return values.astype(np.uint8, copy=False)


def find_largest_channel(scores: NDArray[np.float32], size: tuple[int, int]) -> Labels:
    """Return the largest channel of every pixel, [C, h, w] -> [*size].

    Channels are upsampled one by one: together they take hundreds of megabytes at Cityscapes' size.
    """
    labels, best = np.zeros(size, np.uint8), upsample(scores[0], size)
    for index in range(1, len(scores)):
        channel = upsample(scores[index], size)
        larger = channel > best
        labels[larger] = index
        np.maximum(best, channel, out=best)
    return labels
