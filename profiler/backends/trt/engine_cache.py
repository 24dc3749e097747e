"""Engines kept on the disk: found again by model, precision, library, version and device, else built."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ....errors import FileFormatError, OutputError
from ..cache import get_cache_folder, read_cache_file, write_cache_file
from .engine import Engine, EngineBuilder, describe_origin
from .metadata import make_header, parse_engine

ENGINE_FOLDER = "engines"
RECIPE_VERSION = 1
"""To be raised with every change of how a model is converted and what the builder is told."""


def load_or_build_engine(
    onnx_model: bytes, *, precision: str = "fp32", compute_capability: str | None = None, rejection: str | None = None
) -> Engine:
    """The engine that `build_engine` would build, from the disk if it is there; else it is built, and kept there.

    What lies there is never trusted: a file that is damaged, foreign, or of another device or version is built anew,
    and the engine's remarks say so.

    Args:
        onnx_model: as for `build_engine`.
        precision: likewise.
        compute_capability: likewise.
        rejection: in what words the runtime refused the engine that lies there; it is thrown away and built anew.

    Raises:
        LgcError: as `build_engine` does.
    """
    builder = EngineBuilder.for_device(compute_capability)
    key = _make_key(builder, onnx_model, precision)
    path = _get_path(key)
    found, remarks = _load(path, key) if rejection is None else _discard(path, rejection)
    if found is not None:
        return replace(found, assumed=builder.assumed)
    engine = builder.build(onnx_model, precision)
    try:
        write_cache_file(path, {"key": key, "engine": make_header(engine)}, engine.data)
    except OutputError as error:
        remarks.append(f"the engine is not kept for later: {error}")
    return replace(engine, remarks=(*remarks, *engine.remarks))


def _make_key(builder: EngineBuilder, onnx_model: bytes, precision: str) -> dict[str, Any]:
    """All that decides what is built."""
    return {
        "model": hashlib.sha256(onnx_model).hexdigest(),
        "precision": precision,
        "flavour": builder.library.flavour,
        "version": builder.library.version,
        "compute_capability": builder.capability,
        "device": builder.device,
        "recipe": RECIPE_VERSION,
    }


def _get_path(key: dict[str, Any]) -> Path:
    """Where the engine of a key is kept: one file for each model, precision and device, whatever the version."""
    device = f"{key['flavour']}, {key['compute_capability']}, {key['device']}"
    digits = hashlib.sha256(device.encode()).hexdigest()[:8]
    return get_cache_folder(ENGINE_FOLDER) / f"{_get_stem(key)}{digits}.engine"


def _get_stem(key: dict[str, Any]) -> str:
    return f"{key['model'][:32]}-{key['precision']}-"


def _load(path: Path, key: dict[str, Any]) -> tuple[Engine | None, list[str]]:
    """The engine at `path`, if it is of that key; else None, and why what lies there is of no use."""
    if not path.exists():
        return None, [
            f"the engine kept on this machine is of {_describe_file(other)}: built anew for {_describe_key(key)}"
            for other in sorted(path.parent.glob(f"{_get_stem(key)}*.engine"))[:1]
        ]
    try:
        header, data = read_cache_file(path)
        if header.get("key") == key:
            return parse_engine(header.get("engine"), data, str(path), cached=True), []
        return None, [
            f"the engine kept on this machine is of {_describe_key(header.get('key'))}: built anew for {_describe_key(key)}"
        ]
    except FileFormatError as error:
        return None, [f"{error}: the engine is built anew"]


def _discard(path: Path, refused: str) -> tuple[None, list[str]]:
    """Throw the engine at `path` away, and say why; a cache that others own keeps it, and it is passed over."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
    return None, [f"the engine kept on this machine did not load ({refused}): built anew"]


def _describe_file(path: Path) -> str:
    try:
        return _describe_key(read_cache_file(path)[0].get("key"))
    except FileFormatError:
        return "something else"


def _describe_key(key: Any) -> str:
    """The library and device of a key, in words."""
    names = ("flavour", "version", "compute_capability", "device")
    if not isinstance(key, dict) or any(name not in key for name in names):
        return "something else"
    return describe_origin(*(key[name] for name in names))
