"""Exit codes, errors, results and devices of all commands."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Annotated

import pytest
import typer

from lgc.device import Device
from lgc.errors import DeviceError, TrainingError, UsageError
from lgc.files import replace_non_finite
from lgc.profiler.machine import cpu_limits
from lgc.tools.cli.console import (
    emit,
    grid,
    new_app,
    pick_device,
    run,
    say,
    share_cores,
)

SETTINGS = ("MPLCONFIGDIR", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
"""Variables that place or stop what libraries write into the home folder."""


@pytest.fixture
def leave(monkeypatch, capsys):
    """Return a function that runs `body` as a command and returns exit code, stdout and stderr."""

    def call(body, *arguments):
        app = new_app()

        @app.command()
        def command(number: Annotated[int, typer.Option()] = 0) -> int:
            return body()

        monkeypatch.setattr("sys.argv", ["/somewhere/lgc-test", *arguments])
        with pytest.raises(SystemExit) as left:
            run(app)
        captured = capsys.readouterr()
        return left.value.code, captured.out, captured.err

    return call


def raising(error):
    def body():
        raise error

    return body


@pytest.mark.parametrize("code", [0, 1])
def test_returned_value_is_the_exit_code(leave, code):
    assert leave(lambda: code) == (code, "", "")
    assert leave(lambda: None) == (0, "", "")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("too much\n  of it"), 2, "too much of it"),
        (TrainingError("the loss is not a number"), 1, "the loss is not a number"),
        (PermissionError(13, "Permission denied", "/root/x"), 2, "/root/x: Permission denied"),
        (MemoryError(), 2, "not enough memory: choose a smaller input or network, or close other programs"),
        (OSError(28, "No space left on device"), 2, "operating system: No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted: finished work is kept; run the same command again to resume"),
    ],
    ids=repr,
)
def test_error_sets_line_and_exit_code(leave, error, code, line):
    status, out, err = leave(raising(error))
    assert (status, out, err.strip()) == (code, "", f"lgc-test: {line}")


def test_exit_of_user_code_is_an_error(leave):
    code, out, err = leave(raising(SystemExit(0)))
    assert (code, out) == (2, "")
    assert "SystemExit: the code ends the program with exit code 0" in err


def test_prints_of_user_code_go_to_stderr(leave):
    def body():
        print("user code")
        emit({"x": 1}, True)
        emit({}, False, "line")

    code, out, err = leave(body)
    assert (code, out.split(), err) == (0, ["{", '"x":', "1", "}", "line"], "user code\n")


def test_messages_do_not_steer_the_terminal(leave):
    assert leave(raising(UsageError("x\x1b[2J\x9b"))) == (2, "", "lgc-test: x\\x1b[2J\\x9b\n")
    assert leave(lambda: say("a\x1b]0;b\x07"))[2] == "a\\x1b]0;b\\x07\n"


def test_usage_errors_point_to_help(leave):
    code, out, err = leave(lambda: 0, "--numbr", "1")
    assert (code, out) == (2, "")
    assert err.startswith("lgc-test: No such option")
    assert err.endswith("(see lgc-test --help)\n")
    assert "Invalid value for '--number'" in leave(lambda: 0, "--number", "one")[2]


def test_bug_keeps_its_traceback(monkeypatch):
    app = new_app()
    app.command()(raising(ZeroDivisionError("bug")))
    monkeypatch.setattr("sys.argv", ["lgc-test"])
    with pytest.raises(ZeroDivisionError):
        run(app)


PRINT_TABLE = """
from lgc.tools.cli.console import emit, grid, new_app, run

app = new_app()

@app.command()
def show():
    table = grid("title", "name", "accuracy")
    for _ in range(5000):
        table.add_row("\u2588", "0.5 \u00b1 0.1")
    emit({}, False, table)
    return 0

run(app)
"""


def test_closed_pipe_ends_in_silence():
    process = subprocess.Popen([sys.executable, "-c", PRINT_TABLE], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == (b"", 1)
    process.stderr.close()


def test_narrow_encoding_replaces_characters():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", PRINT_TABLE], env=environment, capture_output=True, check=True)
    assert b"0.5 ? 0.1" in done.stdout


IMPORT_LIBRARIES = """
from lgc.tools.cli.console import new_app, run

