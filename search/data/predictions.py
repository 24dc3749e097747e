"""Write predicted classes in the format of the dataset's labels, as its evaluation scripts expect them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
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

    A file has the label's name, with its folder where names repeat, and the dataset's own label values or colours; of a
    class with several, the first.
    Cityscapes: `<city>_<sequence>_<frame>_leftImg8bit_pred.png` in regular label ids, which
    `csEvalPixelLevelSemanticLabeling` reads with CITYSCAPES_RESULTS set to the folder. CamVid: colours for the original
    layout, else indices.

    Args:
        folder: Created if it does not exist; earlier predictions are overwritten.
        dataset: Dataset of the images.

    Raises:
        OutputError: The folder cannot be written, or predictions would overwrite files of the dataset or each other.
    """

    def __init__(self, folder: Path, dataset: SegmentationDataset) -> None:
        self._spec = dataset.spec
        self._coloured = _needs_colours(dataset.spec, dataset.pairs)
        self.paths = [folder / name for name in name_predictions(dataset.spec, dataset.pairs)]
        inputs = {path.resolve() for pair in dataset.pairs for path in (pair.image, pair.label) if path is not None}
        if inputs & {path.resolve() for path in self.paths}:
            raise OutputError(
                f"{folder} contains files of the dataset that predictions would overwrite: choose another folder"
            )
        for path in {folder, *(path.parent for path in self.paths)}:
            ensure_folder(path)

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


def name_predictions(spec: DatasetSpec, pairs: Sequence[Pair]) -> list[Path]:
    """Return the relative paths of predictions: the dataset's own names, else those of the labels or images, as `.png`.

    If names repeat, all have the folders of the labels or images, below the folder that these have in common.

    Raises:
        OutputError: Two labels in one folder differ in their suffixes only, or are one file.
    """
    files = [pair.label or pair.image for pair in pairs]
    form = spec.prediction_name
    stems = [file.stem if form is None else pair.image.stem for file, pair in zip(files, pairs, strict=True)]
    names = [Path((form or "{stem}.png").replace("{stem}", stem)) for stem in stems]
    if len({*names}) == len(names):
        return names
    folders = [os.path.abspath(file.parent) for file in files]  # noqa: PTH100
    common = os.path.commonpath(folders)
    names = [Path(os.path.relpath(folder, common)) / name for folder, name in zip(folders, names, strict=True)]
    owners = dict[Path, Path]()
    for name, pair in zip(names, pairs, strict=True):
        if owners.setdefault(name, pair.image) != pair.image:
            raise OutputError(
                f"{owners[name]} and {pair.image} would have the same prediction {name}: give their labels own names"
            )
    return names


def _needs_colours(spec: DatasetSpec, pairs: Iterable[Pair]) -> bool:
    """Return True if predictions are colours, as the description says, else as the first label says.

    Raises:
        DataError: The label cannot be read.
    """
    if spec.predictions is not None:
        return spec.predictions == "colours"
    label = _find_label(pairs) or _find_label(chain.from_iterable(spec.matched.values()))
    return label is not None and read_raw_label(label).is_coloured


def _find_label(pairs: Iterable[Pair]) -> Path | None:
    return next((pair.label for pair in pairs if pair.label is not None), None)


def encode_classes(spec: DatasetSpec, classes: LabelMap, coloured: bool) -> npt.NDArray[np.unsignedinteger]:
    """Convert classes [H, W] to the dataset's label values [H, W], or colours [H, W, 3]."""
    if coloured:
        return colourise_labels(classes, spec.palette)
    table = np.zeros(256, dtype=np.uint16)
    table[: spec.num_classes] = spec.values
    return table[classes].astype(np.uint8 if max(spec.values) < 256 else np.uint16)
