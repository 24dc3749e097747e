"""Default number of data-loading processes."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from lgc.search.data.datasets import load_dataset
from lgc.search.runtime import workers
from lgc.search.runtime.workers import choose_workers

BATCH_BYTES = 2 * 4 * 4 * 32 * 32
"""Shared memory of a process that prepares batches of 4 scenes."""


@pytest.fixture
def choose(scenes, monkeypatch):
    """Return a function of device, cores and free shared memory to number and remarks."""
    dataset = load_dataset(scenes, "train")

    def call(device, cores=16, free=10**12, requested=None):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(cores))
        monkeypatch.setattr(workers, "_read_free_bytes", lambda folder: free)
        lines = []
        fabric = SimpleNamespace(device=torch.device(device))
        return choose_workers(requested, dataset, 4, fabric, lines.append), lines

    return call


def test_requested_number_is_used(choose):
    assert choose("cuda:0", requested=3, free=0) == (3, [])
    assert choose("cpu", requested=0) == (0, [])


def test_cpu_needs_no_processes(choose):
    assert choose("cpu") == (0, [])


@pytest.mark.parametrize(("cores", "expected"), [(64, 8), (6, 5), (1, 0)])
def test_gpu_uses_the_other_cores(choose, cores, expected):
    assert choose("cuda:0", cores=cores) == (expected, [])


def test_processes_share_cores_and_memory(choose, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert choose("cuda:0", cores=16) == (3, [])
    assert choose("cuda:0", cores=16, free=4 * 2 * BATCH_BYTES) == (2, [])


def test_small_shared_memory_is_said(choose):
    number, (line,) = choose("cuda:0", free=BATCH_BYTES - 1)
    assert number == 0
    assert "--shm-size" in line


def test_free_bytes_of_a_folder(tmp_path):
    assert workers._read_free_bytes(str(tmp_path)) > 0
    assert workers._read_free_bytes(str(tmp_path / "missing")) == 0
