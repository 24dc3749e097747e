"""Weights of a network in a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ....errors import FileFormatError, MismatchError
from ....files import format_error, write_atomic
from ...space.operators import list_custom_recipes
from ...space.opspec import OpSpec
from ...space.protocol import Architecture
from ..definition import WEIGHTS_FILE as WEIGHTS_FILE
from ..definition import Log, NetworkDefinition
from .probe import LogitsProbe

RECIPES_KEY = "recipes"
"""Key of the file's metadata with the digests of the recipes of the user's operators by spec, as JSON."""
PROBE_KEY = "probe"
"""Key of the file's metadata with the probe of the trained network, as JSON."""
FLOAT_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Types of weights that torch converts without a scale."""
_INTEGER_TYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def save_weights(network: nn.Module, path: Path, probe: LogitsProbe | None = None) -> None:
    """Write a network's weights to a safetensors file atomically; a tensor with several names is written for each.

    A probe of the network is written too, so that `load_weights` recognises a network that was rebuilt differently.
    """
    tensors: dict[str, Tensor] = {}
    written: set[int] = set()
    for name, tensor in network.state_dict().items():
        value = tensor.detach().cpu().contiguous()
        storage = value.untyped_storage().data_ptr()
        tensors[name] = value.clone() if storage in written else value
        written.add(storage)
    architecture = getattr(network, "architecture", None)
    recipes = list_custom_recipes(architecture.specs()) if isinstance(architecture, Architecture) else {}
    metadata = {RECIPES_KEY: json.dumps(recipes)} if recipes else {}
    if probe is not None:
        metadata[PROBE_KEY] = probe.model_dump_json()
    write_atomic(path, save(tensors, metadata or None))


def load_weights(path: Path, network: Architecture | NetworkDefinition, log: Log = print) -> dict[str, Tensor]:
    """Read the weights of a network from a safetensors file, and build the network to check that they are its own.

    Raises:
        FileFormatError: The file is missing, damaged or foreign, the weights belong to a different network, or a tensor
            has another type, or NaN or infinite values that the network does not begin with.
        MismatchError: They were trained with another recipe of an operator, or the network that is built now computes
            something other than the trained one.
        PluginError: The user's factory raises an error or returns no module.
    """
    try:
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise format_error(path, "weights") from error
    definition = NetworkDefinition.of(network)
    if definition.architecture is not None:
        _require_recipes(path, metadata, definition.architecture, log)
    built = definition.build()
    own = built.state_dict()
    expected = {name: tensor.shape for name, tensor in own.items()}
    actual = {name: tensor.shape for name, tensor in tensors.items()}
    if actual != expected:
        kind = "network" if definition.architecture is None else "architecture"
        raise FileFormatError(f"{path}: weights of a different {kind}: {_describe_difference(actual, expected)}")
    require_numbers(tensors, own, path)
    if PROBE_KEY in metadata:
        built.load_state_dict(tensors)
        _require_probe(path, metadata[PROBE_KEY], built, definition.source.reference)
    return tensors


def _require_probe(path: Path, text: str, network: nn.Module, name: str) -> None:
    """Check that a network computes what the trained one did."""
    try:
        probe = LogitsProbe.model_validate_json(text)
    except ValidationError as error:
        raise FileFormatError(f"{path} is damaged: its entry {PROBE_KEY!r} is not a probe; train again") from error
    try:
        probe.require_equal(probe.repeat(network))
    except MismatchError as error:
        raise MismatchError(
            f"{name} is no longer the network that {path} was trained with: {error}; its source, a module that it "
            f"imports, a package, a file or an environment variable has changed: restore it, or train again in another "
            f"folder (--init {path} starts from these weights)"
        ) from error


def _require_recipes(path: Path, metadata: Mapping[str, str], architecture: Architecture, log: Log) -> None:
    """Check that the operators of the architecture have the recipes that the weights were trained with.

    A warning names operators whose recipes the file does not have, as a file of lgc 0.1.
    """
    stored = metadata.get(RECIPES_KEY)
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


def require_numbers(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path) -> None:
    """Check that tensors read from `path` have values that a network can use.

    Args:
        tensors: Tensors by name.
        own: The network's initial tensors. Infinite values that these have too are accepted, e.g. those of a mask.
        path: File, for messages.

    Raises:
        FileFormatError: A floating-point tensor of the network has another type in the file, e.g. a quantised one, or a
            tensor has NaN or infinite values; the message names the first such tensor.
    """
    for name, tensor in tensors.items():
        kinds = FLOAT_TYPES if own[name].is_floating_point() else (own[name].dtype, *FLOAT_TYPES, *_INTEGER_TYPES)
        if tensor.dtype not in kinds:
            raise FileFormatError(
                f"{path}: tensor {name} has type {_format_type(tensor)}, the network's {_format_type(own[name])}: "
                "save the weights as float32, float16 or bfloat16, without quantisation"
            )
    bad = {
        name: invalid for name, tensor in tensors.items() if bool((invalid := find_invalid(tensor, own[name])).any())
    }
    if bad:
        name, invalid = next(iter(bad.items()))
        kind = "NaN" if bool(tensors[name].isnan().any()) else "infinite"
        others = f", as in {len(bad) - 1} more tensors" if len(bad) > 1 else ""
        raise FileFormatError(
            f"{path}: tensor {name} has {kind} values ({int(invalid.sum())} of {invalid.numel()}){others}: "
            "train again, or use the weights of an earlier checkpoint"
        )


def find_invalid(tensor: Tensor, own: Tensor | None) -> Tensor:
    """Return True where a tensor is neither finite nor equal to the network's initial one, e.g. a mask of -inf."""
    finite = tensor.isfinite()
    return ~finite if own is None else ~(finite | (tensor == own.to(tensor.device)))


def copy_infinite_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return copies of a network's tensors that have infinite values, e.g. a mask of -inf, by name."""
    state = network.state_dict()
    return {name: value.clone() for name, value in state.items() if not bool(value.isfinite().all())}


def _format_type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
