"""Options of `lgc-train` under every supported version of typer."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace

import pytest

from lgc.errors import UsageError
from lgc.models.nets.definition import RunNetwork
from lgc.search.data.synthetic.writers import write_scenes
from lgc.search.training.config import TrainConfig
from lgc.tools import train as command

SOURCE, DATA = Path("run"), Path("scenes")


class Origin(IntEnum):
    """Origin of a value, as in recent versions of click: its `str` is a digit."""

    COMMANDLINE = 1
    DEFAULT = 3


class Context:
    """Context as of typer 0.21: `params` holds the unconverted texts of the command line."""

    def __init__(self, *flags):
        self.params = {"source": str(SOURCE), "data": str(DATA), "workers": "0", "steps": "2"}
        self.flags = flags

    def get_parameter_source(self, name):
        return Origin.COMMANDLINE if name in self.flags else Origin.DEFAULT


@pytest.mark.parametrize(
    ("flag", "evaluate", "mode"), [("ohem", True, "without"), ("warm_up", True, "without"), ("split", False, "with")]
)
def test_option_of_the_other_mode_is_rejected(flag, evaluate, mode):
    message = f"--{flag.replace('_', '-')} can only be used {mode} --evaluate"
    with pytest.raises(UsageError, match=message):
        command.train(Context(flag), DATA, SOURCE, evaluate=evaluate, workers=0)


def test_missing_labels_are_said_once(call, tmp_path):
    write_scenes(tmp_path / "data", "camvid-segnet", {"train": 1, "val": 1, "test": 0}, (32, 32), 0)
    for label in tmp_path.rglob("*annot/*.png"):
        label.unlink()
    arguments = ("--network", "peer:fast-scnn", "--input", "32x32", "--data", tmp_path / "data")
    done = call("lgc-train", *arguments, "--steps", 1, "--out", tmp_path / "run")
    assert done.code == 2
    assert done.err.count("no label") == 1


@pytest.mark.parametrize("evaluate", [False, True])
def test_values_are_the_converted_ones(evaluate, monkeypatch):
    calls = []
    monkeypatch.setattr(command, "_table_devices", lambda source: calls.append(source / "architecture.json") or [])
    monkeypatch.setattr(command, "pick_device", lambda *_: calls.append("device"))
    monkeypatch.setattr(command, "announce_dataset", lambda *_: None)
    monkeypatch.setattr(command, "_make_table", lambda result: None)
    monkeypatch.setattr(command, "emit", lambda *_: None)
    outcome = SimpleNamespace(from_scratch=(), as_dict=dict)
    for name in ("train.train", "evaluation.evaluate_run"):
        monkeypatch.setattr(f"lgc.search.training.{name}", lambda *args, **_: calls.append(args) or outcome)
    settings = {"workers": 0} if evaluate else {"steps": 2, "teacher": None}
    command.train(Context(*([] if evaluate else ["steps"])), DATA, SOURCE, evaluate=evaluate, **settings)
    last = "val" if evaluate else TrainConfig(steps=2)
    assert calls == [SOURCE / "architecture.json", "device", (RunNetwork(SOURCE), DATA, last)]
