"""State dicts of any program: safetensors files, and torch files of tensors, read without running code from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
from torch import Tensor

from ....errors import FileFormatError
from ....files import format_error

ENTRIES = (
    *("state_dict_ema", "ema_state_dict", "model_ema", "ema", "mean"),
    *("state_dict", "model_state_dict", "model_state", "model", "network", "net", "module", "weights", "trainee"),
)
"""Keys under which programs, lgc among them, store a state dict. Averaged weights come first: where they are complete,
they are the better."""
Score = Callable[[Mapping[str, Tensor]], int]
"""Number of the tensors of an entry that fit a network."""
_MAX_DEPTH = 4
_TORCH_MAGIC = (b"PK\x03\x04", b"\x80")
"""First bytes of a torch file: a zip archive, or a pickle before torch 1.6."""
_FORBIDDEN_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_MAX_LISTED = 5


@dataclass(frozen=True)
class StateDict:
    """Tensors by name, from a file.

    Attributes:
        path: The file.
        tensors: Tensors by name, on the CPU.
        entry: Keys that lead to them, e.g. `ema.module`; empty for tensors at the top.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    entry: str = ""


def read_state_dict(path: Path, score: Score = lambda tensors: 0) -> StateDict:
    """Read a state dict from a safetensors or a torch file (`.pt`, `.pth`, `.ckpt`, `.bin`); its content decides.

    A torch file holds the tensors themselves or, as checkpoints of training programs do, under one of `ENTRIES`. Of
    several, the one with the highest score is read, else the first.

    Raises:
        FileFormatError: The file is missing, damaged or foreign, holds Python objects other than tensors and
            containers, or holds no tensors by name.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise format_error(path, "weights") from error
    if not head.startswith(_TORCH_MAGIC):
        return StateDict(path, _read_safetensors(path))
    content = _read_torch(path)
    entries = dict(_iter_entries(content))
    if not entries:
        raise FileFormatError(f"cannot read weights {path}: it holds no tensors by name, but {_summarise(content)}")
    entry = max(entries, key=lambda name: score(entries[name]))
    return StateDict(path, entries[entry], entry)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise format_error(path, "weights") from error


def _read_torch(path: Path) -> Any:
    import torch

    try:
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle and torch raise their own kinds
        foreign = find_foreign_object(error)
        if not foreign:
            raise format_error(path, "weights") from error
        raise FileFormatError(
            f"cannot read weights {path}: it holds Python objects ({foreign}), which only code from the file "
            "could rebuild; if you trust it, save its tensors alone, e.g. "
            "torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW)"
        ) from error


class _ScalarType:
    """Type of a NumPy number or text in a torch file, which stands in for `numpy.dtype`.

    Raises:
        UnpicklingError: The type is another one.
    """

    def __init__(self, name: str, *_: object) -> None:
        if not re.fullmatch(r"[biufc]\d{1,2}|U[1-9]\d{0,3}", name):
            raise UnpicklingError(f"GLOBAL numpy.dtype.{name}")
        self._dtype = np.dtype(name)

    def __setstate__(self, state: tuple[object, str]) -> None:
        """Set the order of bytes."""
        self._dtype = self._dtype.newbyteorder(state[1])  # type: ignore[arg-type]

    def read(self, data: bytes) -> object:
        """Return the number or text that `data` holds."""
        return np.ndarray((), self._dtype, data).item()


def _read_scalar(kind: _ScalarType, data: bytes) -> object:
    """Return a NumPy number or text, as `numpy.core.multiarray.scalar` does."""
    return kind.read(data)


_NUMPY_SCALARS: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
    (_ScalarType, "numpy.dtype"),
    *((_read_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
"""Substitutes for NumPy's code in torch files: programs store e.g. the best score next to the weights."""


def find_foreign_object(error: Exception) -> str:
    """Return the object that torch refuses to rebuild from a file, e.g. `posix.system`; empty for other errors."""
    match = _FORBIDDEN_GLOBAL.search(str(error))
    return match[1] if match else ""


def _iter_entries(content: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the keys that lead to each state dict, joined by dots, and its tensors; nested ones come first."""
    if not isinstance(content, Mapping) or depth > _MAX_DEPTH:
        return
    for key in ENTRIES:  # first, as programs store other tensors next to a state dict, e.g. the state of a generator
        yield from _iter_entries(content.get(key), f"{name}.{key}" if name else key, depth + 1)
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors and 2 * len(tensors) >= len(content):  # a state dict may have numbers too, e.g. the epoch
        yield name, tensors


def _summarise(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"an object of type {type(content).__name__}"
    keys = [str(key) for key in content]
    more = f" and {len(keys) - _MAX_LISTED} more" if len(keys) > _MAX_LISTED else ""
    return f"the keys {', '.join(keys[:_MAX_LISTED])}{more}" if keys else "an empty dict"
