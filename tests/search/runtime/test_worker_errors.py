"""Data-loading workers that die, fail or run out of shared memory, and the start methods of their processes."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import pickletools
import re
import resource
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import torch
from torch.utils.data import get_worker_info

from lgc.errors import DataError, TrainingError, UnknownNameError
from lgc.search.data.datasets import SegmentationDataset, load_dataset
from lgc.search.runtime import worker_errors
from lgc.search.runtime.batches import load_batches, load_single_images
from lgc.search.runtime.fabric import explain_out_of_memory
from lgc.search.runtime.worker_errors import explain_worker_error, load_in_workers

from ...python_process import python_output

LOAD = """
import hashlib, multiprocessing, sys
from lgc.search.data.datasets import load_dataset
from lgc.search.runtime.batches import load_batches

dataset = load_dataset(sys.argv[1], "train", (32, 32), augment=True, seed=3)
for method, count in ((None, 0), ("fork", 2), ("spawn", 1), ("forkserver", 1)):
    multiprocessing.set_start_method(method, force=True)
    digest = hashlib.sha256()
    for batch in load_batches(dataset, 2, 1, start=1, stop=4, workers=count):
        for part in batch:
            digest.update(part.numpy().tobytes())
    print(method, digest.hexdigest())
"""
SIGNAL = """
import signal, sys
from lgc.search.data.datasets import load_dataset
from lgc.search.runtime.batches import load_batches

batches = load_batches(load_dataset(sys.argv[1], "train"), 2, 0, start=0, stop=2, workers=1)
next(batches)
print(signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL)
batches.close()
"""
TRAIN = """
import multiprocessing, sys
from lgc.tools.train import main

multiprocessing.set_start_method(sys.argv.pop(1))
main()
"""
NETWORK = """
import os
from pathlib import Path
from torch import nn
from parts import make_block

with Path(__file__).with_name("imports.txt").open("a") as file:
    file.write(f"{os.getpid()}\\n")

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.block, self.head, self.keep = make_block(), nn.Conv2d(4, classes, 1), lambda x: x  # cannot be pickled

    def forward(self, images):
        return self.keep(self.head(self.block(images)))
"""
PARTS = """
from torch import nn

def make_block():
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU())
"""


class Numbers(torch.utils.data.Dataset):
    """Tensors of a number each; for the number 3, `act` is called."""

    def __init__(self, act):
        self.act = act

    def __getitem__(self, number):
        if number == 3:
            self.act()
        return torch.full((200,), number)


def load_numbers(act, count=2):
    """Load three batches of two numbers by workers, with the errors of a training."""
    batches = [[2 * i, 2 * i + 1] for i in range(3)]
    loading = load_in_workers(Numbers(act), batches, torch.stack, count, name_item="image-{}.png".format)
    with explain_out_of_memory("--batch"), closing(loading), ThreadPoolExecutor(1) as thread:
        return thread.submit(list, loading).result()


def explain(act):
    """Return the message of a failure; without its traceback, which would keep the other workers alive."""
    try:
        load_numbers(act)
    except TrainingError as error:
        return str(error)
    raise AssertionError("no worker failed")


def raise_error(error):
    raise error


def test_workers_load_in_order():
    for count in (0, 1, 2):
        assert [batch[:, 0].tolist() for batch in load_numbers(int, count)] == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("sign", "expected"),
    [
        (
            signal.SIGKILL,
            r"was killed, probably by the system because memory ran out; .*\. Lower --workers, and run the",
        ),
        (signal.SIGTERM, r"was terminated by another program; .*: run the same command again to resume$"),
        (
            signal.SIGBUS,
            r"crashed \(Bus error\): /dev/shm \(.* MB\) was full, .*Use --workers 0, or .* --shm-size 8g\)$",
        ),
        (signal.SIGSEGV, r"crashed \(Segmentation fault\); .*\. Use --workers 0, which shows the error itself"),
    ],
)
def test_death_of_worker_is_explained(sign, expected):
    message = explain(lambda: os.kill(os.getpid(), sign))
    assert re.search(r"^the data-loading worker with process id \d+ " + expected, message), message
    assert "the last checkpoint, if any, is kept" in message
    assert "\n" not in message


def test_exit_of_worker_is_explained():
    assert re.search(r"ended with exit code 7; .*\. Use --workers 0", explain(lambda: os._exit(7)))


def test_main_thread_gets_no_exception_by_a_signal(scenes):
    """Torch's handler would raise one at any instruction, e.g. between a lock and the block that releases it."""
    assert python_output("-c", SIGNAL, str(scenes)).split() == ["True"]


