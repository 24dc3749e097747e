"""What is written down of an engine beside its bytes, as JSON, and an engine made of both again."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ....errors import FileFormatError
from .engine import Engine

_OMITTED_FIELDS = ("data", "cached", "remarks")
"""What an engine is beside, or what holds of one process only."""


def make_header(engine: Engine) -> dict[str, Any]:
    """Everything of an engine but its bytes."""
    return {key: value for key, value in asdict(engine).items() if key not in _OMITTED_FIELDS}


def parse_engine(header: Any, data: bytes, where: str, **now: Any) -> Engine:
    """The engine of a header and its bytes.

    Args:
        header: what `make_header` gave; further keys are passed over.
        data: the serialised engine.
        where: names the header's file in errors.
        now: fields of this process, `cached` or `remarks`.

    Raises:
        FileFormatError: a field is missing or of the wrong type, or there are no inputs or no outputs.
    """
    fields = dict(header) if isinstance(header, dict) else {}
    try:
        engine = TypeAdapter(Engine).validate_python({**fields, "data": data, **now})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise FileFormatError(f"{where} describes no engine: {place}: {first['msg']}") from error
    for name, tensors in (("inputs", engine.inputs), ("outputs", engine.outputs)):
        if not tensors:
            raise FileFormatError(f"{where} describes no engine: {name}: there are none")
    return engine
