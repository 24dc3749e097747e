"""Checkpoints, written atomically and read without executing code from the file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TypedDict, cast

import torch

from ...errors import FileFormatError
from ...files import describe, write_atomic
from ...models.nets.state.state_dicts import find_foreign_object


class Checkpoint(TypedDict):
    """State of a trainer: tensors, numbers and containers of them; trainers add their own."""

    step: int
    seconds: float


def save(path: Path, state: Checkpoint) -> None:
    """Write a state to `path`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(path, buffer.getvalue())


def load(path: Path) -> Checkpoint | None:
    """Read a checkpoint; None if the file does not exist.

    Raises:
        FileFormatError: the file is damaged or not a checkpoint.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle and torch raise their own kinds
        foreign = find_foreign_object(error)
        content = f"it holds code ({foreign}), which is not executed" if foreign else f"it is {describe(path)}"
        raise FileFormatError(f"cannot read checkpoint {path}: {content}; delete it to start again") from error
    if not isinstance(state, dict) or "step" not in state:
        raise FileFormatError(f"{path} is not a checkpoint of lgc; delete it to start again")
    return cast("Checkpoint", state)
