"""Options made from a settings model."""

import json
from typing import Annotated, Literal

import pytest
import typer
from pydantic import BaseModel, ConfigDict, Field

from lgc.errors import UsageError
from lgc.search.config import SearchRunConfig
from lgc.search.training.config import TrainConfig
from lgc.tools import search, train
from lgc.tools.cli.console import emit, new_app
from lgc.tools.cli.model_options import add_options


class Settings(BaseModel):
    """Settings of every type that options have."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    steps: Annotated[int, Field(ge=1)]
    """Number of steps."""
    rate: Annotated[float, Field(ge=0, le=1)] | None = None
    """Rate of `something`
    over two lines."""
    speed: Annotated[float, Field(gt=0)] = 2.0
    """Speed."""
    share: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share."""
    colour: Literal["red", "green"] = "red"
    """Colour."""
    size: tuple[int, int] | None = None
    """Height and width."""
    fast: bool = True
    """Run fast."""
    loud: bool = False
    """Be loud."""
    hidden: int = 3
    """Not an option."""


@pytest.fixture
def command():
    """Return a command that prints its values."""
    app = new_app()

    @app.command()
    @add_options(
        Settings, "steps", "rate", "speed", "share", "colour", "size", "fast", "loud", steps="as many as needed"
    )
    def show(
        loud: bool, name: str = "x", as_json: Annotated[bool, typer.Option("--json")] = False, **settings: object
    ) -> None:
        emit({"loud": loud, "name": name, **settings}, as_json=True)

    return typer.main.get_command(app)


def run(command, capsys, *arguments):
    command(list(arguments), standalone_mode=False)
    return capsys.readouterr().out


def test_defaults_are_the_fields(command, capsys):
    values = json.loads(run(command, capsys))
    defaults = {
        "steps": None,
        "rate": None,
        "speed": 2.0,
        "share": None,
        "colour": "red",
        "size": None,
        "fast": True,
        "loud": False,
    }
    assert values == {"name": "x", **defaults}
    assert Settings(**{**defaults, "steps": 1}).hidden == 3


def test_given_values_are_parsed(command, capsys):
    arguments = "--steps 2 --rate 0.5 --speed 1e-3 --share 0 --colour green --size 16x24 --no-fast --loud --name y"
    values = json.loads(run(command, capsys, *arguments.split()))
    expected = {
        "steps": 2,
        "rate": 0.5,
        "speed": 0.001,
        "share": 0.0,
        "colour": "green",
        "size": [16, 24],
        "fast": False,
        "loud": True,
        "name": "y",
    }
    assert values == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--steps 0", "--steps"),
        ("--rate 2", "--rate"),
        ("--colour blue", "'blue' is not one of 'red', 'green'"),
    ],
)
def test_invalid_values_are_rejected(command, arguments, message):
    with pytest.raises(typer.BadParameter) as error:
        command(arguments.split(), standalone_mode=False)
    assert message in error.value.format_message()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--speed 0", "--speed must be above 0"),
        ("--speed nan", "--speed must be above 0"),
        ("--share 1", "--share must be at least 0 and below 1"),
        ("--share -0.1", "--share must be at least 0 and below 1"),
    ],
)
def test_exclusive_bounds_are_named(command, arguments, message):
    with pytest.raises(UsageError) as error:
        command(arguments.split(), standalone_mode=False)
    assert str(error.value) == message


def test_invalid_size_is_a_usage_error(command):
    with pytest.raises(UsageError, match="invalid size 'big'"):
        command(["--size", "big"], standalone_mode=False)


def test_help_is_the_fields(command, capsys):
    text = " ".join(run(command, capsys, "--help").split())
    assert "Number of steps. [default: (as many as needed); x>=1]" in text
    assert "Rate of something over two lines. [0<=x<=1]" in text
    assert "--speed <float range> Speed. [x>0] [default: 2.0]" in text
    assert "--share <float range> Share. [0<=x<1]" in text
    assert "--colour <red|green> Colour. [default: red]" in text
    assert "--size HxW" in text
    assert "--fast / --no-fast" in text
    assert not any(flag in text for flag in ("--hidden", "--no-loud"))
    assert text.index("--loud Be loud.") < text.index("--json")


@pytest.mark.parametrize(
    ("module", "fields", "model"),
    [(search, search.SEARCH_FIELDS, SearchRunConfig), (train, train.TRAIN_FIELDS, TrainConfig)],
    ids=["search", "train"],
)
def test_command_has_an_option_per_field(module, fields, model):
    options = {parameter.name: parameter for parameter in typer.main.get_command(module.app).params}
    for name in fields:
        field = model.model_fields[name]
        assert options[name].help, name
        depends = field.default_factory is not None  # on another option
        assert depends or field.is_required() or options[name].default == field.get_default(), name
