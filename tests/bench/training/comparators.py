"""Training views by torch's own DataLoader, as one writes it with torchvision-like transforms on Pillow, or by kornia.

The augmentation is lgc's: scale 0.5 to 2, crop, flip, brightness, contrast and saturation by up to 30 %, normalisation.
A crop is cut before it is scaled, the quicker of the two orders. Files are decoded each time, or read from arrays that
were decoded beforehand (`street.decode`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VOID = 255
Size = tuple[int, int]
Pair = tuple[Image.Image, Image.Image]


class Files(Dataset[Any]):
    """Pairs of files; labels hold `values`, which become classes."""

    def __init__(self, files: list[tuple[Path, Path]], values: np.ndarray, transform: Callable[[Pair], Any]) -> None:
        self.files, self.values, self.transform = files, values, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        image, label = self.files[index]
        with Image.open(image) as file:
            pixels = file.convert("RGB")
        with Image.open(label) as file:
            classes = Image.fromarray(self.values[np.asarray(file)])
        return self.transform((pixels, classes))


class Arrays(Dataset[Any]):
    """Images and labels decoded beforehand, mapped from disk."""

    def __init__(self, folder: Path, transform: Callable[[Pair], Any] | None) -> None:
        self.images = np.load(folder / "images.npy", mmap_mode="r")
        self.labels = np.load(folder / "labels.npy", mmap_mode="r")
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        image, label = self.images[index], self.labels[index]
        if self.transform is None:  # kornia augments whole batches
            return torch.from_numpy(image.copy()).permute(2, 0, 1), torch.from_numpy(label.copy())
        return self.transform((Image.fromarray(image), Image.fromarray(label)))


class PillowTransform:
    """Scale, crop, flip, colour jitter, tensor, normalisation."""

    def __init__(self, size: Size, crop: Size) -> None:
        self.size, self.crop = size, crop
        self.mean, self.std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]

    def __call__(self, pair: Pair) -> tuple[Tensor, Tensor]:
        image, label = pair
        factor = math.exp(random.uniform(math.log(0.5), math.log(2)))
        scaled = [round(side * factor) for side in self.size]
        cut = [min(side, full) for side, full in zip(self.crop, scaled, strict=True)]
        top, left = (random.randint(0, full - side) for full, side in zip(scaled, cut, strict=True))
        rows, columns = image.height / scaled[0], image.width / scaled[1]
        right, bottom = min((left + cut[1]) * columns, image.width), min((top + cut[0]) * rows, image.height)
        box = (left * columns, top * rows, right, bottom)
        image = image.resize((cut[1], cut[0]), Image.Resampling.BILINEAR, box=box)
        label = label.resize((cut[1], cut[0]), Image.Resampling.NEAREST, box=box)
        if random.random() < 0.5:
            image, label = (part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for part in (image, label))
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhance(image).enhance(random.uniform(0.7, 1.3))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div_(255)
        pixels = pixels.sub_(self.mean).div_(self.std)
        classes = torch.from_numpy(np.array(label)).long()
        pad = (0, self.crop[1] - cut[1], 0, self.crop[0] - cut[0])
        if any(pad):
            pixels = torch.nn.functional.pad(pixels, pad)
            classes = torch.nn.functional.pad(classes, pad, value=VOID)
        return pixels, classes


def load_with_torch(dataset: Dataset[Any], batch: int, workers: int, batches: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches in random order, epoch after epoch."""
    sampler = torch.utils.data.RandomSampler(dataset, replacement=False, num_samples=batch * batches)
    yield from DataLoader(dataset, batch, sampler=sampler, num_workers=workers, drop_last=True)


def load_with_kornia(folder: Path, crop: Size, batch: int, workers: int, batches: int) -> Iterator[Any]:
    """Yield batches whose images are augmented together, on the CPU."""
    import kornia.augmentation as augmentation

    augment = augmentation.AugmentationSequential(
        augmentation.RandomResizedCrop(crop, scale=(1 / 16, 1.0), ratio=(1.0, 1.0), cropping_mode="slice"),
        augmentation.RandomHorizontalFlip(),
        augmentation.ColorJitter(0.3, 0.3, 0.3, p=1.0),
        augmentation.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
        data_keys=["input", "mask"],
    )
    for images, labels in load_with_torch(Arrays(folder, None), batch, workers, batches):
        pixels, classes = augment(images.float().div_(255), labels[:, None].float())
        yield pixels, classes[:, 0].long()
