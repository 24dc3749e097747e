"""Weights of a network in a safetensors file."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ...errors import FileFormatError, MismatchError
from ...files import format_error, write_atomic
from ..space.operators import identify_custom_operators
from ..space.protocol import Architecture
from .network import LGCNet

WEIGHTS_FILE = "weights.safetensors"
"""File name of the weights in a run folder."""
OPERATORS_KEY = "operators"
"""Key of the file's metadata with the digests of the user's operators, as JSON."""


def save_weights(network: nn.Module, path: Path) -> None:
    """Write a network's weights to a safetensors file atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    architecture = getattr(network, "architecture", None)
    operators = _identify_operators(architecture) if isinstance(architecture, Architecture) else {}
    write_atomic(path, save(tensors, {OPERATORS_KEY: json.dumps(operators)} if operators else None))


def _identify_operators(architecture: Architecture) -> dict[str, str]:
    return identify_custom_operators(spec.operator for spec in architecture.specs())


def load_weights(path: Path, architecture: Architecture) -> dict[str, Tensor]:
    """Read the weights of `architecture` from a safetensors file.

    Raises:
        FileFormatError: The file is missing, damaged or foreign, or belongs to a different architecture.
        MismatchError: It was trained with another recipe of an operator.
    """
    try:
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            trained: dict[str, str] = json.loads((file.metadata() or {}).get(OPERATORS_KEY, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise format_error(path, "weights") from error
    operators = _identify_operators(architecture)
    for name, digest in trained.items():
        if operators.get(name, digest) != digest:
            raise MismatchError(
                f"{path} was trained with another recipe of operator {name!r}: train again, or pass the plugin of the "
                f"training with --plugin"
            )
    expected = {name: tensor.shape for name, tensor in LGCNet(architecture.space, architecture).state_dict().items()}
    if {name: tensor.shape for name, tensor in tensors.items()} != expected:
        raise FileFormatError(f"{path}: weights of a different architecture")
    return tensors
