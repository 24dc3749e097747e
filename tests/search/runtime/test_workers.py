"""Default number of data-loading processes."""

from __future__ import annotations

import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from lgc import control_groups
from lgc.search.data.cache.opening import cache_datasets
from lgc.search.data.datasets import load_dataset
from lgc.search.runtime import workers
from lgc.search.runtime.workers import choose_workers

BATCH_BYTES = 3 * 4 * 4 * 2 * 32 * 32
"""Shared memory of a process that prepares batches of 4 scenes, which may be twice as large as the first."""


@pytest.fixture
def choose(scenes, monkeypatch):
    """Return a function of device, cores and free shared memory to number and remarks."""
    loads = [(load_dataset(scenes, "train"), 4)]

    def call(device, cores=16, free=10**12, requested=None, loads=loads, quota=None):
        monkeypatch.setattr(control_groups, "read_cpu_quota", lambda: quota)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(cores))
        monkeypatch.setattr(workers, "_read_free_bytes", lambda folder: free)
        lines = []
        fabric = SimpleNamespace(device=torch.device(device))
        return choose_workers(requested, loads, fabric, lines.append), lines

    return call


def test_requested_number_is_used(choose):
    assert choose("cuda:0", requested=3, free=0) == (3, [])
    assert choose("cpu", requested=0) == (0, [])


def test_cpu_needs_no_processes(choose):
    assert choose("cpu") == (0, [])


@pytest.mark.parametrize(("cores", "expected"), [(64, 8), (6, 5), (1, 0)])
def test_gpu_uses_the_other_cores(choose, cores, expected):
    assert choose("cuda:0", cores=cores) == (expected, [])


@pytest.mark.parametrize(("quota", "expected"), [(4.0, 3), (2.9, 1), (0.5, 0), (100.0, 8)])
def test_cpu_quota_limits_processes(choose, quota, expected):
    assert choose("cuda:0", quota=quota) == (expected, [])


def test_processes_share_cores_and_memory(choose, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert choose("cuda:0", cores=16) == (3, [])
    assert choose("cuda:0", cores=16, free=4 * 2 * BATCH_BYTES) == (2, [])


def test_small_shared_memory_is_said(choose):
    number, (line,) = choose("cuda:0", free=BATCH_BYTES - 1)
    assert number == 0
    assert "--shm-size" in line


def test_datasets_loaded_together_share_memory(choose, scenes):
    loads = [(load_dataset(scenes, split, (64, 64)), batch) for split, batch in (("train", 4), ("val", 1))]
    need = 3 * 4 * (4 + 1) * 64 * 64
    assert [choose("cuda:0", loads=loads, free=free)[0] for free in (2 * need, need, need - 1)] == [2, 1, 0]


def test_largest_image_of_a_cache_counts(choose, scenes, tmp_path, monkeypatch):
    monkeypatch.setenv("LGC_CACHE", str(tmp_path / "cache"))
    copy = shutil.copytree(scenes, tmp_path / "copy")
    pair = load_dataset(copy, "train").pairs[5]
    for path in (pair.image, pair.label):
        with Image.open(path) as image:
            image.resize((100, 50), Image.Resampling.NEAREST).save(path)
    (dataset,) = cache_datasets([load_dataset(copy, "train")], "ram", views=1, log=lambda line: None)
    need = 3 * 4 * 100 * 50
    assert [choose("cuda:0", loads=[(dataset, 1)], free=free)[0] for free in (need, need - 1)] == [1, 0]


def test_free_bytes_of_a_folder(tmp_path):
    assert workers._read_free_bytes(str(tmp_path)) > 0
    assert workers._read_free_bytes(str(tmp_path / "missing")) == 0
