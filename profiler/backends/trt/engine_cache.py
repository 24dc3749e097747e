"""Cache of engines on disk, by model, precision, library, version and device."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ....cache_folder import explain_cache_folder, get_cache_folder
from ....errors import FileFormatError, OutputError
from ..cache import read_cache_file, write_cache_file
from .engine import Engine, EngineBuilder, describe_origin
from .metadata import make_header, parse_engine

ENGINE_FOLDER = "engines"
RECIPE_VERSION = 1
"""Increase it with every change to the model's conversion or the builder's settings."""


@dataclass(frozen=True)
class EngineKey:
    """Everything that determines an engine.

    Attributes:
        model: hash of the ONNX model.
        precision: precision of the engine.
        flavour: `TensorRT` or `TensorRT-RTX`.
        version: version of the library.
        compute_capability: compute capability of the device, e.g. `8.9`.
        device: name of the GPU that the engine is bound to; None if to none.
        recipe: `RECIPE_VERSION`.
    """

    model: str
    precision: str
    flavour: str
    version: str
    compute_capability: str
    device: str | None
    recipe: int


def load_or_build_engine(
    onnx_model: bytes, *, precision: str = "fp32", compute_capability: str | None = None, rejection: str | None = None
) -> Engine:
    """Return the engine of `build_engine`, from the cache, or build it and add it to the cache.

    A file that is damaged or foreign, or was built for another device or version, is rebuilt with a remark.

    Args:
        onnx_model: see `build_engine`.
        precision: see `build_engine`.
        compute_capability: see `build_engine`.
        rejection: the runtime's error about the cached engine, which is then removed and rebuilt.

    Raises:
        LgcError: see `build_engine`.
    """
    builder = EngineBuilder.for_device(compute_capability)
    key = _make_key(builder, onnx_model, precision)
    path = _get_path(key)
    cached, remarks = _load(path, key) if rejection is None else _discard(path, rejection)
    remarks += [remark for remark in (explain_cache_folder(),) if remark is not None]
    if cached is not None:
        return replace(cached, assumed=builder.assumed)
    built = builder.build(onnx_model, precision)
    try:
        write_cache_file(path, {"key": asdict(key), "engine": make_header(built)}, built.data)
    except OutputError as error:
        remarks.append(f"the engine is not cached: {error}")
    return replace(built, remarks=(*remarks, *built.remarks))


def _make_key(builder: EngineBuilder, onnx_model: bytes, precision: str) -> EngineKey:
    digest, library = hashlib.sha256(onnx_model).hexdigest(), builder.library
    target = builder.capability, builder.device
    return EngineKey(digest, precision, library.flavour, library.version, *target, RECIPE_VERSION)


def _get_path(key: EngineKey) -> Path:
    """Return the path of a key's engine: one file for each model, precision and device, whatever the version."""
    device = f"{key.flavour}, {key.compute_capability}, {key.device}"
    digest = hashlib.sha256(device.encode()).hexdigest()[:8]
    return get_cache_folder(ENGINE_FOLDER) / f"{_get_stem(key)}{digest}.engine"


def _get_stem(key: EngineKey) -> str:
    return f"{key.model[:32]}-{key.precision}-"


def _load(path: Path, key: EngineKey) -> tuple[Engine | None, list[str]]:
    """Return the engine at `path` if it has that key; else None, and remarks on why it is rebuilt."""
    if not path.exists():
        return None, [
            f"the cached engine is for {_describe_file(other)}: rebuilt for {_describe_key(asdict(key))}"
            for other in sorted(path.parent.glob(f"{_get_stem(key)}*.engine"))[:1]
        ]
    try:
        header, data = read_cache_file(path)
        if header.get("key") == asdict(key):
            return parse_engine(header.get("engine"), data, str(path), cached=True), []
        other_key = _describe_key(header.get("key"))
        return None, [f"the cached engine is for {other_key}: rebuilt for {_describe_key(asdict(key))}"]
    except FileFormatError as error:
        return None, [f"{error}: the engine is rebuilt"]


def _discard(path: Path, rejection: str) -> tuple[None, list[str]]:
    """Remove the engine at `path`, if the folder is writable, and return a remark on why it is rebuilt."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
    return None, [f"the cached engine does not load ({rejection}): rebuilt"]


def _describe_file(path: Path) -> str:
    try:
        return _describe_key(read_cache_file(path)[0].get("key"))
    except FileFormatError:
        return "an unknown target"


def _describe_key(key: Any) -> str:
    """Return library and target device of a key as text."""
    names = ("flavour", "version", "compute_capability", "device")
    if not isinstance(key, dict) or any(name not in key for name in names):
        return "an unknown target"
    return describe_origin(*(key[name] for name in names))