def test_unknown_death_of_worker_is_explained():
    """A fork server's children are unknown to the training process, and to torch."""
    message = explain_worker_error(RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"))
    assert message.startswith("the data-loading worker with process id 7 crashed or was killed, perhaps by the system")


def test_killed_worker_leaves_a_checkpoint(run, scenes, call, tmp_path, monkeypatch, eager_checkpoints):
    """A worker really dies; the same command then gives the weights of an uninterrupted training."""
    words = ("--data", scenes, "--steps", 12, "--batch", 4, "--workers", 2, "--device", "cpu")
    whole = call("lgc-train", run, *words, "--out", tmp_path / "whole")
    assert whole.code == 0, whole.err
    real = SegmentationDataset.cut_view

    def cut_view(self, index, epoch):
        if epoch == 4 and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, index, epoch)

    monkeypatch.setattr(SegmentationDataset, "cut_view", cut_view)
    cut = call("lgc-train", run, *words, "--out", tmp_path / "cut")
    assert cut.code == 1
    assert len([line for line in cut.err.splitlines() if "data-loading worker" in line]) == 1
    assert "Traceback" not in cut.err
    assert (tmp_path / "cut" / "train.ckpt").exists()
    assert not (tmp_path / "cut" / "weights.safetensors").exists()
    monkeypatch.setattr(SegmentationDataset, "cut_view", real)
    resumed = call("lgc-train", run, *words, "--out", tmp_path / "cut")
    assert resumed.code == 0
    assert "resum" in resumed.err
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_unexpected_error_of_worker_is_named():
    message = explain(lambda: {}["label"])
    assert message.startswith(
        f"a data-loading worker failed while loading image-3.png: KeyError: 'label' ({__file__}, line "
    )
    assert message.endswith("if any, is kept. Use --workers 0, which shows the traceback")
    with pytest.raises(KeyError):  # without workers, the error itself
        load_numbers(lambda: {}["label"], 0)


@pytest.mark.parametrize("count", [0, 2])
def test_own_errors_of_workers_keep_their_kind(count):
    with pytest.raises(DataError, match=r"^no such image$"):
        load_numbers(lambda: raise_error(DataError("no such image")), count)


def test_errors_that_cannot_travel_keep_their_message():
    assert (
        explain(lambda: raise_error(UnknownNameError("colour", "rot", ["red"]))) == "unknown colour 'rot'; known: red"
    )


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_worker_without_memory_is_explained(error):
    assert explain(lambda: raise_error(error)) == "out of memory; the last checkpoint, if any, is kept. Lower --batch"


