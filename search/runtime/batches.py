"""Batches of a dataset, determined by seed and step alone, so a resumed run sees the same ones."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...models.images import Normalisation, normalise_image
from ..data.datasets import SegmentationDataset
from ..data.views.finishing import ViewFinisher
from ..data.views.packing import PackedViews, pack_views
from .worker_errors import load_in_workers

Batch = tuple[Tensor, Tensor]
"""Images, float32 [N, 3, H, W], and labels [N, H, W]: uint8 of random views, else int64."""
Shard = tuple[int, int]
"""Rank of a process and number of processes."""
CPU = torch.device("cpu")
_ViewKey = tuple[int, int]
"""Epoch and index of an image."""
Item = TypeVar("Item")
Joined = TypeVar("Joined")


def load_batches(
    dataset: SegmentationDataset,
    batch: int,
    seed: int,
    *,
    start: int,
    stop: int,
    workers: int = 0,
    shard: Shard = (0, 1),
    device: torch.device = CPU,
) -> Generator[Batch]:
    """Yield the batches of steps `start` to `stop`: images [batch, 3, H, W] and labels [batch, H, W].

    Each epoch has a random order. A dataset smaller than a batch repeats its images. Batches are prepared ahead: files
    are read by `workers` processes, or by a thread; random views are finished on the device. Close the generator to
    stop the thread, if it is not exhausted.

    Args:
        dataset: dataset to draw from.
        batch: batch size of this process, in images.
        seed: random seed of the order.
        start: first step.
        stop: step after the last one.
        workers: number of data-loading processes.
        shard: rank and number of processes; together they get the batches of one process with `processes` times the
            batch size.
        device: device of the batches.

    Raises:
        DataError: a file is damaged or holds foreign values.
    """
    plan = _plan_views(len(dataset), batch, seed, start, stop, shard)
    pin = device.type == "cuda"  # the host does not wait for copies from pinned memory
    if not dataset.augment:
        read = _load(dataset, dataset.read_bytes, plan, _stack, workers, pin)
        return _prefetch(_normalise(read, dataset.normalisation, device))
    pack = partial(pack_views, normalisation=dataset.normalisation)
    return _prefetch(_finish(_load(dataset, dataset.cut_view, plan, pack, workers, pin), dataset.normalisation, device))


def load_single_images(
    dataset: SegmentationDataset, *, workers: int = 0, shard: Shard = (0, 1), device: torch.device = CPU
) -> Generator[tuple[int, Batch]]:
    """Yield each image's index and a batch of that image alone, in order; process r of P gets r, r + P, ...

    The dataset has no random views. Batches are on the device.

    Raises:
        DataError: a file is damaged or holds foreign values.
    """
    rank, processes = shard
    indices = range(rank, len(dataset), processes)
    read = _load(dataset, dataset.read_bytes, ([(0, index)] for index in indices), _stack, workers)
    with closing(_prefetch(_normalise(read, dataset.normalisation, device))) as prefetched:
        yield from zip(indices, prefetched, strict=True)


def _plan_views(images: int, batch: int, seed: int, start: int, stop: int, shard: Shard) -> Iterator[list[_ViewKey]]:
    """Yield the views of each step's batch."""
    rank, processes = shard
    global_batch = batch * processes
    per_epoch = max(images // global_batch, 1)
    order, shuffled = np.empty(0, np.int64), -1
    for step in range(start, stop):
        epoch, position = divmod(step, per_epoch)
        if epoch != shuffled:
            order = np.random.default_rng((seed, epoch)).permutation(images)
            order, shuffled = np.resize(order, max(images, global_batch)), epoch
        first = position * global_batch + rank * batch
        yield [(epoch, index) for index in order[first : first + batch].tolist()]


class _Views(Dataset[Item]):
    """Items by epoch and image, so that data-loading processes persist through all epochs."""

    def __init__(self, read: Callable[[int, int], Item]) -> None:
        self._read = read

    def __getitem__(self, view: _ViewKey) -> Item:
        epoch, index = view
        return self._read(index, epoch)


def _load(
    dataset: SegmentationDataset,
    read: Callable[[int, int], Item],
    views: Iterable[list[_ViewKey]],
    join: Callable[[Sequence[Item]], Joined],
    workers: int,
    pin: bool = False,
) -> Generator[Joined]:
    """Return the joined items of each list of views."""

    def name_image(view: _ViewKey) -> object:
        return dataset.pairs[view[1]].image

    return load_in_workers(_Views(read), views, join, workers, name_item=name_image, pin=pin)


def _stack(items: Sequence[Batch]) -> Batch:
    """Stack images and labels of equal sizes."""
    images, labels = zip(*items, strict=True)
    return torch.stack(images), torch.stack(labels)


def _normalise(batches: Iterable[Batch], normalisation: Normalisation, device: torch.device) -> Generator[Batch]:
    """Yield batches of bytes, images [N, H, W, 3], as those for a network, on the device.

    Colours are looked up, so that they have the bits of `normalise_image` on every device.
    """
    levels = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None], (1, 256, 3))
    table = torch.from_numpy(normalise_image(levels, normalisation)).flatten(1).to(device)
    for pixels, labels in batches:
        moved = pixels.to(device, non_blocking=True)
        channels = zip(table, moved.unbind(-1), strict=True)
        images = torch.stack([colours[channel.to(torch.int64)] for colours, channel in channels], 1)
        yield images, labels.to(device, non_blocking=True).to(torch.int64)


def _finish(batches: Iterable[PackedViews], normalisation: Normalisation, device: torch.device) -> Generator[Batch]:
    finisher = ViewFinisher(normalisation, device)
    for packed in batches:
        yield finisher.finish(packed)


def _limit_to_one(thread: ThreadPoolExecutor) -> None:
    """Let a thread compute without helpers; all others, and those that start later, keep their numbers.

    A number belongs to the thread that sets it, but threads that start later get the one that was set last.
    """
    with ThreadPoolExecutor(1) as other:
        later = other.submit(torch.get_num_threads).result()
        thread.submit(torch.get_num_threads).result()  # the first operation of a thread would set its number
        thread.submit(torch.set_num_threads, 1).result()
        other.submit(torch.set_num_threads, later).result()


def _prefetch(batches: Generator[Item]) -> Generator[Item]:
    """Yield batches, each of which a thread prepares while the one before is used.

    The thread computes without helpers. OpenMP's, next to those of the training step, would be more threads than cores,
    and all of them would then sleep and wake up at the end of every parallel operation.
    """
    with closing(batches), ThreadPoolExecutor(1, "lgc-batches") as thread:
        _limit_to_one(thread)
        following = thread.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = thread.submit(next, batches, None)
            yield batch
