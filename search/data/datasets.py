"""Segmentation datasets for torch."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from ...errors import DataError, UsageError
from ...models.images import normalise_image, resize_image
from .cache.store import FileStore, PixelStore
from .description import DatasetSpec, read_dataset
from .labels import IGNORE
from .pairs import Pair
from .views.finishing import ViewFinisher, scale_classes
from .views.geometry import Size, draw_view
from .views.packing import Cut, pack_views


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
        store: Source of the decoded files.
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
        store: PixelStore | None = None,
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
        self.store = FileStore() if store is None else store

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pairs)

    def select(self, indices: Sequence[int]) -> SegmentationDataset:
        """Return a dataset of the images at `indices`, with the same settings."""
        return self._copy([self.pairs[index] for index in indices], self.store)

    def use_store(self, store: PixelStore) -> SegmentationDataset:
        """Return the same dataset, read from another store of its decoded files."""
        return self._copy(self.pairs, store)

    def _copy(self, pairs: Sequence[Pair], store: PixelStore) -> SegmentationDataset:
        dataset = SegmentationDataset(
            self.spec, pairs, self.size, self.augment, self.seed, self.crop, self.full_labels, store
        )
        dataset.normalisation = self.normalisation
        return dataset

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return image [3, H, W] and label [H, W] at `index`, in the view of epoch 0.

        Raises:
            DataError: A file is damaged, a label has an invalid value, or its size differs from the image's.
            IndexError: `index` is out of range.
        """
        return self.view(index, 0)

    def view(self, index: int, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the item at `index` in the view of `epoch`, which follows from seed, epoch and index alone."""
        if self.augment:
            packed = pack_views([self.cut_view(index, epoch)], self.normalisation)
            images, labels = ViewFinisher(self.normalisation, torch.device("cpu")).finish(packed)
            return images[0], labels[0].to(torch.int64)
        pixels, label = self.read_bytes(index)
        return torch.from_numpy(normalise_image(pixels.numpy(), self.normalisation)), label.to(torch.int64)

    def read_bytes(self, index: int, epoch: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the item at `index` without random views in bytes: its image, [H, W, 3], and its label, [H, W].

        Raises:
            DataError: As for items.
        """
        pixels, classes = self.store.read(self.pairs[index])
        label = torch.from_numpy(np.array(classes))  # a cache is read-only
        if not self.full_labels and self.size is not None:
            label = scale_classes(label, self.size)
        return torch.from_numpy(np.array(resize_image(pixels, self.size))), label

    def estimate_pixels(self) -> int:
        """Return the number of pixels of the largest image, in its file or as an item; see `PixelStore`."""
        height, width = self.size or (0, 0)
        return max(self.store.estimate_pixels(self.pairs), height * width)

    def cut_view(self, index: int, epoch: int) -> Cut:
        """Return the window of the item at `index` in the random view of `epoch`, unscaled; see `pack_views`.

        Raises:
            DataError: As for items.
        """
        pixels, classes = self.store.read(self.pairs[index])
        rng = np.random.default_rng((self.seed, epoch, index % len(self)))
        file = pixels.shape[:2]
        size = self.size or file
        view = draw_view(rng, file, size, self.crop or size)
        return view, *view.cut(pixels, classes)


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
        augment: Return random views, see `views.geometry.draw_view`.
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


def split_halves(
    dataset: SegmentationDataset, seed: int = 0, *, contiguous: bool = True
) -> tuple[SegmentationDataset, SegmentationDataset]:
    """Split a dataset into two halves, for the weights and for the architecture of a bi-level search.

    The same seed gives the same halves. If the number is odd, the first half has one image more.

    Args:
        dataset: images to split.
        seed: random seed.
        contiguous: Keep neighbours in the order of the names together, from a random image on, the last and the first
            being neighbours; else at random. Frames of a video or of a city show much the same: if both halves have
            some of each, the second one does not show how well a network does on new images.

    Raises:
        DataError: Fewer than two images.
        UsageError: Negative seed.
    """
    if seed < 0:
        raise UsageError(f"the seed of the split must be 0 or more, got {seed}")
    if len(dataset) < 2:
        raise DataError(f"a search needs at least 2 training images, one per half, got {len(dataset)}")
    rng, count = np.random.default_rng(seed), len(dataset)
    order = (np.roll(np.arange(count), -rng.integers(count)) if contiguous else rng.permutation(count)).tolist()
    middle = (len(order) + 1) // 2
    return dataset.select(sorted(order[:middle])), dataset.select(sorted(order[middle:]))
