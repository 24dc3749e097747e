"""Options made from the fields of a settings model: name, choices, bounds, default and help are the field's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from .options import COMPARISONS, make_range_option, parse_size

if TYPE_CHECKING:
    from pydantic import BaseModel

Command = TypeVar("Command", bound=Callable[..., Any])
WORKERS_DEFAULT, CACHE_DEFAULT = "by device", "by size"
"""Descriptions of the defaults of options on loading."""
_TYPES: dict[str, type] = {"integer": int, "number": float, "string": str, "boolean": bool}


def add_options(model: type[BaseModel], *fields: str, **computed: str) -> Callable[[Command], Command]:
    """Return a decorator that gives a command an option for each of the fields, before its last option.

    The command gets the values by keyword: those that it does not name arrive in its `**settings`.

    Args:
        model: settings, with a description of each field.
        fields: names of fields.
        computed: fields without a default -> description of the value that the command computes in place of None.
    """
    schemas = model.model_json_schema()["properties"]

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        *parameters, last = (
            parameter.replace(kind=parameter.KEYWORD_ONLY)
            for parameter in signature.parameters.values()
            if parameter.name not in fields and parameter.kind is not parameter.VAR_KEYWORD
        )
        parameters += [_make_parameter(name, schemas[name], computed.get(name, True)) for name in fields]
        command.__signature__ = signature.replace(parameters=[*parameters, last])  # type: ignore[attr-defined]
        return command

    return decorate


def describe_defaults(values: Mapping[str, float]) -> str:
    """Return the description of a default that depends on another option: value of that option -> default."""
    return ", ".join(f"{value:g} with {name}" for name, value in values.items())


def _make_parameter(name: str, schema: Mapping[str, Any], show_default: str | bool) -> inspect.Parameter:
    """Return the parameter of a command that typer turns into the option of a field with this JSON schema."""
    (value,) = (part for part in schema.get("anyOf", [schema]) if part["type"] != "null")
    kind: Any = Literal[tuple(value["enum"])] if "enum" in value else _TYPES.get(value["type"], str)
    default = schema.get("default")
    size: dict[str, Any] = {"metavar": "HxW", "parser": parse_size} if value["type"] == "array" else {}
    flag = f"--{name.replace('_', '-')}"
    help = " ".join(schema["description"].replace("`", "").split())
    bounds = {bound: value[bound] for bound in COMPARISONS if bound in value}
    if any(bound.startswith("exclusive") for bound in bounds):
        option = make_range_option(flag, help, bounds, show_default)
    else:
        option = typer.Option(
            f"{flag}/--no-{flag[2:]}" if default is True else flag,
            help=help,
            min=value.get("minimum"),
            max=value.get("maximum"),
            show_default=show_default,
            **size,
        )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind | None, option]
    )
