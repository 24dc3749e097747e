"""Preprocessing: an RGB image of the network's size becomes the network's input."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ...models.images import IMAGENET, Normalisation, RGBImage, list_pixel_scales, normalise_image
from ...models.onnx.model import OnnxModel
from ...models.onnx.signature import NHWC, ImageInput, Signature
from ..backends.base import IMAGE_DTYPE
from .input_normalisation import infer_input_normalisation
from .output_values import StoredValues, infer_input_quantisation

Triple = tuple[float, float, float]
"""Value per channel: red, green, blue."""

UNIT_RANGE, BYTE_RANGE = "0..1", "0..255"
VALUE_RANGES = {UNIT_RANGE: 1.0, BYTE_RANGE: 255.0}
"""Range of pixel values that mean and standard deviation refer to -> its upper end."""
STORED_MARGIN = 0.6
"""Largest difference of the limits of a quantised input from those of ImageNet's normalisation, -2.1 and 2.6."""
ZEROS: Triple = (0.0, 0.0, 0.0)
ONES: Triple = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class InputOptions:
    """Preprocessing as the user specifies it; None or False where unspecified.

    Attributes:
        mean: subtracted mean; 0 if only `std` or `value_range` is given.
        std: standard deviation to divide by; 1 if only `mean` or `value_range` is given.
        value_range: a name of `VALUE_RANGES`; inferred from `mean` and `std` where they allow only one.
        bgr: True if the network takes blue, green, red. `mean` and `std` are in the order red, green, blue even so.
        layout: `NCHW` or `NHWC`.
    """

    mean: Triple | None = None
    std: Triple | None = None
    value_range: str | None = None
    bgr: bool = False
    layout: str | None = None

    @property
    def normalises(self) -> bool:
        """True if any option of the normalisation is given."""
        return any(option is not None for option in (self.mean, self.std, self.value_range))

    @property
    def resolved_range(self) -> str:
        """Given range, else the only one that mean and standard deviation allow.

        Below 1 a value must refer to 0..1, above 1 to 0..255; 0 and 1 may refer to both.

        Raises:
            UsageError: they allow both ranges or none, or the mean is outside the given range.
        """
        mean, std = self.mean or ZEROS, self.std or ONES
        evidence = [name for name, scale in VALUE_RANGES.items() if scale in list_pixel_scales(mean, std)]
        if self.value_range is None:
            if len(evidence) == 1:
                return evidence[0]
            raise UsageError(
                f"--mean {_format(mean)} and --std {_format(std)} fit {'both ranges' if not evidence else 'no range'} "
                "of pixel values: add --range 0..1 or --range 0..255"
            )
        if max(map(abs, mean)) > VALUE_RANGES[self.value_range]:
            raise UsageError(f"--mean {_format(mean)} is outside --range {self.value_range}")
        return self.value_range

    @property
    def normalisation(self) -> Normalisation:
        """Mean and standard deviation in 0..1.

        Raises:
            UsageError: the range is ambiguous, or a value is invalid.
        """
        scale = VALUE_RANGES[self.resolved_range]
        mean, std = (_map(values, scale) for values in (self.mean or ZEROS, self.std or ONES))
        return Normalisation(mean, std)

    @property
    def channel_order(self) -> str:
        """Order of the input's channels."""
        return "BGR" if self.bgr else "RGB"

    def describe(self) -> tuple[str, ...]:
        """Return the normalisation in a sentence, and a warning where red and blue seem to be swapped."""
        remark = (
            f"input: {self.channel_order}, pixels in {self.resolved_range}, mean {_describe(self.mean or ZEROS)}, std "
            f"{_describe(self.std or ONES)}"
        )
        if np.allclose(self.normalisation.mean[::-1], IMAGENET.mean, atol=0.01):
            return remark, "warning: --mean seems to be in the order blue, green, red: give red first, also with --bgr"
        return (remark,)


