"""Write predicted classes in the format of the dataset's labels, as its evaluation scripts expect them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...errors import DataError, OutputError
from ...files import ensure_folder, write_atomic
from .reading import Coding, RawLabel, pack_colours, read_raw_label, resolve_palette, unpack_colour

if TYPE_CHECKING:
    from .datasets import SegmentationDataset
    from .description import DatasetSpec
    from .labels import LabelMap
    from .pairs import Pair

MAX_COLOUR_SAMPLES = 16
"""Number of labels that are read to see whether their colours count."""


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
        labels = _sample_labels(spec) if spec.predictions is None else []
        if spec.predictions == "indices" or not (spec.predictions or any(label.is_coloured for _, label in labels)):
            return cls(_fill(spec.values, np.uint8 if max(spec.values) < 256 else np.uint16))
        by_class = {index: colour for colour, index in [*coding.colours.items()][::-1]}
        colours = [unpack_colour(by_class[i]) if i in by_class else rgb for i, rgb in enumerate(spec.palette)]
        palettes = {
            None if raw.palette is None else tuple(raw.palette.tolist())
            for raw, label in labels
            if label.is_coloured or raw.palette is not None
        }
        palette = palettes.pop() if len(palettes) == 1 else None
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


def has_coloured_labels(spec: DatasetSpec, coding: Coding) -> bool:
    """Return True if labels are read by colours: as the coding says, else if one of a sample is.

    The others, e.g. black ones with one channel, may belong to labels of either kind.
    """
    if coding.kind is not None:
        return coding.kind != "indices"
    return any(label.is_coloured for _, label in _sample_labels(spec))


def _sample_labels(spec: DatasetSpec) -> list[tuple[RawLabel, RawLabel]]:
    """Return a few labels of all splits as they are on disk, and as they are read, by index or by colour."""
    pairs = [(pair.label, pair) for pairs in spec.matched.values() for pair in pairs if pair.label is not None]
    labels = list[tuple[RawLabel, RawLabel]]()
    for label, pair in pairs[:: len(pairs) // MAX_COLOUR_SAMPLES + 1]:
        with suppress(DataError):  # reported where it is used
            raw = read_raw_label(label, pair.image)
            labels.append((raw, resolve_palette(raw, pair.coding)))
    return labels
