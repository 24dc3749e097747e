"""Write predicted classes in the format of the dataset's labels, as its evaluation scripts expect them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...errors import OutputError
from ...files import ensure_folder, write_atomic
from .codings.raw import pack_colours, unpack_colour

if TYPE_CHECKING:
    from .codings.coding import Coding
    from .datasets import SegmentationDataset
    from .description import DatasetSpec
    from .labels import LabelMap
    from .pairs import Pair


class PredictionWriter:
    """Write the predictions for a dataset into one folder.

    A file has the label's name, with its folder where names repeat, and the dataset's own label values, colours or
    palette; of a class with several, the first.
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
        self._pixels = _Pixels.for_dataset(dataset.spec, dataset.pairs[0].coding)
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
        self._pixels.encode(classes).save(buffer, format="PNG", compress_level=3)
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


@dataclass(frozen=True)
class _Pixels:
    """Pixels of predictions.

    Attributes:
        table: Label value of each class, [256], or its colour, [256, 3].
        palette: Colour of each value, RGB bytes, for files in palette mode; else None.
    """

    table: npt.NDArray[np.unsignedinteger]
    palette: bytes | None = None

    @classmethod
    def for_dataset(cls, spec: DatasetSpec, coding: Coding) -> _Pixels:
        """Return pixels as the description says, else as those of the label files are read.

        Where the colours of palettes count, files have the labels' palette if that is the same for all, else RGB.
        """
        if spec.predictions == "indices" or not (spec.predictions or coding.is_coloured):
            codings = {
                name: [spec.codings[files.coding] for files in split.labels] for name, split in spec.splits.items()
            }
            numbers = next(spec.values[name] for name, own in codings.items() if coding in own)
            return cls(_fill(numbers, np.uint8 if max(numbers) < 256 else np.uint16))
        by_class = {index: colour for colour, index in [*coding.colours.items()][::-1]}
        colours = [unpack_colour(by_class[i]) if i in by_class else rgb for i, rgb in enumerate(spec.palette)]
        palettes = [*coding.evidence.palettes] if spec.predictions is None else []
        palette = palettes[0] if len(palettes) == 1 else None
        codes = pack_colours(colours).tolist()
        if palette is None or not {*codes} <= {*palette}:
            return cls(_fill(colours, np.uint8))
        values = [palette.index(code) for code in codes]
        used = palette[: max(values) + 1]  # what fills up the rest would make files ambiguous
        return cls(_fill(values, np.uint8), bytes(channel for code in used for channel in unpack_colour(code)))

    def encode(self, classes: LabelMap) -> Image.Image:
        """Return classes [H, W] as an image."""
        image = Image.fromarray(self.table[classes])
        if self.palette is not None:
            image.putpalette(self.palette)
        return image


def _fill(entries: npt.ArrayLike, dtype: type[np.unsignedinteger]) -> npt.NDArray[np.unsignedinteger]:
    """Return a table of 256 rows that begins with `entries`."""
    rows = np.asarray(entries, dtype)
    table = np.zeros((256, *rows.shape[1:]), dtype)
    table[: len(rows)] = rows
    return table
