"""Options shared by the commands: parsers."""

from pathlib import Path

import pytest

from lgc import plugins
from lgc.errors import UsageError
from lgc.tools.cli.options import parse_percent, parse_seconds, parse_size, suggest_command


@pytest.mark.parametrize(("text", "size"), [("720x960", (720, 960)), ("1x99999", (1, 99999))])
def test_valid_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "720", "720X960", "720x", "x960", "0x5", "-1x5", "720x960x3", "123456x1", " 1x1"])
def test_invalid_sizes(text):
    with pytest.raises(UsageError, match=r"invalid size .*: write height and width"):
        parse_size(text)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("4m", 240), ("1.5h", 5400), ("0.5s", 0.5)])
def test_valid_durations(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "-1s", "4 m", "1d", "m", "1e3", "1.s"])
def test_invalid_durations(text):
    with pytest.raises(UsageError, match=r"invalid duration .*: write e.g. 90s, 4m or 1h"):
        parse_seconds(text)


@pytest.mark.parametrize(("text", "percent"), [("5%", 5), ("5", 5), ("0.5%", 0.5), ("0", 0)])
def test_valid_percentages(text, percent):
    assert parse_percent(text) == percent


@pytest.mark.parametrize("text", ["", "%", "5 %", "-5%", "5%%", "five"])
def test_invalid_percentages(text):
    with pytest.raises(UsageError, match=r"invalid percentage .*: write e.g. 5%"):
        parse_percent(text)


def test_next_command_has_the_plugins(monkeypatch):
    monkeypatch.setattr(plugins, "list_plugins", lambda: ["/my ops.py"])
    assert suggest_command("lgc-train", Path("run"), "--data", "DIR") == (
        "next: lgc-train run --data DIR --plugin '/my ops.py'"
    )
