"""Engine as a pair of files: NAME.engine, as `trtexec --loadEngine` reads it, and its description NAME.engine.json."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ....errors import FileFormatError, MismatchError
from ....files import format_error, is_lfs_pointer, read_text, write_atomic
from .engine import Engine, EngineBuilder
from .metadata import make_header, parse_engine

if TYPE_CHECKING:
    from pydantic import JsonValue

ENGINE_SCHEMA_VERSION = 1
EXPORT_COMMAND = "lgc-export --trt"


def write_engine_files(engine: Engine, path: Path) -> Path:
    """Write an engine to `path` and its description next to it, and return the path of the description.

    Raises:
        OutputError: a file cannot be written.
    """
    description = {
        "schema_version": ENGINE_SCHEMA_VERSION,
        "sha256": hashlib.sha256(engine.data).hexdigest(),
        "size_bytes": engine.size_bytes,
        **make_header(engine),
    }
    write_atomic(path, engine.data)
    write_atomic(get_description_path(path), json.dumps(description, indent=1) + "\n")
    return get_description_path(path)


def read_engine_files(path: Path) -> Engine:
    """Return the engine at `path` after checking that its description belongs to it.

    Raises:
        FileFormatError: one of the two files is missing, damaged or foreign, or they do not belong together.
    """
    if not path.exists():
        raise FileFormatError(f"no such file: {path}")
    if is_lfs_pointer(path):
        raise format_error(path, "engine")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise format_error(path, "engine") from error
    description_path = get_description_path(path)
    if not description_path.exists():
        raise FileFormatError(
            f"no such file: {description_path}, the description of {path.name}; copy both files, or write them again "
            f"with `{EXPORT_COMMAND}`"
        )
    description = _read_description(description_path)
    if description.get("sha256") != hashlib.sha256(data).hexdigest():
        raise FileFormatError(
            f"{path} does not match {description_path.name}: it is truncated or from another export; write both again "
            f"with `{EXPORT_COMMAND}`"
        )
    return parse_engine(description, data, str(description_path))


def require_runnable(engine: Engine, source: str) -> None:
    """Check that an engine was built for the current CUDA device, by the installed library and version.

    Full TensorRT's engines are bound to the model of GPU, TensorRT-RTX's to the compute capability alone.

    Args:
        engine: engine, as read from its files.
        source: name of the file in errors.

    Raises:
        MismatchError: it was not; the message says for which device it was built, and how to export it again.
        BackendUnavailableError: TensorRT is not installed.
    """
    local = EngineBuilder.for_device()
    origin = (engine.flavour, engine.version, engine.compute_capability, engine.device)
    if origin != (local.library.flavour, local.library.version, local.capability, local.device):
        raise MismatchError(
            f"{source} was built by {engine.origin}, this machine has {local.description}: engines are not portable, "
            f"export it again on this machine with `{EXPORT_COMMAND}`"
        )


def get_description_path(path: Path) -> Path:
    """Return the path of an engine's description."""
    return path.with_name(f"{path.name}.json")


def _read_description(path: Path) -> dict[str, JsonValue]:
    try:
        description = json.loads(read_text(path, "description of an engine"))
    except json.JSONDecodeError as error:
        raise FileFormatError(f"{path} is damaged ({error}): write it again with `{EXPORT_COMMAND}`") from error
    version = description.get("schema_version") if isinstance(description, dict) else None
    if not isinstance(version, int):
        raise FileFormatError(f"{path} is not the description of an engine: it has no schema_version")
    if version > ENGINE_SCHEMA_VERSION:
        raise FileFormatError(
            f"{path} has schema version {version}, newer than the supported {ENGINE_SCHEMA_VERSION}: update lgc"
        )
    return dict(description)
