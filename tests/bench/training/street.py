"""Datasets of the loader's benchmark: a made-up Cityscapes, and CamVid as PNG; decoded copies for other loaders."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from PIL.PngImagePlugin import PngInfo

from lgc.files import atomic_path
from lgc.search.data.datasets import load_dataset
from lgc.search.data.synthetic.writers import write_scenes

CITYSCAPES_SIZE, CAMVID_SIZE = (1024, 2048), (360, 480)
BLUR = 0.9
"""Radius in pixels that joins the noise of neighbours, as a camera's demosaicing does: a PNG then has 2.4 MB, like one
of Cityscapes; without it 4 MB."""
_MARK = "blurred"
"""Key of a PNG's text chunk."""


def make_cityscapes(folder: Path, images: int) -> Path:
    """Write generated scenes in the layout of Cityscapes, with the noise of photographs; run again to resume."""
    write_scenes(folder, "cityscapes", {"train": images, "val": 1, "test": 0}, CITYSCAPES_SIZE)
    for path in sorted(folder.glob("leftImg8bit/*/*/*.png")):
        with Image.open(path) as image:
            if _MARK in image.info:
                continue
            blurred = image.filter(ImageFilter.GaussianBlur(BLUR))
        mark = PngInfo()
        mark.add_text(_MARK, str(BLUR))
        with atomic_path(path, replace=True) as temporary:
            blurred.save(temporary, "PNG", compress_level=1, pnginfo=mark)
    return folder


def make_camvid(folder: Path, data: Path | None, images: int) -> Path:
    """Write generated scenes in the layout of CamVid; or with `data`, its training images as PNG."""
    if data is None:
        write_scenes(folder, "camvid-segnet", {"train": images, "val": 8, "test": 0}, CAMVID_SIZE)
        return folder
    for kind in ("train", "trainannot"):
        (folder / "CamVid" / kind).mkdir(parents=True, exist_ok=True)
    for pair in load_dataset(data, "train").pairs:
        image = folder / "CamVid" / "train" / f"{pair.image.stem}.png"
        if not image.exists():
            with Image.open(pair.image) as file, atomic_path(image) as temporary:
                file.convert("RGB").save(temporary, "PNG")
        if pair.label is not None:
            shutil.copyfile(pair.label, folder / "CamVid" / "trainannot" / f"{pair.image.stem}.png")
    return folder


def decode(data: Path, folder: Path) -> Path:
    """Write the images [N, H, W, 3] and classes [N, H, W] of a training split as arrays, for other loaders."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = load_dataset(data, "train", full_labels=True)
    if (folder / "labels.npy").exists():
        return folder
    with Image.open(dataset.pairs[0].image) as first:
        shape = (len(dataset), first.height, first.width)
    images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=(*shape, 3))
    labels = np.empty(shape, np.uint8)
    for index, pair in enumerate(dataset.pairs):
        with Image.open(pair.image) as image:
            images[index] = np.asarray(image.convert("RGB"))
        labels[index] = dataset[index][1].numpy()
    images.flush()
    np.save(folder / "labels.npy", labels)
    return folder


def describe(data: Path) -> dict[str, Any]:
    """Return the number of images, and the mean size of a file in bytes."""
    pairs = load_dataset(data, "train").pairs
    return {"images": len(pairs), "file_bytes": float(np.mean([pair.image.stat().st_size for pair in pairs]))}
