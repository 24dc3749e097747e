"""Batches: the same bits from any number of processes, whatever reads them, and nothing left behind."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest
import torch

from lgc.errors import DataError
from lgc.models.images import Normalisation
from lgc.search.data.cache.opening import cache_datasets
from lgc.search.data.datasets import load_dataset
from lgc.search.data.views.finishing import ViewFinisher
from lgc.search.runtime.batches import load_batches, load_single_images


@pytest.fixture
def dataset(scenes):
    return load_dataset(scenes, "train", (24, 32), augment=True, seed=5)


def collect(dataset, **options):
    with closing(load_batches(dataset, 3, 1, start=2, stop=7, **options)) as batches:
        return [*batches]


def as_bytes(item):
    image, label = item
    return image.numpy(), label.numpy().astype(np.uint8)


def require_equal(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert torch.equal(batch[0], other[0])
        assert torch.equal(batch[1], other[1])


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mode", ["off", "ram", "disk"])
def test_cache_and_workers_change_no_bit(scenes, tmp_path, monkeypatch, augment, workers, mode):
    monkeypatch.setenv("LGC_CACHE", str(tmp_path))
    dataset = load_dataset(scenes, "train", (24, 32), augment=augment, seed=5)
    (cached,) = cache_datasets([dataset], mode, views=1, log=lambda line: None)
    assert (cached is dataset) == (mode == "off")
    require_equal(collect(dataset), collect(cached, workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("full_labels", [True, False])
def test_single_images_are_items_of_the_dataset(scenes, workers, full_labels):
    dataset = load_dataset(scenes, "val", (24, 40), full_labels=full_labels)
    dataset.normalisation = Normalisation((0.1, 0.2, 0.3), (0.3, 0.7, 0.11))
    images = dict(load_single_images(dataset, workers=workers))
    assert [*images] == [*range(len(dataset))]
    for index, (image, label) in images.items():
        assert image.is_contiguous()
        assert (image.dtype, label.dtype) == (torch.float32, torch.int64)
        require_equal([(image[0], label[0])], [dataset[index]])


def test_validation_travels_in_bytes(scenes):
    image, label = load_dataset(scenes, "val", (24, 40), full_labels=True).read_bytes(1)
    assert (image.dtype, image.shape) == (torch.uint8, (24, 40, 3))
    assert (label.dtype, label.shape) == (torch.uint8, (32, 32))


def test_threads_change_no_bit(dataset):
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(collect(dataset))
    finally:
        torch.set_num_threads(before)
    require_equal(*results)


@pytest.mark.parametrize("others", [1, 2, 3])
def test_preparing_thread_has_no_helpers_and_others_keep_theirs(dataset, monkeypatch, others):
    before, seen = torch.get_num_threads(), []
    finish = ViewFinisher.finish

    def record(finisher, packed):
        seen.append((threading.current_thread() is threading.main_thread(), torch.get_num_threads()))
        return finish(finisher, packed)

    monkeypatch.setattr(ViewFinisher, "finish", record)
    try:
        torch.set_num_threads(2)
        with ThreadPoolExecutor(1) as another:  # as the thread of torch's loader that pins memory
            another.submit(torch.set_num_threads, others).result()
        collect(dataset)
        with ThreadPoolExecutor(1) as later:
            assert (torch.get_num_threads(), later.submit(torch.get_num_threads).result()) == (2, others)
    finally:
        torch.set_num_threads(before)
    assert {*seen} == {(False, 1)}


def test_batches_are_views_of_the_dataset(dataset):
    (images, labels), *_ = collect(dataset)
    views = {
        tuple(part.tobytes() for part in as_bytes(dataset.view(index, epoch))) for index in range(8) for epoch in (0, 1)
    }
    assert (images.dtype, labels.dtype) == (torch.float32, torch.uint8)
    assert {
        (image.numpy().tobytes(), label.numpy().tobytes()) for image, label in zip(images, labels, strict=True)
    } < views


def test_abandoned_batches_leave_no_thread(dataset):
    batches = load_batches(dataset, 3, 1, start=0, stop=1000)
    next(batches)
    assert any(thread.name.startswith("lgc-batches") for thread in threading.enumerate())
    batches.close()
    assert not any(thread.name.startswith("lgc-batches") for thread in threading.enumerate())


def test_error_comes_with_its_batch(scenes, tmp_path):
    from shutil import copytree

    dataset = load_dataset(copytree(scenes, tmp_path / "copy"), "train", (24, 32))
    dataset.pairs[2].image.write_bytes(b"\x89PNG broken")
    images = load_single_images(dataset)
    assert [next(images)[0], next(images)[0]] == [0, 1]
    with pytest.raises(DataError, match=dataset.pairs[2].image.name):
        next(images)


def test_no_steps_are_no_batches(dataset):
    assert [*load_batches(dataset, 3, 1, start=4, stop=4)] == []
