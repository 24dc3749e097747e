"""An engine as a pair of files: NAME.engine, as `trtexec --loadEngine` reads it, and NAME.engine.json about it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ....errors import FileFormatError, MismatchError
from ....files import describe, read_text, write_atomic
from .engine import Engine, EngineBuilder
from .metadata import make_header, parse_engine

ENGINE_SCHEMA_VERSION = 1
EXPORT_COMMAND = "lgc-export --trt"


def write_engine_files(engine: Engine, path: Path) -> Path:
    """Write an engine to `path`, and beside it what it is of and for; the path of the latter.

    Raises:
        OutputError: a file cannot be written.
    """
    about = {
        "schema_version": ENGINE_SCHEMA_VERSION,
        "sha256": hashlib.sha256(engine.data).hexdigest(),
        "size_bytes": engine.size_bytes,
        **make_header(engine),
    }
    write_atomic(path, engine.data)
    write_atomic(get_description_path(path), json.dumps(about, indent=1) + "\n")
    return get_description_path(path)


def read_engine_files(path: Path) -> Engine:
    """The engine at `path`, after showing that it is the one that the file beside it describes.

    Raises:
        FileFormatError: one of the two is missing, damaged, foreign, or they do not belong together.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileFormatError(f"{path} is no engine but {describe(path)}") from error
    beside = get_description_path(path)
    if not beside.exists():
        raise FileFormatError(
            f"{beside} is missing, which says what {path.name} was built for: copy both files, or write them again "
            f"with {EXPORT_COMMAND}"
        )
    about = _read_description(beside)
    if about.get("sha256") != hashlib.sha256(data).hexdigest():
        raise FileFormatError(
            f"{path} is not the engine that {beside.name} describes: cut off, or of another export. Write both again "
            f"with {EXPORT_COMMAND}"
        )
    return parse_engine(about, data, str(beside))


def require_runnable(engine: Engine, where: str) -> None:
    """Show that an engine was built for the current CUDA device, by the library and version installed here.

    Full TensorRT's engines are bound to the GPU's model, TensorRT-RTX's to its compute capability alone.

    Args:
        engine: as it was read.
        where: names it in errors.

    Raises:
        MismatchError: it was not; the message says for what, and how to get one that is.
        BackendUnavailableError: no TensorRT here.
    """
    builder = EngineBuilder.for_device()
    theirs = (engine.flavour, engine.version, engine.compute_capability, engine.device)
    if theirs != (builder.library.flavour, builder.library.version, builder.capability, builder.device):
        raise MismatchError(
            f"{where} was built by {engine.origin}, here is {builder.description}: engines do not travel, export it here "
            f"with {EXPORT_COMMAND}"
        )


def get_description_path(path: Path) -> Path:
    """The file beside an engine's, which tells what it is."""
    return path.with_name(f"{path.name}.json")


def _read_description(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(read_text(path, "description of an engine"))
    except json.JSONDecodeError as error:
        raise FileFormatError(f"{path} is damaged ({error}): write it again with {EXPORT_COMMAND}") from error
    version = about.get("schema_version") if isinstance(about, dict) else None
    if not isinstance(version, int):
        raise FileFormatError(f"{path} is no description of an engine: it has no schema_version")
    if version > ENGINE_SCHEMA_VERSION:
        raise FileFormatError(f"{path} has schema version {version}, known is {ENGINE_SCHEMA_VERSION}: update lgc")
    return dict(about)
