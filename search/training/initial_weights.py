"""The weights that a training starts from: random ones, a supernet's, or those of an earlier training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ...errors import FileFormatError, UsageError
from ...files import describe
from ...models.nets.network import LGCNet
from ...models.space.lgcnet import Architecture
from ..runtime import checkpoint
from .auxiliary import Trainee
from .config import SCRATCH, SUPERNET, TrainConfig


def source_of(run: Path, init: str) -> Path | None:
    """The file that `init` names, `scratch` none.

    Raises:
        UsageError: there is no such file.
    """
    if init == SCRATCH:
        return None
    path = run / "search.ckpt" if init == SUPERNET else Path(init)
    if path.is_file():
        return path
    if init == SUPERNET:
        raise UsageError(f"{run} holds no supernet to start from (search.ckpt); train with --init scratch")
    raise UsageError(f"unknown --init {init!r}: it is neither scratch nor supernet, nor a file of weights")


def start(architecture: Architecture, source: Path | None, config: TrainConfig) -> tuple[Trainee, tuple[str, ...]]:
    """The network as it is before the first step, and those of its parts that `source` does not fit.

    Random weights follow from the seed alone; those of the network are the same with and without an auxiliary head,
    which always has random ones.

    Raises:
        UsageError: `source` fits nothing of the network.
        FileFormatError: it is damaged.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = LGCNet(architecture.space, architecture)
        trainee = Trainee(network, config.aux > 0)
    return trainee, () if source is None else take_over(network, stored_weights(source), source)


def stored_weights(path: Path) -> Mapping[str, Tensor]:
    """Tensors by name, of a search's checkpoint or of a safetensors file.

    Raises:
        FileFormatError: it is damaged.
    """
    if path.suffix == ".ckpt":
        weights: Mapping[str, Tensor] = (checkpoint.load(path) or {}).get("net", {})
        return weights
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise FileFormatError(f"{path} holds no weights: it is {describe(path)} ({error})") from error


def take_over(network: LGCNet, stored: Mapping[str, Tensor], source: Path) -> tuple[str, ...]:
    """Give `network` the stored weights, part by part (stem, each cell, fusion, head), where a whole part fits.

    A part of which a single tensor is missing or of another shape is left as it is: trained statistics in front of
    random weights, or behind them, would be worth nothing.

    Returns:
        Names of the parts that were left, say `head`.

    Raises:
        UsageError: no part fits.
    """
    own = network.state_dict()
    parts: dict[str, list[str]] = {}
    for name in own:
        words = name.split(".")
        parts.setdefault(".".join(words[:2]) if words[0] == "cells" else words[0], []).append(name)
    left = tuple(
        part
        for part, names in parts.items()
        if any(name not in stored or stored[name].shape != own[name].shape for name in names)
    )
    if len(left) == len(parts):
        raise UsageError(f"{source} holds nothing that fits this architecture; train with --init scratch")
    taken = {name: stored[name] for part, names in parts.items() if part not in left for name in names}
    network.load_state_dict(own | taken)
    return left
