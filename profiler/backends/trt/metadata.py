"""Header of an engine, stored as JSON with the engine's bytes, and its parser."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pydantic import JsonValue, TypeAdapter, ValidationError

from ....errors import FileFormatError
from ....models.space.settings import format_validation_error
from .engine import Engine

_OMITTED_FIELDS = ("data", "cached", "remarks")
"""Fields stored elsewhere, or valid in one process only."""


def make_header(engine: Engine) -> dict[str, JsonValue]:
    """Return the header of an engine: all fields but its bytes and those of this process."""
    return {key: value for key, value in asdict(engine).items() if key not in _OMITTED_FIELDS}


def parse_engine(header: Any, data: bytes, source: str, **process_fields: Any) -> Engine:
    """Return the engine of a header and its bytes.

    Args:
        header: header of `make_header`; further keys are ignored.
        data: serialised engine.
        source: name of the header's file in errors.
        process_fields: fields of this process, `cached` or `remarks`.

    Raises:
        FileFormatError: a field is missing or has the wrong type, or there are no inputs or no outputs.
    """
    fields = dict(header) if isinstance(header, dict) else {}
    try:
        engine = TypeAdapter(Engine).validate_python({**fields, "data": data, **process_fields})
    except ValidationError as error:
        raise FileFormatError(f"invalid engine description {source}: {format_validation_error(error)}") from error
    for name, tensors in (("inputs", engine.inputs), ("outputs", engine.outputs)):
        if not tensors:
            raise FileFormatError(f"invalid engine description {source}: {name}: must not be empty")
    return engine
