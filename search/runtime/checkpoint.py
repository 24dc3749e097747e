"""Checkpoints: written whole or not at all, read without running code from the file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from ...errors import FileFormatError
from ...files import describe, write_atomic


def save(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers and containers of them to `path`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(path, buffer.getvalue())


def load(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint; None if there is none.

    Raises:
        FileFormatError: it is damaged or foreign.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what zip, pickle and its own checks raise
        raise FileFormatError(f"{path} is no checkpoint but {describe(path)}; delete it to start anew") from error
    if not isinstance(state, dict) or "step" not in state:
        raise FileFormatError(f"{path} is no checkpoint of lgc; delete it to start anew")
    return state
