"""Share of the time of steps that went into waiting for data, and the remark on it."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch

from lgc import control_groups
from lgc.search.data.cache.store import FileStore
from lgc.search.runtime import data_wait
from lgc.search.runtime.data_wait import DataWait
from lgc.search.runtime.fabric import open_fabric


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(data_wait.time, "monotonic", lambda: clock.now)
    return clock


def make_steps(clock, wait, step_s, waits_s):
    """Make a step for each of the durations of loading a batch."""

    def load():
        for waited_s in waits_s:
            clock.now += waited_s
            yield "batch"

    for _ in wait.watch(load()):
        clock.now += step_s


def test_share_leaves_out_the_first_batch(clock):
    wait = DataWait(open_fabric("cpu"))
    assert wait.read() is None
    make_steps(clock, wait, 3.0, [50.0])
    assert wait.read() is None
    wait = DataWait(open_fabric("cpu"))
    make_steps(clock, wait, 3.0, [50.0, 1.0, 2.0])
    # The step on the first batch ends when the second is asked for.
    assert wait.read() == pytest.approx(3 / 9)


def test_no_batches_make_no_step(clock):
    wait = DataWait(open_fabric("cpu"))
    assert list(wait.watch([])) == []
    assert wait.read() is None


@pytest.mark.parametrize(
    ("steps", "waited_s", "is_last", "expected"),
    [(31, 0.5, False, 1), (11, 0.5, False, 0), (11, 0.5, True, 1), (3, 0.5, True, 0), (60, 0.2, False, 0)],
)
def test_remark_needs_time_and_waiting(clock, caplog, steps, waited_s, is_last, expected):
    wait = DataWait(open_fabric("cpu"), "load it faster")
    make_steps(clock, wait, 1.0, [waited_s] * steps)
    with caplog.at_level(logging.WARNING, "lgc.training"):
        wait.remark(is_last=is_last)
    assert len(caplog.messages) == expected
    assert all("33 % of the time" in line and "waiting for data: load it faster" in line for line in caplog.messages)


@pytest.mark.parametrize(
    ("workers", "is_cached", "processes", "words"),
    [
        (0, False, 1, ["several processes with --workers N", "--cache ram or disk"]),
        (0, True, 1, ["several processes with --workers N"]),
        (3, True, 1, ["more than 3 processes with --workers N"]),
        (3, False, 2, ["--cache ram or disk"]),
        (3, True, 2, ["only more CPU cores"]),
    ],
)
def test_advice_is_what_can_help(monkeypatch, workers, is_cached, processes, words):
    monkeypatch.setattr(control_groups, "count_usable_cores", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    advice = data_wait.advise_loading(workers, object() if is_cached else FileStore())
    assert all(word in advice for word in words)
    assert advice.count(" or ") == ("--cache" in advice) + len(words) - 1


def test_command_makes_the_remark_once(clock, caplog):
    fabric, other = open_fabric("cpu"), open_fabric("cpu")
    for owner in (fabric, fabric, other):
        wait = DataWait(owner)
        make_steps(clock, wait, 1.0, [1.0] * 40)
        wait.remark(is_last=False)
        wait.remark(is_last=True)
    assert len(caplog.messages) == 2


def test_gpu_waits_only_while_idle(clock, monkeypatch):
    """A step of 4 s on the GPU hides 3 s of loading, but not 6 s."""
    gpu = SimpleNamespace(busy_until=100.0)

    class Event:
        def __init__(self, enable_timing):
            pass

        def record(self):
            self.at = max(clock.now, gpu.busy_until)

        def elapsed_time(self, end):
            return 1000 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    for loading_s, idle_s in ((3.0, 0.0), (6.0, 2.0)):
        wait = DataWait(SimpleNamespace(device=torch.device("cuda"), is_global_zero=True))
        start = clock.now
        for _ in wait.watch(load_slowly(clock, loading_s)):
            gpu.busy_until = max(clock.now, gpu.busy_until) + 4.0
        clock.now = gpu.busy_until
        assert wait.read() == pytest.approx(2 * idle_s / (clock.now - start - loading_s))


def load_slowly(clock, seconds):
    for _ in range(3):
        clock.now += seconds
        yield "batch"