app = new_app()

@app.command()
def load():
    import torchmetrics, onnxruntime
    onnxruntime.SessionOptions()
    return 0

run(app)
"""


def test_missing_home_is_no_warning():
    kept = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    words = [sys.executable, "-c", IMPORT_LIBRARIES]
    done = subprocess.run(words, env=kept | {"HOME": os.devnull}, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_threads_of_torch_follow_the_quota(monkeypatch):
    monkeypatch.setattr(cpu_limits, "read_cpu_limits", lambda: cpu_limits.CpuLimits(cores=8, allowed=8, quota=2.5))
    monkeypatch.setattr(os, "environ", {})
    share_cores()
    assert os.environ == {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "2"}
    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": "3"})
    share_cores()
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_non_finite_numbers_become_null(capsys):
    content = {"a": [1.5, math.nan, (math.inf, "x")], "b": {"c": -math.inf, "d": None, "e": True}}
    assert replace_non_finite(content) == {"a": [1.5, None, [None, "x"]], "b": {"c": None, "d": None, "e": True}}
    emit(content, True)
    assert json.loads(capsys.readouterr().out) == replace_non_finite(content)


def test_printed_table_keeps_long_keys(capsys):
    table = grid("a title", "key", "ms", numbers=1)
    key = "sep_conv_3x3_d2/c1024-1024/769x1537/s2/b1"
    table.add_row(key, "1.25")
    emit({}, False, table, "and a line")
    out = capsys.readouterr().out
    assert "a title" in out
    (row,) = (line for line in out.splitlines() if key in line)
    assert row.split() == [key, "1.25"]
    assert out.endswith("and a line\n")


@pytest.fixture
def one_gpu(monkeypatch):
    """Make torch report one GPU."""
    monkeypatch.setattr("lgc.profiler.machine.devices.list_devices", lambda: {"cpu": "CPU", "cuda:0": "GPU"})


def test_default_device_is_the_tables(one_gpu, capsys):
    assert pick_device(None, [Device("cuda:0")], "searching") == "cuda:0"
    assert pick_device("cpu", [Device("cuda:0")], "searching") == "cpu"
    assert pick_device("cuda", [Device("cpu")], "searching") == "cuda:0"
    assert capsys.readouterr().err == ""
    assert pick_device(None, [Device("cpu")], "searching") == "cpu"
    expected = "searching on cpu: its latency table is of a CPU; choose another device with --device\n"
    assert capsys.readouterr().err == expected


def test_missing_table_device_is_reported(one_gpu, monkeypatch, capsys):
    monkeypatch.setattr("lgc.profiler.machine.devices.diagnose_cuda", lambda device: f"no {device}")
    assert pick_device(None, [Device("cuda:1")], "searching") == "cpu"
    expected = (
        "searching on cpu: the table's device cuda:1 is not present (no cuda:1); choose another device with --device\n"
    )
    assert capsys.readouterr().err == expected


def test_processes_take_gpus_by_rank(one_gpu, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert pick_device(None, [Device("cuda:1")], "training") == "cuda:0"


def test_requested_device_must_be_present(one_gpu):
    with pytest.raises(DeviceError, match="no device 'cuda:2' on this machine"):
        pick_device("cuda:2", [Device("cuda:0")], "searching")


class TestInterrupt:
    """A Ctrl-C ends the command with 130, wherever it arrives."""

    def test_dropped(self, leave):
        """As C extensions do while they are being imported, and Python in finalizers."""

        def body():
            with suppress(BaseException):
                signal.raise_signal(signal.SIGINT)
            time.sleep(60)

        code, out, err = leave(body)
        assert (code, out) == (130, "")
        assert err == "lgc-test: interrupted: finished work is kept; run the same command again to resume\n"

    def test_turned_into_another_error(self, leave):
        def body():
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt as error:
                raise ImportError("no module named x") from error

        assert leave(body)[0] == 130

    def test_handler_is_restored(self, leave):
        before = signal.getsignal(signal.SIGINT)
        leave(lambda: 0)
        assert signal.getsignal(signal.SIGINT) is before
