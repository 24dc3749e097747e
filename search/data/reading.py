"""Read images and labels; a damaged or invalid file is a `DataError` that names it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...errors import DataError
from ...models.images import decode_image
from .labels import (
    CAMVID_INDEX_TO_TRAIN,
    CAMVID_VOID,
    CITYSCAPES_CLASSES,
    CITYSCAPES_MAX_ID,
    ID_TO_TRAIN_ID,
    IGNORE,
    LabelMap,
    camvid_rgb_to_index,
)


@dataclass(frozen=True, eq=False)
class Coding:
    """Meaning of the pixel values in a label file.

    Attributes:
        name: Name of the values in messages.
        max_value: Largest valid value. 255 is valid too and always void: Cityscapes writes id -1 as 255.
        classes: Class of each value, uint8 [256]; 255 is void.
        decode_rgb: Function from an RGB label [H, W, 3] to classes [H, W]; None if labels have one channel only.
    """

    name: str
    max_value: int
    classes: LabelMap
    decode_rgb: Callable[[npt.NDArray[np.uint8]], LabelMap] | None = None


def class_indices(num_classes: int) -> Coding:
    """Return the coding of labels whose values are the classes, 0..(num_classes - 1)."""
    return Coding(f"class indices (0..{num_classes - 1})", num_classes - 1, np.arange(256, dtype=np.uint8))


CITYSCAPES_IDS = Coding("Cityscapes label ids (0..33)", CITYSCAPES_MAX_ID, ID_TO_TRAIN_ID)
CITYSCAPES_TRAIN_IDS = Coding(
    "Cityscapes train ids (0..18)", len(CITYSCAPES_CLASSES) - 1, np.arange(256, dtype=np.uint8)
)
CAMVID = Coding(
    "CamVid indices (0..11) or CamVid's 32 colours", CAMVID_VOID, CAMVID_INDEX_TO_TRAIN, camvid_rgb_to_index
)


def read_image(path: Path) -> Image.Image:
    """Read an image as 8-bit RGB.

    Raises:
        DataError: The file cannot be decoded.
    """
    return decode_image(path).convert("RGB")


def read_label(path: Path, coding: Coding) -> LabelMap:
    """Read a label as classes: uint8 [H, W], 0..(num_classes - 1), and 255 for void.

    Raises:
        DataError: The file cannot be decoded, or has a value or colour that is not in `coding`.
    """
    file = decode_image(path)
    if coding.decode_rgb is not None and file.mode in ("RGB", "RGBA"):
        try:
            return coding.decode_rgb(np.asarray(file.convert("RGB")))
        except ValueError as error:
            raise DataError(f"{path} contains {error}, expected {coding.name}") from error
    if len(file.getbands()) != 1 or file.mode == "F":
        raise DataError(f"{path} is an image of mode {file.mode}, expected {coding.name}")
    values: npt.NDArray[np.int64] = np.asarray(file).astype(np.int64)
    invalid = (values < 0) | ((values > coding.max_value) & (values != IGNORE))
    if invalid.any():
        raise DataError(f"{path} contains the value {int(values[invalid][0])}, expected {coding.name}")
    label: LabelMap = coding.classes[values]
    return label
