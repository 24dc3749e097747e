"""Weights of a network in a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ...errors import FileFormatError, MismatchError
from ...files import format_error, write_atomic
from ..space.operators import list_custom_recipes
from ..space.opspec import OpSpec
from ..space.protocol import Architecture
from .definition import Log, NetworkDefinition

WEIGHTS_FILE = "weights.safetensors"
"""File name of the weights in a run folder."""
RECIPES_KEY = "recipes"
"""Key of the file's metadata with the digests of the recipes of the user's operators by spec, as JSON."""


def save_weights(network: nn.Module, path: Path) -> None:
    """Write a network's weights to a safetensors file atomically; a tensor with several names is written for each."""
    tensors: dict[str, Tensor] = {}
    written: set[int] = set()
    for name, tensor in network.state_dict().items():
        value = tensor.detach().cpu().contiguous()
        storage = value.untyped_storage().data_ptr()
        tensors[name] = value.clone() if storage in written else value
        written.add(storage)
    architecture = getattr(network, "architecture", None)
    recipes = list_custom_recipes(architecture.specs()) if isinstance(architecture, Architecture) else {}
    write_atomic(path, save(tensors, {RECIPES_KEY: json.dumps(recipes)} if recipes else None))


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


def load_weights(path: Path, network: Architecture | NetworkDefinition, log: Log = print) -> dict[str, Tensor]:
    """Read the weights of a network from a safetensors file.

    Raises:
        FileFormatError: See `read_weights`, or the weights belong to a different network.
        MismatchError: They were trained with another recipe of an operator.
    """
    tensors = read_weights(path)
    definition = NetworkDefinition.of(network)
    if definition.architecture is not None:
        _require_recipes(path, definition.architecture, log)
    expected = {name: tensor.shape for name, tensor in definition.build().state_dict().items()}
    actual = {name: tensor.shape for name, tensor in tensors.items()}
    if actual != expected:
        kind = "network" if definition.architecture is None else "architecture"
        raise FileFormatError(f"{path}: weights of a different {kind}: {_describe_difference(actual, expected)}")
    return tensors


def _require_recipes(path: Path, architecture: Architecture, log: Log) -> None:
    """Check that the operators of the architecture have the recipes that the weights were trained with.

    A warning names operators whose recipes the file does not have, as a file of lgc 0.1.
    """
    with safe_open(path, "pt") as file:
        stored = (file.metadata() or {}).get(RECIPES_KEY)
    recipes = list_custom_recipes(architecture.specs())
    if stored is None and recipes:
        log(f"warning: {path} does not say with which recipe of operator {_name_operators(recipes)} it was trained")
    trained: dict[str, str] = json.loads(stored or "{}")
    changed = [key for key, digest in recipes.items() if trained.get(key, digest) != digest]
    if changed:
        raise MismatchError(
            f"{path} was trained with another recipe of operator {_name_operators(changed)}: train again, or pass the "
            f"plugin of the training with --plugin"
        )


def _name_operators(keys: Iterable[str]) -> str:
    return ", ".join(sorted({OpSpec.parse(key).operator for key in keys}))


def _describe_difference(actual: dict[str, torch.Size], expected: dict[str, torch.Size]) -> str:
    """Return the first difference between the shapes of a file and those of a network."""
    for name, shape in expected.items():
        if name not in actual:
            return f"{name} is missing"
        if actual[name] != shape:
            return f"{name} has shape {list(actual[name])}, not {list(shape)}"
    return f"{next(name for name in actual if name not in expected)} is unknown"


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
