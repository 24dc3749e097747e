"""Process that makes training views by one loader, on its cores, whenever it is asked to; see `views`.

It runs with any version of lgc in `PYTHONPATH`. Each line of the input is the number of the first step and that of the
batches; the answer is their duration in seconds. `bytes` is answered with the bytes per view that go to the device.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

Loader = Callable[[int, int], Iterator[Any]]
"""Function from the first step and the number of batches to the batches."""


def main() -> None:
    setting = json.loads(sys.argv[1])
    os.sched_setaffinity(0, setting["cores"])
    torch.set_num_threads(1)
    load, count_bytes = make_loader(setting)
    for line in sys.stdin:
        if line.strip() == "bytes":
            answer: float = count_bytes()
        else:
            start, batches = map(int, line.split())
            began = time.perf_counter()
            views = sum(len(labels) for _, labels in load(start, batches))
            answer = time.perf_counter() - began
            assert views == batches * setting["batch"], f"{views} views"
        print(answer, flush=True)


def make_loader(setting: dict[str, Any]) -> tuple[Loader, Callable[[], float]]:
    """Return the loader of the setting's kind, and a function for the bytes per view."""
    kind, batch, workers = setting["kind"], setting["batch"], setting["workers"]
    data, decoded = Path(setting["data"]), Path(setting["decoded"])
    size, crop = tuple(setting["size"]), tuple(setting["crop"])
    if kind == "lgc":
        return load_with_lgc(data, size, crop, batch, workers)
    if kind == "baseline":
        return load_one_by_one(data, size, crop, batch)
    from . import comparators

    if kind == "kornia":
        return lambda _, count: comparators.load_with_kornia(decoded, crop, batch, workers, count), float
    transform = comparators.PillowTransform(size, crop)
    if kind == "pillow, decoded":
        dataset: Any = comparators.Arrays(decoded, transform)
    else:
        dataset = comparators.Files(*list_files(data), transform)
    return lambda _, count: comparators.load_with_torch(dataset, batch, workers, count), float


def load_with_lgc(
    data: Path, size: tuple[int, int], crop: tuple[int, int], batch: int, workers: int
) -> tuple[Loader, Callable[[], float]]:
    """Return lgc's loader of this version on a cache in the memory's page cache, made beforehand."""
    from lgc.search.data.cache.opening import cache_datasets
    from lgc.search.data.datasets import load_dataset
    from lgc.search.data.views.packing import pack_views
    from lgc.search.runtime.batches import load_batches

    images = load_dataset(data, "train", size, augment=True, crop=crop)
    (dataset,) = cache_datasets([images], "disk", views=10**9, log=lambda text: print(text, file=sys.stderr))

    def count_bytes() -> float:
        packed = [pack_views([dataset.cut_view(index, 0)], dataset.normalisation) for index in range(len(dataset))]
        tensors = [part for views in packed for part in views if isinstance(part, torch.Tensor)]
        return sum(part.nbytes for part in tensors) / len(packed)

    return lambda start, n: load_batches(dataset, batch, 0, start=start, stop=start + n, workers=workers), count_bytes


def load_one_by_one(
    data: Path, size: tuple[int, int], crop: tuple[int, int], batch: int
) -> tuple[Loader, Callable[[], float]]:
    """Return views of the baseline, in random order; they are not even joined to batches."""
    from lgc.search.data.datasets import load_dataset

    dataset = load_dataset(str(data), "train", size, augment=True, crop=crop)

    def load(start: int, count: int) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(start)
        for _ in range(count):
            indices = torch.randint(len(dataset), (batch,), generator=generator).tolist()
            views = [dataset.view(index, start) for index in indices]
            yield [image for image, _ in views], [label for _, label in views]

    return load, lambda: float(sum(part.nbytes for part in dataset.view(0, 0)))


def list_files(data: Path) -> tuple[list[tuple[Path, Path]], Any]:
    """Return the files of the training split, and the class of each value of a label."""
    import numpy as np
    from PIL import Image

    from lgc.search.data.datasets import load_dataset
    from lgc.search.data.labels import train_id_to_id

    pairs = [(pair.image, pair.label) for pair in load_dataset(data, "train").pairs if pair.label is not None]
    values = np.full(256, 255, np.uint8)
    if pairs[0][1].name.endswith("labelIds.png"):
        values[train_id_to_id(np.arange(19, dtype=np.uint8)[None])[0]] = np.arange(19)
    else:
        with Image.open(pairs[0][1]) as label:
            assert np.asarray(label).max() <= 11
        values[:11] = np.arange(11)
    return pairs, values


if __name__ == "__main__":
    main()
