"""What all commands share."""

import json
import math
from typing import Annotated

import pytest
import typer

from lgc.device import Device
from lgc.errors import DeviceError, TrainingError, UsageError
from lgc.tools.cli.console import (
    emit,
    finite,
    grid,
    new_app,
    parse_percent,
    parse_seconds,
    parse_size,
    pick_device,
    run,
)


@pytest.fixture
def leave(monkeypatch, capsys):
    """Runs a command that does `body`; exit code, stdout and stderr."""

    def call(body, *words):
        app = new_app()

        @app.command()
        def command(number: Annotated[int, typer.Option()] = 0) -> int:
            return body()

        monkeypatch.setattr("sys.argv", ["/somewhere/lgc-test", *words])
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
def test_a_command_leaves_with_what_it_returns(leave, code):
    assert leave(lambda: code) == (code, "", "")
    assert leave(lambda: None) == (0, "", "")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("too much\n  of it"), 2, "too much of it"),
        (TrainingError("the loss is not a number"), 1, "the loss is not a number"),
        (PermissionError(13, "Permission denied", "/root/x"), 2, "/root/x: Permission denied"),
        (OSError(28, "No space left on device"), 2, "the machine: No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted; what is finished is kept, the same command goes on from there"),
    ],
    ids=repr,
)
def test_an_error_is_one_line_and_its_code(leave, error, code, line):
    found, out, err = leave(raising(error))
    assert (found, out, err.strip()) == (code, "", f"lgc-test: {line}")


def test_wrong_words_point_to_the_help(leave):
    code, out, err = leave(lambda: 0, "--numbr", "1")
    assert (code, out) == (2, "")
    assert err.startswith("lgc-test: No such option")
    assert err.endswith("(see lgc-test --help)\n")
    assert "Invalid value for '--number'" in leave(lambda: 0, "--number", "one")[2]


def test_a_bug_keeps_its_traceback(monkeypatch):
    app = new_app()
    app.command()(raising(ZeroDivisionError("bug")))
    monkeypatch.setattr("sys.argv", ["lgc-test"])
    with pytest.raises(ZeroDivisionError):
        run(app)


@pytest.mark.parametrize(("text", "size"), [("720x960", (720, 960)), ("1x99999", (1, 99999))])
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "720", "720X960", "720x", "x960", "0x5", "-1x5", "720x960x3", "123456x1", " 1x1"])
def test_what_is_no_size(text):
    with pytest.raises(UsageError, match="write height and width as in 720x960"):
        parse_size(text)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("4m", 240), ("1.5h", 5400), ("0.5s", 0.5)])
def test_durations(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "-1s", "4 m", "1d", "m", "1e3", "1.s"])
def test_what_is_no_duration(text):
    with pytest.raises(UsageError, match="write it as 90s, 4m or 1h"):
        parse_seconds(text)


@pytest.mark.parametrize(("text", "percent"), [("5%", 5), ("5", 5), ("0.5%", 0.5), ("0", 0)])
def test_percentages(text, percent):
    assert parse_percent(text) == percent


@pytest.mark.parametrize("text", ["", "%", "5 %", "-5%", "5%%", "five"])
def test_what_is_no_percentage(text):
    with pytest.raises(UsageError, match="write it as 5%"):
        parse_percent(text)


def test_numbers_that_json_cannot_hold_become_null(capsys):
    content = {"a": [1.5, math.nan, (math.inf, "x")], "b": {"c": -math.inf, "d": None, "e": True}}
    assert finite(content) == {"a": [1.5, None, [None, "x"]], "b": {"c": None, "d": None, "e": True}}
    emit(content, True)
    assert json.loads(capsys.readouterr().out) == finite(content)


def test_a_table_for_people_keeps_long_keys_whole(capsys):
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
    """Pretends that torch sees one GPU."""
    monkeypatch.setattr("lgc.profiler.machine.devices.list_devices", lambda: {"cpu": "CPU", "cuda:0": "GPU"})


def test_left_out_device_is_the_tables(one_gpu, capsys):
    assert pick_device(None, [Device("cuda:0")], "searching") == "cuda:0"
    assert pick_device(None, [Device("cpu")], "searching") == "cpu"
    assert pick_device("cpu", [Device("cuda:0")], "searching") == "cpu"
    assert pick_device("cuda", [Device("cpu")], "searching") == "cuda:0"
    assert capsys.readouterr().err == ""


def test_missing_table_device_is_remarked_on(one_gpu, monkeypatch, capsys):
    monkeypatch.setattr("lgc.profiler.machine.devices.diagnose_cuda", lambda device: f"no {device}")
    assert pick_device(None, [Device("cuda:1")], "searching") == "cpu"
    wanted = "searching on cpu: the table's device cuda:1 is not present (no cuda:1); --device chooses another\n"
    assert capsys.readouterr().err == wanted


def test_processes_take_gpus_by_rank(one_gpu, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert pick_device(None, [Device("cuda:1")], "training") == "cuda:0"


def test_asked_device_must_be_present(one_gpu):
    with pytest.raises(DeviceError, match="no device 'cuda:2' on this machine"):
        pick_device("cuda:2", [Device("cuda:0")], "searching")
