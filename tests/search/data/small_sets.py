"""Small datasets in many layouts, each with the same picture in classes of its own.

Values and colours are those of the datasets' own documents, written down anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from lgc.search.data.datasets import SegmentationDataset, load_dataset
from lgc.search.training.scores import Scores, evaluate_network

VOID = 3
"""Part of the picture without a class; the others are 0, 1 and 2."""
PICTURE = np.array([[VOID] * 12] + [[0] * 12] * 3 + [[1] * 6 + [2] * 6] * 4)
"""The three classes, and a row of void."""
PREDICTED = np.array([[0] * 12] * 4 + [[1] * 3 + [2] * 9] * 4)
"""Half of the second class is taken for the third."""
MIOU = 100 * (1 + 1 / 2 + 2 / 3) / 3
"""Mean intersection over union of the prediction, in percent."""
Part = int | tuple[int, int, int]


@dataclass(frozen=True)
class SmallSet:
    """A dataset with three images.

    Attributes:
        files: Function from a number to the relative paths of an image and its label.
        names: Names of the three classes.
        parts: Label value or colour of the three classes and of void.
        num_classes: Number of classes of the dataset.
        palette: Colour of each value of labels in palette mode; None for another mode.
        extra: Relative path -> content of further files.
        name: Name of the dataset.
        description: Content of a `dataset.yaml` in the folder; None for none.
    """

    files: Callable[[int], tuple[str, str]]
    names: tuple[str, str, str]
    parts: tuple[Part, Part, Part, Part]
    num_classes: int
    palette: Callable[[int], tuple[int, int, int]] | None = None
    extra: tuple[tuple[str, str], ...] = ()
    name: str | None = None
    description: str | None = None

    @property
    def void_is_class(self) -> bool:
        """True if the row of void is read as a class, since nothing describes it."""
        return self.num_classes == len(self.names) + 1

    def write(self, root: Path, split_size: int = 3) -> None:
        """Write images and labels."""
        for number in range(split_size):
            image, label = (root / path for path in self.files(number))
            for path in (image, label):
                path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((*PICTURE.shape, 3), 40 * number, np.uint8)).save(image)
            self.encode(PICTURE).save(label)
        for name, content in self.extra:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content)
        if self.description is not None:
            (root / "dataset.yaml").write_text(self.description)

    def encode(self, picture: npt.NDArray[np.int64]) -> Image.Image:
        """Return a label file."""
        table = np.array(self.parts)
        wide = table.ndim == 1 and table.max() > 255
        file = Image.fromarray(table[picture].astype(np.uint16 if wide else np.uint8))
        if self.palette is not None:
            file = Image.fromarray(table[picture].astype(np.uint8), "L")
            file.putpalette([part for value in range(256) for part in self.palette(value)])
        return file


def voc_colour(index: int) -> tuple[int, int, int]:
    """Return a colour of VOC's colour map: each channel takes every third bit, the lowest first."""
    bits = [[index >> 3 * step + channel & 1 for step in range(3)] for channel in range(3)]
    red, green, blue = (sum(bit << 7 - step for step, bit in enumerate(channel)) for channel in bits)
    return red, green, blue


def mapillary_colour(index: int) -> tuple[int, int, int]:
    """Return the colours of Bird, Road and Ego Vehicle in Mapillary Vistas 1.2, black for Unlabeled."""
    return {0: (165, 42, 42), 13: (128, 64, 128), 64: (120, 10, 10)}.get(index, (0, 0, 0))


_OWN = """name: greenhouse
images: photos/*.png
labels: truth/*_gt.png
splits: {train: {list: lists/a.txt}, val: {list: lists/b.txt}}
classes: {leaf: "#00ff00", fruit: "#ff0000", soil: "#604020"}
values: [1000, 2000, 65535]
ignore: 7
"""

