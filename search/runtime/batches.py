"""Batches of a data set, fixed by seed and step alone, so that a resumed run sees what it would have seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...errors import LgcError
from ..data.datasets import SegmentationDataset

Batch = tuple[Tensor, Tensor]
"""Images [N, 3, H, W] and labels [N, H, W]."""
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
    share: tuple[int, int] = (0, 1),
    pin: bool = False,
) -> Iterator[Batch]:
    """Batches of steps `start` to `stop`: images [batch, 3, H, W] and labels [batch, H, W].

    Epoch after epoch in a random order each; of a data set smaller than a batch, images are taken repeatedly.

    Args:
        dataset: what to draw from; its own epoch plays no part.
        batch: images in a batch.
        seed: of the order.
        start: first step.
        stop: step before which it ends.
        workers: processes that load.
        share: (rank, processes): together, the processes get the batches that one alone would get with `processes`
            times the batch.
        pin: put batches into memory from which a GPU copies while it computes.

    Raises:
        DataError: a file is damaged or holds foreign values.
    """
    return _load(dataset, _plan_views(len(dataset), batch, seed, start, stop, share), workers, pin)


def load_single_images(
    dataset: SegmentationDataset, *, workers: int = 0, share: tuple[int, int] = (0, 1)
) -> Iterator[tuple[int, Batch]]:
    """Every image of a data set once, in order: its index, and a batch of it alone; of process r those at r, r + P, ...

    Raises:
        DataError: a file is damaged or holds foreign values.
    """
    rank, processes = share
    indices = range(rank, len(dataset), processes)
    return zip(indices, _load(dataset, [[(0, index)] for index in indices], workers), strict=True)


def _plan_views(
    images: int, batch: int, seed: int, start: int, stop: int, share: tuple[int, int]
) -> Iterator[list[_ViewKey]]:
    """The views of every step's batch."""
    rank, processes = share
    whole = batch * processes
    per_epoch = max(images // whole, 1)
    order, shuffled = np.empty(0, np.int64), -1
    for step in range(start, stop):
        epoch, place = divmod(step, per_epoch)
        if epoch != shuffled:
            order = np.random.default_rng((seed, epoch)).permutation(images)
            order, shuffled = np.resize(order, max(images, whole)), epoch
        first = place * whole + rank * batch
        yield [(epoch, index) for index in order[first : first + batch].tolist()]


class _ViewDataset(Dataset[Batch | LgcError]):
    """A data set by epoch and index, so that loading processes live through all epochs.

    Errors are handed over as values: torch would wrap one that a loading process raises in that process's traceback.
    """

    def __init__(self, dataset: SegmentationDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, view: _ViewKey) -> Batch | LgcError:
        epoch, index = view
        try:
            return self._dataset.view(index, epoch)
        except LgcError as error:
            return error


def _collate(items: Sequence[Batch | LgcError]) -> Batch | LgcError:
    whole: list[Batch] = []
    for item in items:
        if isinstance(item, LgcError):
            return item
        whole.append(item)
    images, labels = zip(*whole, strict=True)
    return torch.stack(images), torch.stack(labels)


def _load(
    dataset: SegmentationDataset, views: Iterable[list[_ViewKey]], workers: int, pin: bool = False
) -> Iterator[Batch]:
    loader = DataLoader(
        _ViewDataset(dataset), batch_sampler=views, num_workers=workers, collate_fn=_collate, pin_memory=pin
    )
    for batch in loader:
        if isinstance(batch, LgcError):
            raise batch
        yield batch