def test_worker_without_shared_memory_does_not_hang():
    """Files of this process's workers, which are what shared memory is, may have no more than a kilobyte."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))

    assert re.search(r"^out of shared memory: /dev/shm .* --workers 0, or .* --shm-size 8g\)$", explain(limit))


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root, to mount a small /dev/shm"
)
def test_small_shared_memory_is_explained(run, scenes, tmp_path):
    words = [sys.executable, "-c", "from lgc.tools.train import main; main()", run, "--data", scenes, "--steps", 4]
    words += ["--batch", 8, "--workers", 2, "--device", "cpu", "--out", tmp_path / "out"]
    mount = 'mount -t tmpfs -o size=64k tmpfs /dev/shm || exit 99; exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", *map(str, words)], capture_output=True, text=True, timeout=120
    )
    if done.returncode == 99 or "unshare failed" in done.stderr:
        pytest.skip("this machine does not let root mount")
    assert done.returncode == 1, done.stderr
    assert "out of shared memory: /dev/shm (0.1 MB), through which" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, "out of shared memory: /dev/shm"),
        (errno.EMFILE, "too many open files; .* Lower --workers, or raise the limit with ulimit -n"),
        (errno.EROFS, "cannot start 2 data-loading workers: Read-only file system. Use --workers 0"),
    ],
)
def test_queues_that_cannot_be_made_are_explained(monkeypatch, number, expected):
    monkeypatch.setattr(
        worker_errors.multiprocessing, "Queue", lambda: raise_error(OSError(number, os.strerror(number)))
    )
    with pytest.raises(TrainingError, match=expected):
        load_numbers(int)


def test_worker_that_cannot_start_leaves_none_behind(monkeypatch):
    fork, started = os.fork, []

    def fail_later():
        if started:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        started.append(None)
        return fork()

    monkeypatch.setattr(os, "fork", fail_later)
    with pytest.raises(TrainingError, match=r"cannot start 2 data-loading workers: .*unavailable\. Lower --workers"):
        next(load_in_workers([1], iter([[0]]), list, 2, name_item=str))
    assert len(started) == 1
    assert multiprocessing.active_children() == []


def test_other_errors_are_left_alone():
    assert explain_worker_error(RuntimeError("shapes differ")) is None
    assert explain_worker_error(ValueError("DataLoader worker (pid 7) is killed by signal: Killed.")) is None


def test_start_methods_load_equal_bits(scenes):
    lines = python_output("-c", LOAD, str(scenes)).split()
    assert lines[::2] == ["None", "fork", "spawn", "forkserver"]
    assert len({*lines[1::2]}) == 1


def test_nothing_of_networks_travels_to_workers(scenes, monkeypatch):
    loaders = []
    monkeypatch.setattr(worker_errors, "DataLoader", lambda *given, **options: loaders.append((given, options)) or [])
    dataset = load_dataset(scenes, "train", (32, 32), augment=True)
    list(load_batches(dataset, 2, 0, start=0, stop=1, workers=2))
    list(load_single_images(dataset.select([]), workers=2))
    for (items,), options in loaders:
        content = pickle.dumps((items, options["collate_fn"]))
        names = {word for _, word, _ in pickletools.genops(content) if isinstance(word, str)}
        assert any(name.startswith("lgc.search.data") for name in names)
        assert not any(
            name.startswith(("lgc.models.nets", "lgc.search.supernet", "torch.nn", "lgc_plugin")) for name in names
        )
    assert len(loaders) == 2


@pytest.mark.slow
def test_start_methods_train_alike(scenes, tmp_path):
    """The network of a user's file, which cannot be pickled, is imported once: workers have the data alone."""
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "parts.py").write_text(PARTS)
    weights = set()
    for method, count in (("fork", 0), ("spawn", 1), ("forkserver", 1)):
        (tmp_path / "imports.txt").unlink(missing_ok=True)
        words = ["--network", tmp_path / "net.py:Net", "--input", "32x32", "--data", scenes, "--steps", 3, "--batch", 2]
        words += ["--workers", count, "--device", "cpu", "--out", tmp_path / f"{method}-{count}", "--json"]
        result = json.loads(python_output("-c", TRAIN, method, *map(str, words)))
        weights.add((tmp_path / f"{method}-{count}" / "weights.safetensors").read_bytes())
        assert result["miou"] is not None
        assert len({*(tmp_path / "imports.txt").read_text().split()}) == 1
    assert len(weights) == 1