SMALL_SETS = {
    "cityscapes": SmallSet(
        lambda n: (
            f"leftImg8bit/val/ulm/ulm_00000{n}_000019_leftImg8bit.png",
            f"gtFine/val/ulm/ulm_00000{n}_000019_gtFine_labelIds.png",
        ),
        ("bicycle", "road", "car"),
        (33, 7, 26, 3),
        19,
    ),
    "cityscapes-coarse": SmallSet(
        lambda n: (
            f"leftImg8bit/val/ulm/ulm_00000{n}_000019_leftImg8bit.png",
            f"gtCoarse/val/ulm/ulm_00000{n}_000019_gtCoarse_labelIds.png",
        ),
        ("bicycle", "road", "car"),
        (33, 7, 26, 3),
        19,
        name="cityscapes",
    ),
    "camvid": SmallSet(
        lambda n: (f"701_StillsRaw_full/Seq05VD_f0{n}000.png", f"LabeledApproved_full/Seq05VD_f0{n}000_L.png"),
        ("sky", "bicyclist", "car"),
        # Sky, MotorcycleScooter and SUVPickupTruck.
        ((128, 128, 128), (192, 0, 192), (64, 128, 192), (0, 0, 0)),
        11,
        extra=(("val.txt", "Seq05VD_f00000\nSeq05VD_f01000\nSeq05VD_f02000\n"), ("test.txt", "\n")),
    ),
    "camvid-segnet": SmallSet(
        lambda n: (f"val/0016E5_0{n}001.png", f"valannot/0016E5_0{n}001.png"),
        ("sky", "bicyclist", "car"),
        (0, 10, 8, 11),
        11,
    ),
    "camvid-lists": SmallSet(
        lambda n: (f"images/0016E5_0800{n}.png", f"labels/0016E5_0800{n}_L.png"),
        ("sky", "bicyclist", "car"),
        (0, 10, 8, 11),
        11,
    ),
    "voc": SmallSet(
        lambda n: (
            f"VOCdevkit/VOC2012/JPEGImages/2007_00003{n}.jpg",
            f"VOCdevkit/VOC2012/SegmentationClass/2007_00003{n}.png",
        ),
        ("background", "tvmonitor", "person"),
        (0, 20, 15, 255),
        21,
        palette=voc_colour,
        extra=(("VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", "2007_000030\n2007_000031\n2007_000032\n"),),
    ),
    "ade20k": SmallSet(
        lambda n: (
            f"ADEChallengeData2016/images/validation/ADE_val_0000000{n}.jpg",
            f"ADEChallengeData2016/annotations/validation/ADE_val_0000000{n}.png",
        ),
        ("wall", "flag", "bed"),
        (1, 150, 8, 0),
        150,
    ),
    "mapillary": SmallSet(
        lambda n: (f"validation/images/a{n}.jpg", f"validation/v1.2/labels/a{n}.png"),
        ("Bird", "Road", "Ego Vehicle"),
        (0, 13, 64, 65),
        65,
        palette=mapillary_colour,
    ),
    "bdd100k": SmallSet(
        lambda n: (f"bdd100k/images/10k/val/a{n}.jpg", f"bdd100k/labels/sem_seg/masks/val/a{n}.png"),
        ("road", "bicycle", "sky"),
        (0, 18, 10, 255),
        19,
    ),
    "bdd100k-seg": SmallSet(
        lambda n: (f"bdd100k/seg/images/val/a{n}.jpg", f"bdd100k/seg/labels/val/a{n}_train_id.png"),
        ("road", "bicycle", "sky"),
        (0, 18, 10, 255),
        19,
        name="bdd100k",
    ),
    "coco-stuff": SmallSet(
        lambda n: (f"images/val2017/00000000000{n}.jpg", f"annotations/val2017/00000000000{n}.png"),
        ("person", "wood", "stop sign"),
        (0, 181, 12, 255),
        171,
    ),
    "coco-stuff-maps": SmallSet(
        lambda n: (f"val2017/00000000000{n}.jpg", f"stuffthingmaps/val2017/00000000000{n}.png"),
        ("toothbrush", "banner", "cow"),
        (89, 91, 20, 255),
        171,
        name="coco-stuff",
    ),
    "sub-folders": SmallSet(
        lambda n: (f"images/val/a{n}.jpg", f"masks/val/a{n}_mask.png"),
        ("value 0", "value 3", "value 4"),
        (0, 3, 4, 255),
        3,
    ),
    "splits around": SmallSet(
        lambda n: (f"valid/images/a{n}.jpg", f"valid/annotations/a{n}.png"),
        ("colour #fa0009", "colour #050505", "colour #07c800"),
        ((250, 0, 9), (5, 5, 5), (7, 200, 0), (255, 255, 255)),
        4,
    ),
    "own lists": SmallSet(
        lambda n: (f"photos/a{n}.png", f"truth/a{n}_gt.png"),
        ("leaf", "fruit", "soil"),
        (1000, 2000, 65535, 7),
        3,
        extra=(("lists/a.txt", "\n"), ("lists/b.txt", "photos/a0.png\na1\na2.png\n")),
        name="greenhouse",
        description=_OWN,
    ),
}
"""Name -> dataset whose split `val` has three images."""


class Oracle(torch.nn.Module):
    """A network that predicts the same classes for every image."""

    def __init__(self, classes: npt.NDArray[np.int64], num_classes: int) -> None:
        super().__init__()
        self.logits = torch.nn.functional.one_hot(torch.from_numpy(classes), num_classes).permute(2, 0, 1)[None].float()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits


def score_small_set(small_set: SmallSet, root: Path) -> tuple[SegmentationDataset, Scores]:
    """Return the dataset in a folder, and the scores of the known prediction on it."""
    dataset = load_dataset(root, "val")
    order = np.array([*map(dataset.classes.index, small_set.names)])
    scores, size = evaluate_network(Oracle(order[PREDICTED], dataset.num_classes), dataset)
    assert size == PICTURE.shape
    return dataset, scores
