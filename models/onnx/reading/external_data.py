"""Weights in files next to an ONNX file: reading, checks, embedding."""

from __future__ import annotations

import math
import os
from pathlib import Path, PureWindowsPath
from typing import Any, BinaryIO

from ....errors import FileFormatError
from ....files import LFS_POINTER, describe, is_lfs_pointer
from ..graphs import RawModel, walk_tensors

MAX_MODEL_BYTES = 2**31 - 1
"""Largest ONNX file: protobuf's limit."""
PACKED_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
"""Type with several values per byte -> bits of a value."""


def embed_external_data(raw: RawModel, path: Path | None) -> None:
    """Copy weights from other files into the model.

    Args:
        raw: Model of the file.
        path: ONNX file, whose folder must hold the files; None if the model is in no file.

    Raises:
        FileFormatError: A file is missing, too short or outside the folder, or the weights exceed 2 GB.
    """
    import onnx

    external = onnx.TensorProto.EXTERNAL
    tensors = [tensor for tensor in walk_tensors(raw.model) if tensor.data_location == external]
    if not tensors:
        return
    sizes = [_count_bytes(tensor) for tensor in tensors]
    if sum(sizes) > MAX_MODEL_BYTES:
        raise FileFormatError(
            f"{raw.where}: its weights have {sum(sizes) / 1e9:.1f} GB, but a model must be below 2 GB to be embedded "
            "in one ONNX file: convert the weights to float16"
        )
    groups: dict[str, list[tuple[Any, int]]] = {}
    for tensor, size in zip(tensors, sizes, strict=True):
        groups.setdefault(_read_entries(tensor).get("location", ""), []).append((tensor, size))
    for location, group in groups.items():
        data_path = _find_file(location, path, raw, f"weight {group[0][0].name!r}")
        with data_path.open("rb") as file:
            for tensor, size in group:
                tensor.raw_data = _read(tensor, size, file, data_path, raw.where)
                tensor.ClearField("external_data")
                tensor.data_location = onnx.TensorProto.DEFAULT
    raw.change()


def _count_bytes(tensor: Any) -> int:
    """Return the size of a tensor's values in bytes."""
    from onnx import TensorProto, helper

    kind = TensorProto.DataType.Name(tensor.data_type)
    bits = PACKED_BITS.get(kind) or 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    size: int = math.ceil(math.prod(tensor.dims) * bits / 8)
    return size


def _read_entries(tensor: Any) -> dict[str, str]:
    """Return the place of a tensor in another file: location, offset, length."""
    return {entry.key: entry.value for entry in tensor.external_data}


def _find_file(location: str, model: Path | None, raw: RawModel, weight: str) -> Path:
    """Return the path of a file of weights; errors name the first weight in it."""
    where = raw.where
    if model is None:
        raise FileFormatError(f"{where}: {weight} is in the file {location!r}: read the model from its folder")
    path = _locate(location, model, where, weight)
    if path != model.parent / location:
        remark = f"the path of its weights, {location}, has the separators of Windows: ONNX Runtime may not find them"
        raw.remarks.append(remark)
    if not path.is_file():
        raise FileFormatError(f"{where}: {weight} is in {path}, which is {describe(path)}: copy it next to the model")
    if is_lfs_pointer(path):
        raise FileFormatError(f"{where}: {weight} is in {path}: it is {LFS_POINTER}")
    return path


def _read(tensor: Any, size: int, file: BinaryIO, path: Path, where: str) -> bytes:
    """Return the bytes of a tensor from its file at `path`."""
    entries, weight = _read_entries(tensor), f"weight {tensor.name!r}"
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or size)
    except ValueError as error:
        raise FileFormatError(f"{where}: {weight} has an invalid offset or length in {path}") from error
    if length != size or offset < 0:
        raise FileFormatError(f"{where}: {weight} has {size} bytes, but {length} bytes at {offset} of {path} are named")
    file.seek(offset)
    data = file.read(length)
    if len(data) < length:
        raise FileFormatError(
            f"{where}: {weight} needs bytes {offset} to {offset + length} of {path}, which has only "
            f"{path.stat().st_size} ({describe(path)}): copy it again"
        )
    return data


def _locate(location: str, model: Path, where: str, weight: str) -> Path:
    """Return the path of a file of weights, which is in the model's folder.

    A link may lead out of the folder if the model is a link too and both lead to the same folder, as in caches of
    downloads.

    Raises:
        FileFormatError: The path leaves the folder.
    """
    folder = model.parent
    windows = PureWindowsPath(location)
    path = folder / location
    if not path.exists() and not windows.anchor:
        path = folder.joinpath(*windows.parts)
    inside = Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder))
    if windows.anchor or not inside:
        raise FileFormatError(
            f"{where}: {weight} is in {location!r}, outside the model's folder, which is not allowed: copy the file "
            "into the folder and save the model again"
        )
    target = path.resolve()
    if not target.is_relative_to(folder.resolve()) and target.parent != model.resolve().parent:
        raise FileFormatError(
            f"{where}: {weight} is in {location!r}, a link to {target}, outside the model's folder, which is not "
            "allowed: replace the link by a copy of the file"
        )
    return path
