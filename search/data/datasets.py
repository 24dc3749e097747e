"""Segmentation data sets as torch sees them."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from ...errors import DataError, UsageError
from ...models.images import normalise_image
from .labels import IGNORE, LabelMap
from .layouts import Layout, list_pairs
from .pairs import Pair
from .reading import read_image, read_label
from .views import augment_pair, resize_pair

_Size = tuple[int, int]


class SegmentationDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Images and labels of one split.

    An item is an image, float32 [3, H, W], normalised by `models.images.normalised`, and a label, int64 [H, W],
    0..num_classes-1, with `ignore_index` where nothing is to be learnt or scored. Files are checked when they are read.

    Attributes:
        layout: name of the layout on disk, one of `layouts.LAYOUTS`.
        classes: names of the classes.
        palette: a colour (0..255) for each class.
        num_classes: how many there are.
        ignore_index: 255.
        pairs: the files.
        size: (height, width) everything is resized to; None keeps each image's own.
        crop: (height, width) of the views an augmented data set gives; None for `size`.
        augment: whether items are random views.
        seed: of the views.
        full_labels: whether labels keep the size of their file, as they are scored, whatever the images' size.
    """

    ignore_index = IGNORE

    def __init__(
        self,
        layout: Layout,
        pairs: Sequence[Pair],
        size: _Size | None = None,
        augment: bool = False,
        seed: int = 0,
        crop: _Size | None = None,
        full_labels: bool = False,
    ) -> None:
        """Take the files as `layouts.list_pairs` gives them; see `load_dataset` for the other arguments.

        Raises:
            UsageError: for a size or a crop without pixels, a negative seed, a crop without `augment`, or full labels
                with it.
        """
        for name, sides in (("size", size), ("crop", crop)):
            if sides is not None and min(sides) < 1:
                raise UsageError(f"{name} must be at least 1x1 pixel, got {sides[0]}x{sides[1]}")
        if seed < 0:
            raise UsageError(f"the data set's seed must be 0 or more, got {seed}")
        if crop is not None and not augment:
            raise UsageError("a crop is cut from augmented images only: pass augment=True or leave it out")
        if full_labels and augment:
            raise UsageError("labels of augmented images are views too: leave out augment or full_labels")
        self.layout = layout.name
        self.classes = layout.classes
        self.palette = layout.palette
        self.num_classes = len(layout.classes)
        self.pairs = tuple(pairs)
        self.size, self.crop, self.augment, self.seed = size, crop, augment, seed
        self.full_labels = full_labels
        self._layout = layout
        # In shared memory, so that workers that outlive an epoch (persistent_workers) see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pairs)

    @property
    def epoch(self) -> int:
        """The epoch whose views are given."""
        return int(self._epoch.item())

    def set_epoch(self, epoch: int) -> None:
        """Choose the views: they follow from seed, epoch and index alone, whatever the number of workers.

        The parts that `select` made share the epoch. Call it between epochs, not while a loader runs.

        Raises:
            UsageError: for a negative epoch.
        """
        if epoch < 0:
            raise UsageError(f"the epoch must be 0 or more, got {epoch}")
        self._epoch.fill_(epoch)

    def select(self, indices: Sequence[int]) -> SegmentationDataset:
        """Return a data set of some of the images, with the same settings and the same epoch."""
        part = SegmentationDataset(
            self._layout,
            [self.pairs[i] for i in indices],
            self.size,
            self.augment,
            self.seed,
            self.crop,
            self.full_labels,
        )
        part._epoch = self._epoch
        return part

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return image [3, H, W] and label [H, W] of one index, in the view of the data set's epoch.

        Raises:
            DataError: where a file is damaged, holds a foreign value, or the label's size is not the image's.
            IndexError: beyond the end.
        """
        return self.view(index, self.epoch)

    def view(self, index: int, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """As `[index]`, in the view of any epoch."""
        image, label = _read(self.pairs[index])
        size = self.size or (image.height, image.width)
        if self.augment:
            rng = np.random.default_rng((self.seed, epoch, index % len(self)))
            pixels, classes = augment_pair(image, label, size, self.crop or size, rng)
        else:
            pixels, classes = resize_pair(image, label, size)
        return torch.from_numpy(normalise_image(pixels)), torch.from_numpy(
            (label if self.full_labels else classes).astype(np.int64)
        )


def _read(pair: Pair) -> tuple[Image.Image, LabelMap]:
    """An image and its label of the same size; all void where there is no label."""
    image = read_image(pair.image)
    own = (image.height, image.width)
    if pair.label is None:
        return image, np.full(own, IGNORE, dtype=np.uint8)
    label = read_label(pair.label, pair.coding)
    if label.shape != own:
        height, width = label.shape
        raise DataError(f"{pair.label} is {height}x{width} pixels, its image {pair.image.name} {own[0]}x{own[1]}")
    return image, label


def load_dataset(
    directory: str | os.PathLike[str],
    split: str,
    size: _Size | None = None,
    augment: bool = False,
    seed: int = 0,
    crop: _Size | None = None,
    full_labels: bool = False,
) -> SegmentationDataset:
    """Open a split of a data set; the layout is found out.

    Args:
        directory: Cityscapes' or CamVid's folder, see `layouts.LAYOUTS`.
        split: `train`, `val` or `test`; Cityscapes also has `train_extra` (coarse labels).
        size: (height, width) to resize to, images bilinear, labels nearest; None keeps each image's own.
        augment: give random views (see `augment.augment_pair`) instead of the images themselves.
        seed: of the random views, 0 or more.
        crop: (height, width) of the random views; None for `size`.
        full_labels: leave the labels at their files' size, to be scored there.

    Raises:
        UnknownNameError: where `split` is no split's name.
        DataError: where the folder is missing, empty or of no known layout, the split has no image, or an image has no
            label.
        UsageError: for a size, crop or seed that makes no sense.
    """
    layout, pairs = list_pairs(directory, split)
    return SegmentationDataset(layout, pairs, size, augment, seed, crop, full_labels)


def require_classes(dataset: SegmentationDataset, classes: int, space: str) -> None:
    """Show that a data set and the network of a space tell the same number of classes apart.

    Raises:
        DataError: they do not.
    """
    if dataset.num_classes != classes:
        raise DataError(
            f"the data set ({dataset.layout}) has {dataset.num_classes} classes, space {space} has {classes}: "
            f"take a space with classes: {dataset.num_classes}"
        )


def split_halves(dataset: SegmentationDataset, seed: int = 0) -> tuple[SegmentationDataset, SegmentationDataset]:
    """Divide a data set at random into the two halves of a bi-level search (weights, architecture).

    The same seed gives the same halves. Of an odd number the first half has one more. Both share the data set's epoch.

    Raises:
        DataError: where there are fewer than two images.
        UsageError: for a negative seed.
    """
    if seed < 0:
        raise UsageError(f"the seed of the halves must be 0 or more, got {seed}")
    if len(dataset) < 2:
        raise DataError(f"a search needs at least 2 training images, one for each half: there is {len(dataset)}")
    order = np.random.default_rng(seed).permutation(len(dataset)).tolist()
    middle = (len(order) + 1) // 2
    return dataset.select(sorted(order[:middle])), dataset.select(sorted(order[middle:]))
