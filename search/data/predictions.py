"""Write predicted classes in the format of the dataset's labels, as its evaluation scripts expect them."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...errors import OutputError
from ...files import ensure_folder, write_atomic
from ...models.palettes import colourise_labels
from .datasets import SegmentationDataset
from .description import DatasetSpec
from .labels import LabelMap
from .pairs import Pair
from .reading import read_raw_label


class PredictionWriter:
    """Write the predictions for a dataset into one folder.

    A file has the label's name and the dataset's own label values or colours; of a class with several, the first.
    Cityscapes: `<city>_<sequence>_<frame>_leftImg8bit_pred.png` in regular label ids, which
    `csEvalPixelLevelSemanticLabeling` reads with CITYSCAPES_RESULTS set to the folder. CamVid: colours for the original
    layout, else indices.

    Args:
        folder: Created if it does not exist; earlier predictions are overwritten.
        dataset: Dataset of the images.

    Raises:
        OutputError: The folder cannot be written, or predictions would overwrite files of the dataset.
    """

    def __init__(self, folder: Path, dataset: SegmentationDataset) -> None:
        self._spec = dataset.spec
        self._coloured = _needs_colours(dataset.spec, dataset.pairs)
        self.paths = [folder / name_prediction(dataset.spec, pair) for pair in dataset.pairs]
        inputs = {path.resolve() for pair in dataset.pairs for path in (pair.image, pair.label) if path is not None}
        if inputs & {path.resolve() for path in self.paths}:
            raise OutputError(
                f"{folder} contains files of the dataset that predictions would overwrite: choose another folder"
            )
        ensure_folder(folder)

    def write(self, index: int, classes: LabelMap) -> None:
        """Write the classes of the dataset's image `index`, uint8 [H, W], 0..(num_classes - 1).

        Raises:
            OutputError: The file cannot be written.
        """
        buffer = BytesIO()
        Image.fromarray(encode_classes(self._spec, classes, self._coloured)).save(
            buffer, format="PNG", compress_level=3
        )
        write_atomic(self.paths[index], buffer.getvalue())


def name_prediction(spec: DatasetSpec, pair: Pair) -> str:
    """Return the file name of a prediction: the dataset's own, else that of the label or image, as `.png`."""
    if spec.prediction_name is not None:
        return spec.prediction_name.replace("{stem}", pair.image.stem)
    return f"{(pair.label or pair.image).stem}.png"


def _needs_colours(spec: DatasetSpec, pairs: Iterable[Pair]) -> bool:
    """Return True if predictions are colours, as the description says, else as the first label says.

    Raises:
        DataError: The label cannot be read.
    """
    if spec.predictions is not None:
        return spec.predictions == "colours"
    known = chain(pairs, *(split.pairs() for split in spec.splits.values() if split.exists()))
    label = next((pair.label for pair in known if pair.label is not None), None)
    return label is not None and read_raw_label(label).is_coloured


def encode_classes(spec: DatasetSpec, classes: LabelMap, coloured: bool) -> npt.NDArray[np.unsignedinteger]:
    """Convert classes [H, W] to the dataset's label values [H, W], or colours [H, W, 3]."""
    if coloured:
        return colourise_labels(classes, spec.palette)
    table = np.zeros(256, dtype=np.uint16)
    table[: spec.num_classes] = spec.values
    return table[classes].astype(np.uint8 if max(spec.values) < 256 else np.uint16)
