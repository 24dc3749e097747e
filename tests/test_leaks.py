"""The check that tests leave nothing behind."""

import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path

import pytest
import torch

from . import leaks


@pytest.fixture
def state(monkeypatch):
    """Return the state before the test; leaks are reported at once."""
    monkeypatch.setattr(leaks, "GRACE_S", 0.0)
    return leaks.read_state()


def test_unchanged_process_has_no_leaks(state):
    assert leaks.find_leaks(state) == []


def test_new_and_lost_variables_are_leaks(state, monkeypatch):
    monkeypatch.setenv("LGC_TEST_LEAK", "1")
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert leaks.find_leaks(state) == ["new variable LGC_TEST_LEAK", "lost variable OMP_NUM_THREADS"]


def test_changed_working_directory_is_a_leak(state, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (leak,) = leaks.find_leaks(state)
    assert leak.startswith("working directory was ")


def test_changed_torch_settings_are_a_leak(state):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert leaks.find_leaks(state) == [f"torch threads was {threads}, is {threads + 1}"]
    finally:
        torch.set_num_threads(threads)


def test_running_thread_is_a_leak(state):
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="leaked")
    thread.start()
    try:
        (leak,) = leaks.find_leaks(state)
        assert leak.startswith("new thread leaked ")
    finally:
        end.set()
        thread.join()


def test_child_process_is_a_leak(state):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert leaks.find_leaks(state) == [f"new process {child.pid}"]
    finally:
        child.communicate(b"\n")


def test_temporary_file_is_a_leak(state):
    path = Path(tempfile.gettempdir()) / "leaked.txt"
    path.touch()
    try:
        assert leaks.find_leaks(state) == [f"new file {path}"]
    finally:
        path.unlink()


def test_ending_thread_is_no_leak(state, monkeypatch):
    monkeypatch.setattr(leaks, "GRACE_S", 5.0)
    timer = threading.Timer(0.1, lambda: None)
    timer.start()
    assert leaks.find_leaks(state) == []


def test_warnings_are_errors():
    with pytest.raises(UserWarning, match="careless"):
        warnings.warn("careless", UserWarning, stacklevel=1)
