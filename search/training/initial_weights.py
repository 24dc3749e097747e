"""Initial weights of a training: random, or from a supernet or an earlier training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ...errors import FileFormatError, UsageError
from ...files import describe
from ..runtime import checkpoint
from .config import SCRATCH, SUPERNET

if TYPE_CHECKING:
    from ..supernet.supernet_trainer import SupernetState


def find_initial_weights(run: Path, init: str) -> Path | None:
    """Return the file that `init` refers to; None for `scratch`.

    Raises:
        UsageError: the file does not exist.
    """
    if init == SCRATCH:
        return None
    path = run / "search.ckpt" if init == SUPERNET else Path(init)
    if path.is_file():
        return path
    if init == SUPERNET:
        raise UsageError(f"no supernet to start from in {run} (search.ckpt); train with --init scratch")
    if path.suffix or len(path.parts) > 1:
        raise UsageError(f"no such file: {path}")
    raise UsageError(f"unknown --init {init!r}: it is neither scratch nor supernet, nor a file of weights")


def load_stored_weights(path: Path) -> Mapping[str, Tensor]:
    """Return tensors by name, from a search's checkpoint or a safetensors file.

    Raises:
        FileFormatError: the file is damaged.
    """
    if path.suffix == ".ckpt":
        return cast("SupernetState", checkpoint.load(path) or {}).get("net", {})
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise FileFormatError(f"cannot read weights from {path}: it is {describe(path)} ({error})") from error


def copy_fitting_parts(network: nn.Module, stored: Mapping[str, Tensor], source: Path) -> tuple[str, ...]:
    """Copy stored weights into `network`, part by part (stem, each cell, fusion, head), where a whole part fits.

    A part with a missing tensor or a different shape stays random: trained statistics would be useless next to random
    weights.

    Returns:
        Names of the parts that stayed random, e.g. `head`.

    Raises:
        UsageError: no part fits.
    """
    own = network.state_dict()
    parts: dict[str, list[str]] = {}
    for name in own:
        levels = name.split(".")
        parts.setdefault(".".join(levels[:2]) if levels[0] == "cells" else levels[0], []).append(name)
    random = tuple(
        part
        for part, names in parts.items()
        if any(name not in stored or stored[name].shape != own[name].shape for name in names)
    )
    if len(random) == len(parts):
        raise UsageError(f"no part of {source} fits this architecture; train with --init scratch")
    copied = {name: stored[name] for part, names in parts.items() if part not in random for name in names}
    network.load_state_dict(own | copied)
    return random