@dataclass(frozen=True)
class Preprocessing:
    """Conversion of an RGB image of the network's size to the network's input.

    Attributes:
        image: input of the network.
        normalisation: mean and standard deviation per channel; None for an input of bytes.
        bgr: True if the channels of the input are blue, green, red.
        remarks: assumptions, as sentences without a full stop.
        stored: scale of a normalised image in bytes; None for floats, and for bytes that are pixels.
    """

    image: ImageInput
    normalisation: Normalisation | None
    bgr: bool = False
    remarks: tuple[str, ...] = ()
    stored: StoredValues | None = None

    @classmethod
    def for_network(cls, network: Signature, options: InputOptions) -> Preprocessing:
        """Return the preprocessing that the file's metadata or the options specify, by default ImageNet's.

        Options precede the metadata of other programs, and may not contradict those of files of lgc.

        Raises:
            FileFormatError: the input is not an image, or the metadata is damaged.
            UsageError: an option contradicts the file, or options are missing or ambiguous.
        """
        image, known = network.image_input(options.layout), network.normalisation
        stored = None
        if image.dtype == IMAGE_DTYPE and isinstance(network, OnnxModel):
            stored = infer_input_quantisation(network.skeleton, image.name)
        if network.is_lgc_export and options.bgr:
            raise UsageError(f"{network.where} takes red, green, blue: omit --bgr")
        if image.dtype == IMAGE_DTYPE and stored is None:
            if options.normalises:
                raise UsageError(f"{network.where} takes bytes, 0 to 255: omit --mean, --std and --range")
            return cls(image, None, options.bgr)
        if network.is_lgc_export and known is not None:
            if options.normalises and not _is_close(options.normalisation, known):
                raise UsageError(
                    f"{network.where} was trained with mean {_format(known.mean)} and std {_format(known.std)} in "
                    "0..1: omit --mean, --std and --range"
                )
            return cls(image, known, stored=stored)
        note = () if stored is None else (f"input: the normalised image is stored as {_describe_stored(stored)}",)
        if options.normalises:
            return cls(image, options.normalisation, options.bgr, (*options.describe(), *note), stored)
        if known is not None:
            scale = network.normalisation_scale
            mean, std = (_describe(_map(values, 1 / scale)) for values in (known.mean, known.std))
            remark = (
                f"input: {options.channel_order}, normalised as in the file's metadata: pixels in 0..{scale:g}, mean "
                f"{mean}, std {std} (change it with --mean, --std and --range)"
            )
            return cls(image, known, options.bgr, (remark, *note), stored)
        if stored is not None and not _holds_imagenet(stored):
            raise UsageError(
                f"{network.where} takes bytes that it converts to {_describe_stored(stored)}: the image is normalised "
                "and converted to such bytes: add --range 0..1 or 0..255, or --mean and --std"
            )
        if stored is None and isinstance(network, OnnxModel):
            _require_raw_pixels(network, image)
        remark = (
            f"{network.where} does not specify its normalisation: {options.channel_order} with ImageNet's mean and std "
            "is assumed; change it with --mean, --std, --range and --bgr"
        )
        return cls(image, IMAGENET, options.bgr, (remark, *note), stored)

    def apply(self, frame: RGBImage) -> NDArray[np.generic]:
        """Return the network's input for an RGB image of its size, [H, W, 3] -> [1, ...]."""
        known = self.normalisation
        channels = np.moveaxis(frame, -1, 0) if known is None else normalise_image(frame, known)
        ordered = channels[::-1] if self.bgr else channels
        array = np.moveaxis(ordered, 0, -1) if self.image.layout == NHWC else ordered
        if self.stored is not None:
            stored = np.clip(np.round(array / self.stored.scale) + self.stored.zero_point, 0, 255)
            return np.ascontiguousarray(stored[None], self.image.dtype)
        return np.ascontiguousarray(array[None], self.image.dtype)


def _require_raw_pixels(network: OnnxModel, image: ImageInput) -> None:
    """Check that the graph does not normalise its input itself: a normalised image would be normalised twice.

    Raises:
        UsageError: it does.
    """
    inner = infer_input_normalisation(network, image)
    if inner is None:
        return
    ranges = {scale: name for name, scale in VALUE_RANGES.items()}
    likely = "" if inner.scale is None else f"{ranges[inner.scale]}, as these numbers suggest, or "
    raise UsageError(
        f"{network.where} normalises its input itself{inner.describe()}: add --range {likely}"
        f"{'another range' if likely else '0..1 or 0..255'}, or --mean and --std of a further normalisation"
    )


def _holds_imagenet(stored: StoredValues) -> bool:
    """Return True if the range of these bytes is about that of pixels normalised by ImageNet's statistics."""
    limits = [(value - np.array(IMAGENET.mean)) / np.array(IMAGENET.std) for value in (0, 1)]
    differences = np.subtract(_list_limits(stored), (limits[0].min(), limits[1].max()))
    return bool(np.abs(differences).max() <= STORED_MARGIN)


def _list_limits(stored: StoredValues) -> tuple[float, float]:
    """Return the values of the smallest and the largest byte."""
    return stored.scale * (0 - stored.zero_point), stored.scale * (255 - stored.zero_point)


def _describe_stored(stored: StoredValues) -> str:
    """Return the scale of an input of bytes as a term, with its range."""
    lowest, highest = _list_limits(stored)
    return f"{stored.scale:.4g} * (byte - {stored.zero_point:g}), {lowest:.3g} to {highest:.3g}"


def _map(values: Iterable[float], scale: float) -> Triple:
    """Return three values divided by `scale`."""
    red, green, blue = (value / scale for value in values)
    return red, green, blue


def _format(values: Iterable[float]) -> str:
    """Return values as the options take them; a single one if all are equal."""
    texts = [f"{value:g}" for value in values]
    return texts[0] if len(set(texts)) == 1 else ",".join(texts)


def _describe(values: Triple) -> str:
    """Return values with the names of their channels."""
    red, green, blue = values
    return _format(values) if red == green == blue else f"red {red:g}, green {green:g}, blue {blue:g}"


def _is_close(first: Normalisation, second: Normalisation) -> bool:
    """Return True if two normalisations differ by rounding only."""
    return bool(np.allclose((first.mean, first.std), (second.mean, second.std), atol=1e-3))
