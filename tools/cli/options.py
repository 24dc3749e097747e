"""Options shared by several commands: their choices, help texts and parsers, each defined once."""

from __future__ import annotations

import math
import operator
import re
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import UsageError
from ...profiler.backends import BACKENDS

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, help="CPU threads per operator.")]
PluginOption = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="FILE|MODULE", help="Python file or module that registers operators; repeatable."),
]
SecondsOption = Annotated[str, typer.Option("--seconds", metavar="TIME", help="Measuring time per network.")]
DataOption = Annotated[
    Path, typer.Option("--data", metavar="FILE|DIR", help="Dataset: a dataset.yaml, or a folder of images and labels.")
]


def load_operators(plugins: Sequence[str] | None) -> None:
    """Load the plugins of `--plugin`.

    Raises:
        PluginError: One cannot be loaded; see `plugins.load_plugin`.
    """
    from ...plugins import load_plugins

    load_plugins(plugins or ())


def suggest_command(*words: object) -> str:
    """Return a line with the command that follows, with the plugins that were loaded."""
    from ...plugins import list_plugins

    plugins = [word for plugin in list_plugins() for word in ("--plugin", plugin)]
    return f"next: {shlex.join([*map(str, words), *plugins])}"


def make_choice_option(flag: str, choices: Collection[str], help: str, show_default: str | bool = True) -> Any:
    """Return an option with the names of a registry as its choices; the command gets them as plain strings."""

    def parse(name: str) -> str:
        if name not in choices:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, choices))}.")
        return name

    return typer.Option(flag, metavar=f"<{'|'.join(choices)}>", parser=parse, help=help, show_default=show_default)


COMPARISONS: dict[str, tuple[str, str, Callable[[float, float], bool]]] = {
    "minimum": ("at least", ">=", operator.ge),
    "exclusiveMinimum": ("above", ">", operator.gt),
    "maximum": ("at most", "<=", operator.le),
    "exclusiveMaximum": ("below", "<", operator.lt),
}
"""Bound of a JSON schema -> its words, its sign and its comparison."""


def make_range_option(
    flag: str,
    help: str,
    bounds: Mapping[str, float],
    show_default: str | bool = True,
    metavar: str = "<float range>",
) -> Any:
    """Return an option of a number within bounds that may be exclusive, which typer's own ranges cannot be.

    Args:
        flag: name of the option.
        help: help text; the bounds are appended.
        bounds: key of `COMPARISONS` -> bound.
        show_default: see `make_backend_option`.
        metavar: name of the value in the help.
    """
    words = " and ".join(f"{COMPARISONS[name][0]} {bound:g}" for name, bound in bounds.items())

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError as error:
            raise typer.BadParameter(f"{text!r} is not a valid float.") from error
        if not all(COMPARISONS[name][2](number, bound) for name, bound in bounds.items()):
            raise UsageError(f"{flag} must be {words}")
        if math.isinf(number):
            raise UsageError(f"{flag} must be finite")
        return number

    shown = f"{help} [{_format_range(bounds)}]"
    return typer.Option(flag, metavar=metavar, parser=parse, help=shown, show_default=show_default)


def _format_range(bounds: Mapping[str, float]) -> str:
    """Return the bounds as typer shows its own, e.g. `0<=x<1` or `x>0`."""
    signs = [(COMPARISONS[name][1], bound) for name, bound in bounds.items()]
    if len(signs) == 1:
        ((sign, bound),) = signs
        return f"x{sign}{bound:g}"
    (lower, low), (upper, high) = sorted(signs, key=lambda pair: pair[1])
    return f"{low:g}{lower.replace('>', '<')}x{upper}{high:g}"


def make_backend_option(default: str | bool, rest: str = "") -> Any:
    """Return the option `--backend`.

    Args:
        default: description of the default where it depends on other options; False to show none.
        rest: rest of the help's sentence, e.g. `; repeatable`.
    """
    return make_choice_option("--backend", BACKENDS, f"Inference backend{rest}.", default)


def make_device_option(default: str | bool = True, purpose: str = "") -> Any:
    """Return the option `--device`; `default` is as in `make_backend_option`, `purpose` is an infinitive."""
    return typer.Option("--device", help=f"Device{purpose and f' {purpose}'}: cpu or cuda:N.", show_default=default)


def make_seed_option(scope: str = "") -> Any:
    """Return the option `--seed`; `scope` names the random choices where they are few."""
    return typer.Option("--seed", min=0, help=f"Random seed{scope and f' of {scope}'}.")


def make_space_option(default: str | bool = True) -> Any:
    """Return the option `--space`; `default` is as in `make_backend_option`."""
    return typer.Option(
        "--space", help="Search space: name of a preset, a YAML file, or a table that has it.", show_default=default
    )


def is_given(context: typer.Context, name: str) -> bool:
    """Return True if the command line has the parameter `name`, also with its default value."""
    origin = context.get_parameter_source(name)
    return origin is not None and origin.name == "COMMANDLINE"


def parse_size(text: str) -> tuple[int, int]:
    """Return (height, width) in pixels from `HxW`.

    Raises:
        UsageError: the text has another form, or a side is 0.
    """
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None or not all(int(side) for side in match.groups()):
        raise UsageError(f"invalid size {text!r}: write height and width, e.g. 720x960")
    return int(match[1]), int(match[2])


def parse_seconds(text: str) -> float:
    """Return seconds from `90`, `90s`, `4m` or `1.5h`.

    Raises:
        UsageError: the text has another form, or is 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None or float(match[1]) == 0:
        raise UsageError(f"invalid duration {text!r}: write e.g. 90s, 4m or 1h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def parse_percent(text: str) -> float:
    """Return percent from `5%` or `5`.

    Raises:
        UsageError: the text has another form.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%?", text)
    if match is None:
        raise UsageError(f"invalid percentage {text!r}: write e.g. 5%")
    return float(match[1])
