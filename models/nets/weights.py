"""Weights of a network in a safetensors file."""

from __future__ import annotations

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


def load_weights(path: Path, architecture: Architecture) -> dict[str, Tensor]:
    """Read the weights of `architecture` from a safetensors file.

    Raises:
        FileFormatError: The file is missing, damaged or foreign, or belongs to a different architecture.
    """
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise format_error(path, "weights") from error
    expected = {name: tensor.shape for name, tensor in LGCNet(architecture.space, architecture).state_dict().items()}
    if {name: tensor.shape for name, tensor in tensors.items()} != expected:
        raise FileFormatError(f"{path}: weights of a different architecture")
    return tensors
