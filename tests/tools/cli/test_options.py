"""Options shared by the commands: choices and parsers."""

import typing

import pytest

from lgc.errors import UsageError
from lgc.lut.target import PRECISIONS
from lgc.models.space.protocol import EXPORT_SCOPES, SCOPES
from lgc.profiler.backends import BACKENDS
from lgc.profiler.deployment.network import EXPORT_PRECISIONS
from lgc.search.config import SearchConfig
from lgc.search.training.config import TrainConfig
from lgc.tools import search, train
from lgc.tools.cli.options import (
    BackendName,
    ExportPrecision,
    ExportScope,
    Precision,
    Scope,
    parse_percent,
    parse_seconds,
    parse_size,
)


@pytest.mark.parametrize(
    ("choices", "names"),
    [
        (BackendName, BACKENDS),
        (Precision, PRECISIONS),
        (ExportPrecision, EXPORT_PRECISIONS),
        (Scope, SCOPES),
        (ExportScope, EXPORT_SCOPES),
    ],
)
def test_choices_are_the_registered_names(choices, names):
    assert {choice.value for choice in choices} == set(names)


@pytest.mark.parametrize(
    ("choices", "field"),
    [
        (search.Strategy, SearchConfig.model_fields["strategy"]),
        (search.CellSharing, SearchConfig.model_fields["cells"]),
        (search.Communication, SearchConfig.model_fields["communication"]),
        (search.FusionMode, SearchConfig.model_fields["fusion"]),
        (Precision, TrainConfig.model_fields["precision"]),
        (train.TrainSplit, TrainConfig.model_fields["train_split"]),
    ],
)
def test_choices_are_the_settings_literals(choices, field):
    literals = [part for part in typing.get_args(field.annotation) if part is not type(None)]
    names = [name for part in literals for name in (typing.get_args(part) or (part,))]
    assert sorted(choice.value for choice in choices) == sorted(names)


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
