"""Reads images and labels; whatever is wrong with a file is a `DataError` that names it."""

from __future__ import annotations

from enum import Enum
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


class Coding(Enum):
    """What the values of a label file mean."""

    CITYSCAPES_IDS = "Cityscapes label ids (0..33)"
    CITYSCAPES_TRAIN_IDS = "Cityscapes train ids (0..18)"
    CAMVID = "CamVid indices (0..11) or CamVid's 32 colours"


# The largest value, and the table from values to classes. 255 is void everywhere: Cityscapes writes id -1 so.
_TABLES: dict[Coding, tuple[int, LabelMap]] = {
    Coding.CITYSCAPES_IDS: (CITYSCAPES_MAX_ID, ID_TO_TRAIN_ID),
    Coding.CITYSCAPES_TRAIN_IDS: (len(CITYSCAPES_CLASSES) - 1, np.arange(256, dtype=np.uint8)),
    Coding.CAMVID: (CAMVID_VOID, CAMVID_INDEX_TO_TRAIN),
}


def read_image(path: Path) -> Image.Image:
    """Read an image as RGB, 8 bits.

    Raises:
        DataError: where the file cannot be decoded.
    """
    return decode_image(path).convert("RGB")


def read_label(path: Path, coding: Coding) -> LabelMap:
    """Read a label as classes: uint8 [H, W], 0..(classes - 1), and 255 for void.

    Raises:
        DataError: where the file cannot be decoded, or holds a value or a colour that `coding` does not know.
    """
    file = decode_image(path)
    if coding is Coding.CAMVID and file.mode in ("RGB", "RGBA"):
        try:
            return camvid_rgb_to_index(np.asarray(file.convert("RGB")))
        except ValueError as error:
            raise DataError(f"{path} holds {error}, which is none of CamVid's 32") from error
    if len(file.getbands()) != 1 or file.mode == "F":
        raise DataError(f"{path} is a {file.mode} image, not one of {coding.value}")
    values: npt.NDArray[np.int64] = np.asarray(file).astype(np.int64)
    largest, table = _TABLES[coding]
    foreign = (values < 0) | ((values > largest) & (values != IGNORE))
    if foreign.any():
        raise DataError(f"{path} holds the value {int(values[foreign][0])}, which is none of the {coding.value}")
    label: LabelMap = table[values]
    return label
