"""Weights of a network in a safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ...errors import FileFormatError
from ...files import format_error, write_atomic
from ..space.protocol import Architecture
from .network import LGCNet

WEIGHTS_FILE = "weights.safetensors"
"""File name of the weights in a run folder."""


def save_weights(network: nn.Module, path: Path) -> None:
    """Write a network's weights to a safetensors file atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_atomic(path, save(tensors))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, all of them finite.

    Raises:
        FileFormatError: The file is missing, damaged or foreign, or a tensor has NaN or infinite values.
    """
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise format_error(path, "weights") from error
    require_finite(tensors, path)
    return tensors


def load_weights(path: Path, architecture: Architecture) -> dict[str, Tensor]:
    """Read the weights of `architecture` from a safetensors file.

    Raises:
        FileFormatError: See `read_weights`, or the weights belong to a different architecture.
    """
    tensors = read_weights(path)
    expected = {name: tensor.shape for name, tensor in LGCNet(architecture.space, architecture).state_dict().items()}
    if {name: tensor.shape for name, tensor in tensors.items()} != expected:
        raise FileFormatError(f"{path}: weights of a different architecture")
    return tensors


def require_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Check that tensors read from `path` have no NaN and no infinity.

    Raises:
        FileFormatError: A tensor has one; the message names the first such tensor.
    """
    bad = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if bad:
        tensor = tensors[bad[0]]
        count = int((~tensor.isfinite()).sum())
        kind = "NaN" if bool(tensor.isnan().any()) else "infinite"
        others = f", as in {len(bad) - 1} more tensors" if len(bad) > 1 else ""
        raise FileFormatError(
            f"{path}: tensor {bad[0]} has {kind} values ({count} of {tensor.numel()}){others}: "
            "train again, or use the weights of an earlier checkpoint"
        )
