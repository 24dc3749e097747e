"""Writes predicted classes to disk, in the coding in which the data set's own labels, and its scorer, have them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...errors import OutputError
from ...files import ensure_folder, write_atomic
from ...models.palettes import colourise_labels
from .datasets import SegmentationDataset
from .labels import CAMVID_PALETTE, TRAIN_ID_TO_ID, LabelMap
from .pairs import Pair


def _same(classes: LabelMap) -> LabelMap:
    return classes


def _cityscapes_ids(classes: LabelMap) -> LabelMap:
    ids: LabelMap = TRAIN_ID_TO_ID[classes]
    return ids


_ENCODE: dict[str, Callable[[LabelMap], npt.NDArray[np.uint8]]] = {
    "cityscapes": _cityscapes_ids,
    "camvid": partial(colourise_labels, palette=CAMVID_PALETTE),
    "camvid-segnet": _same,
    "camvid-lists": _same,
}


class PredictionWriter:
    """Writes predictions into one folder.

    For Cityscapes `<city>_<sequence>_<frame>_leftImg8bit_pred.png` in regular label ids, which
    `csEvalPixelLevelSemanticLabeling` finds with the folder as CITYSCAPES_RESULTS; for CamVid a file of the label's
    name, in colours where the layout is the original one, else in indices.

    Args:
        folder: made if it is not there; files of earlier predictions are replaced.
        dataset: whose images are predicted.

    Raises:
        OutputError: the folder cannot be written, or predictions would replace files of the data set.
    """

    def __init__(self, folder: Path, dataset: SegmentationDataset) -> None:
        self._encode = _ENCODE[dataset.layout]
        self.paths = [folder / _name(pair, dataset.layout) for pair in dataset.pairs]
        own = {path.resolve() for pair in dataset.pairs for path in (pair.image, pair.label) if path is not None}
        if own & {path.resolve() for path in self.paths}:
            raise OutputError(f"{folder} holds files of the data set, which predictions would replace: name another")
        ensure_folder(folder)

    def write(self, index: int, classes: LabelMap) -> None:
        """Write the classes of an image of the data set, uint8 [H, W], 0..(classes - 1).

        Raises:
            OutputError: the file cannot be written.
        """
        buffer = BytesIO()
        Image.fromarray(self._encode(classes)).save(buffer, format="PNG", compress_level=3)
        write_atomic(self.paths[index], buffer.getvalue())


def _name(pair: Pair, layout: str) -> str:
    if layout == "cityscapes":
        return f"{pair.image.stem}_pred.png"
    return f"{(pair.label or pair.image).stem}.png"
