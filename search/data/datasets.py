"""Segmentation datasets for torch."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from ...errors import DataError, UsageError
from ...models.images import normalise_image, read_pixels
from .description import DatasetSpec, read_dataset
from .labels import IGNORE, LabelMap
from .pairs import Pair
from .reading import read_label
from .views import augment_pair, resize_pair

Size = tuple[int, int]


class SegmentationDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Images and labels of one split.

    An item is an image, float32 [3, H, W], normalised as the dataset's description says, and a label, int64 [H, W],
    0..(num_classes - 1); pixels with `ignore_index` are neither trained nor evaluated. Files are checked when read.

    Attributes:
        spec: Description of the dataset.
        name: Name of the dataset; of a known layout, the layout's.
        classes: Names of the classes.
        palette: Colour of each class, 0..255.
        num_classes: Number of classes.
        normalisation: Normalisation of the images.
        ignore_index: Label of void pixels, 255.
        pairs: Files of the split.
        size: Height and width of the items; None keeps the size of each file.
        crop: Height and width of augmented items; None for `size`.
        augment: True if items are random views.
        seed: Seed of the random views.
        full_labels: True if labels keep the size of their file, for evaluation.
    """

    ignore_index = IGNORE

    def __init__(
        self,
        spec: DatasetSpec,
        pairs: Sequence[Pair],
        size: Size | None = None,
        augment: bool = False,
        seed: int = 0,
        crop: Size | None = None,
        full_labels: bool = False,
    ) -> None:
        """Create a dataset from its description and the pairs of a split; see `load_dataset` for the other arguments.

        Raises:
            UsageError: Empty size or crop, negative seed, crop without `augment`, or full labels with `augment`.
        """
        for name, sides in (("size", size), ("crop", crop)):
            if sides is not None and min(sides) < 1:
                raise UsageError(f"{name} must be at least 1x1 pixel, got {sides[0]}x{sides[1]}")
        if seed < 0:
            raise UsageError(f"the dataset's seed must be 0 or more, got {seed}")
        if crop is not None and not augment:
            raise UsageError("a crop requires augment=True")
        if full_labels and augment:
            raise UsageError("full_labels cannot be combined with augment")
        self.spec = spec
        self.name, self.classes, self.palette = spec.name, spec.classes, spec.palette
        self.num_classes = spec.num_classes
        self.normalisation = spec.normalisation
        self.pairs = tuple(pairs)
        self.size, self.crop, self.augment, self.seed = size, crop, augment, seed
        self.full_labels = full_labels

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pairs)

    def select(self, indices: Sequence[int]) -> SegmentationDataset:
        """Return a dataset of the images at `indices`, with the same settings."""
        return SegmentationDataset(
            self.spec,
            [self.pairs[i] for i in indices],
            self.size,
            self.augment,
            self.seed,
            self.crop,
            self.full_labels,
        )

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return image [3, H, W] and label [H, W] at `index`, in the view of epoch 0.

        Raises:
            DataError: A file is damaged, a label has an invalid value, or its size differs from the image's.
            IndexError: `index` is out of range.
        """
        return self.view(index, 0)

    def view(self, index: int, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the item at `index` in the view of `epoch`, which follows from seed, epoch and index alone."""
        image, label = _read(self.pairs[index])
        size = self.size or (image.height, image.width)
        if self.augment:
            rng = np.random.default_rng((self.seed, epoch, index % len(self)))
            mean = tuple(min(max(round(255 * value), 0), 255) for value in self.normalisation.mean)
            pixels, classes = augment_pair(image, label, size, self.crop or size, rng, padding=mean)
        else:
            pixels, classes = resize_pair(image, label, size)
        return torch.from_numpy(normalise_image(pixels, self.normalisation)), torch.from_numpy(
            (label if self.full_labels else classes).astype(np.int64)
        )


def _read(pair: Pair) -> tuple[Image.Image, LabelMap]:
    """Return an image and its label; the label is all void if there is no file."""
    image = Image.fromarray(read_pixels(pair.image))
    size = (image.height, image.width)
    if pair.label is None:
        return image, np.full(size, IGNORE, dtype=np.uint8)
    label = read_label(pair.label, pair.coding, pair.image)
    if label.shape != size:
        height, width = label.shape
        message = f"{pair.label} is {height}x{width} pixels, its image {pair.image.name} {size[0]}x{size[1]}"
        with Image.open(pair.image) as file:
            if file.size[::-1] == label.shape:
                message += " after its EXIF rotation: rotate the label too, or remove the image's EXIF orientation"
        raise DataError(message)
    return image, label


def load_dataset(
    data: str | os.PathLike[str] | DatasetSpec,
    split: str,
    size: Size | None = None,
    augment: bool = False,
    seed: int = 0,
    crop: Size | None = None,
    full_labels: bool = False,
) -> SegmentationDataset:
    """Open a split of a dataset.

    Args:
        data: A `dataset.yaml`, or the folder of a dataset, see `description.read_dataset`; or an opened dataset, whose
            files are not looked up again.
        split: `train`, `val` or `test`; Cityscapes also has `train_extra` (coarse labels).
        size: Height and width to resize to, images bilinear, labels nearest; None keeps the size of each file.
        augment: Return random views, see `views.augment_pair`.
        seed: Seed of the random views, 0 or more.
        crop: Height and width of the random views; None for `size`.
        full_labels: Keep labels at the size of their files, for evaluation.

    Raises:
        UnknownNameError: `split` is not a split.
        FileFormatError: The YAML file is invalid.
        DataError: The folder is missing, empty or of an unknown layout, the split has no images, or an image has no
            label.
        UsageError: Invalid size, crop or seed.
    """
    spec = data if isinstance(data, DatasetSpec) else read_dataset(data)
    return SegmentationDataset(spec, spec.pairs(split), size, augment, seed, crop, full_labels)


def require_classes(dataset: SegmentationDataset, classes: int, space: str) -> None:
    """Check that a dataset has as many classes as a search space.

    Raises:
        DataError: The numbers differ.
    """
    if dataset.num_classes != classes:
        raise DataError(
            f"the dataset {dataset.name} has {dataset.num_classes} classes, the network's space {space} has "
            f"{classes}: search a network for this dataset with lgc-search --data, and a table from "
            f"lgc-profile --classes {dataset.num_classes}"
        )


def split_halves(dataset: SegmentationDataset, seed: int = 0) -> tuple[SegmentationDataset, SegmentationDataset]:
    """Split a dataset at random into two halves, for the weights and for the architecture of a bi-level search.

    The same seed gives the same halves. If the number is odd, the first half has one image more.

    Raises:
        DataError: Fewer than two images.
        UsageError: Negative seed.
    """
    if seed < 0:
        raise UsageError(f"the seed of the split must be 0 or more, got {seed}")
    if len(dataset) < 2:
        raise DataError(f"a search needs at least 2 training images, one per half, got {len(dataset)}")
    order = np.random.default_rng(seed).permutation(len(dataset)).tolist()
    middle = (len(order) + 1) // 2
    return dataset.select(sorted(order[:middle])), dataset.select(sorted(order[middle:]))
