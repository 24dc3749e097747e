"""Batches of a data set, fixed by seed and step alone, so that a resumed run sees what it would have seen."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from .data.datasets import SegmentationDataset


def batches(
    dataset: SegmentationDataset, batch: int, seed: int, *, start: int, stop: int, workers: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of steps `start` to `stop`: images [batch, 3, H, W] and labels [batch, H, W].

    Epoch after epoch in a random order each; of a data set smaller than a batch, images are taken repeatedly.

    Args:
        dataset: what to draw from.
        batch: images in a batch.
        seed: of the order.
        start: first step.
        stop: step before which it ends.
        workers: processes that load.
    """
    per_epoch = max(len(dataset) // batch, 1)
    step = start
    while step < stop:
        epoch, skip = divmod(step, per_epoch)
        dataset.set_epoch(epoch)
        order = np.random.default_rng((seed, epoch)).permutation(len(dataset))
        order = np.resize(order, max(len(order), batch))
        last = min(per_epoch, skip + stop - step)
        indices = [order[index * batch : (index + 1) * batch].tolist() for index in range(skip, last)]
        yield from DataLoader(dataset, batch_sampler=indices, num_workers=workers)
        step += len(indices)
