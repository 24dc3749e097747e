"""Batches of a dataset, determined by seed and step alone, so a resumed run sees the same ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..data.datasets import SegmentationDataset
from .worker_errors import load_in_workers

Batch = tuple[Tensor, Tensor]
"""Images [N, 3, H, W] and labels [N, H, W]."""
Shard = tuple[int, int]
"""Rank of a process and number of processes."""
_ViewKey = tuple[int, int]
"""Epoch and index of an image."""


def load_batches(
    dataset: SegmentationDataset,
    batch: int,
    seed: int,
    *,
    start: int,
    stop: int,
    workers: int = 0,
    shard: Shard = (0, 1),
    pin: bool = False,
) -> Iterator[Batch]:
    """Yield the batches of steps `start` to `stop`: images [batch, 3, H, W] and labels [batch, H, W].

    Each epoch has a random order. A dataset smaller than a batch repeats its images.

    Args:
        dataset: dataset to draw from.
        batch: batch size of this process, in images.
        seed: random seed of the order.
        start: first step.
        stop: step after the last one.
        workers: number of data-loading processes.
        shard: rank and number of processes; together they get the batches of one process with `processes` times the
            batch size.
        pin: Put batches into pinned memory, from which a GPU copies while it computes.

    Raises:
        DataError: a file is damaged or holds foreign values.
    """
    return _load(dataset, _plan_views(len(dataset), batch, seed, start, stop, shard), workers, pin)


def load_single_images(
    dataset: SegmentationDataset, *, workers: int = 0, shard: Shard = (0, 1)
) -> Iterator[tuple[int, Batch]]:
    """Yield each image's index and a batch of that image alone, in order; process r of P gets r, r + P, ...

    Raises:
        DataError: a file is damaged or holds foreign values.
    """
    rank, processes = shard
    indices = range(rank, len(dataset), processes)
    return zip(indices, _load(dataset, [[(0, index)] for index in indices], workers), strict=True)


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


class _ViewDataset(Dataset[Batch]):
    """A dataset indexed by epoch and image, so data-loading processes persist through all epochs."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, view: _ViewKey) -> Batch:
        epoch, index = view
        return self._dataset.view(index, epoch)


def _collate(items: Sequence[Batch]) -> Batch:
    """Stack items to a batch."""
    images, labels = zip(*items, strict=True)
    return torch.stack(images), torch.stack(labels)


def _load(
    dataset: SegmentationDataset, views: Iterable[list[_ViewKey]], workers: int, pin: bool = False
) -> Iterator[Batch]:
    """Yield a batch for each list of views; raise the errors of loading."""
    return load_in_workers(
        _ViewDataset(dataset), views, _collate, workers, name_item=lambda view: dataset.pairs[view[1]].image, pin=pin
    )
