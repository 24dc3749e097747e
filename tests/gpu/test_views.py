"""Training views on a CUDA device: the CPU's within rounding, and nothing waits for the device."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
import torch

from lgc.models.images import IMAGENET
from lgc.search.data.datasets import load_dataset
from lgc.search.data.synthetic.writers import write_scenes
from lgc.search.data.views.finishing import ViewFinisher
from lgc.search.data.views.geometry import draw_view
from lgc.search.data.views.packing import pack_views
from lgc.search.runtime.batches import load_batches

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

ROUNDING = 2 * 1.3**3 / 255 / min(IMAGENET.std)
"""Two levels of 256, enlarged by the largest brightness, contrast and saturation, in normalised units."""
MAX_TIES = 1e-3
"""Share of a label's pixels whose centre may lie on the border between two pixels of the file."""


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda:0")


@pytest.fixture
def dataset(tmp_path):
    write_scenes(tmp_path, "camvid-segnet", {"train": 6, "val": 0, "test": 0}, (180, 240), 0)
    return load_dataset(tmp_path, "train", (180, 240), augment=True, seed=1, crop=(120, 160))


def require_close(batch, expected):
    (images, labels), (cpu_images, cpu_labels) = ([part.cpu() for part in pair] for pair in (batch, expected))
    assert (images - cpu_images).abs().max() <= ROUNDING
    assert (images - cpu_images).abs().mean() <= 0.25 * ROUNDING
    assert (labels != cpu_labels).float().mean() <= MAX_TIES
    assert ((labels == 255) == (cpu_labels == 255)).all()


def test_gpu_views_equal_the_cpu_views(device):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    pixels = np.repeat(np.repeat(coarse, 8, axis=0), 8, axis=1)
    classes = rng.integers(0, 19, (192, 256), dtype=np.uint8)
    views = [draw_view(np.random.default_rng(seed), (192, 256), (192, 256), (160, 224)) for seed in range(16)]
    packed = pack_views([(view, *view.cut(pixels, classes)) for view in views], IMAGENET)
    batches = [ViewFinisher(IMAGENET, place).finish(packed) for place in (device, torch.device("cpu"))]
    assert all(part.device == device for part in batches[0])
    require_close(*batches)


def test_tf32_does_not_reach_views(device):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    view = draw_view(np.random.default_rng(0), (64, 64), (64, 64), (64, 64))
    packed = pack_views([(view, *view.cut(pixels, np.zeros((64, 64), np.uint8)))], IMAGENET)
    before = torch.get_float32_matmul_precision()
    try:
        images = []
        for precision in ("highest", "high"):
            torch.set_float32_matmul_precision(precision)
            images.append(ViewFinisher(IMAGENET, device).finish(packed)[0])
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(*images)


def test_views_do_not_wait_for_the_device(dataset, device):
    cuts = [dataset.cut_view(index, 0) for index in range(6)]
    packed = pack_views(cuts, IMAGENET)
    packed = packed._replace(data=packed.data.pin_memory())
    finisher = ViewFinisher(IMAGENET, device)
    finisher.finish(packed)
    torch.cuda.set_sync_debug_mode("error")
    try:
        finisher.finish(packed)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_arrive_on_the_device(dataset, device, workers):
    with closing(load_batches(dataset, 2, 0, start=0, stop=5, workers=workers, device=device)) as batches:
        loaded = [*batches]
    with closing(load_batches(dataset, 2, 0, start=0, stop=5)) as batches:
        expected = [*batches]
    for batch, other in zip(loaded, expected, strict=True):
        assert all(part.device == device for part in batch)
        require_close(batch, other)
