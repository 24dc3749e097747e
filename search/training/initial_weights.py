"""Initial weights of a training: random, or from a supernet, an earlier training, or another program's file."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...models.images import Normalisation
from ...models.nets.definition import NetworkDefinition, read_record
from ...models.nets.network import LGCNet
from ...models.nets.state.state_dicts import StateDict, read_state_dict
from ...models.nets.state.transfer import Transfer, count_fitting, transfer_weights
from ...models.space.protocol import ARCHITECTURE_FILE, Architecture
from ..supernet.blocks import BlockDecisions
from ..supernet.slimming import SLIM
from ..supernet.supernet import Supernet, inherit_weights
from .config import SCRATCH, SUPERNET

SUPERNET_FILE = "search.ckpt"
"""File name of a search's checkpoint."""
_CLASSIFIER = "head.1."
"""Prefix of the classifier's tensors in a supernet."""


def find_initial_weights(run: Path, init: str) -> Path | None:
    """Return the file that `init` refers to; None for `scratch`.

    Raises:
        UsageError: the file does not exist.
    """
    if init == SCRATCH:
        return None
    path = run / SUPERNET_FILE if init == SUPERNET else Path(init)
    if path.is_file():
        return path
    if init == SUPERNET:
        raise UsageError(f"no supernet to start from in {run} ({SUPERNET_FILE}); train with --init scratch")
    if path.is_dir():
        raise UsageError(f"--init {path} is a folder; choose a file in it, e.g. weights.safetensors")
    if path.suffix or len(path.parts) > 1:
        raise UsageError(f"no such file: {path}")
    raise UsageError(f"unknown --init {init!r}: it is neither scratch nor supernet, nor a file of weights")


def initialise(network: nn.Module, source: Path, classes: int) -> Transfer:
    """Copy the weights in `source` into a network where they fit.

    Raises:
        UsageError: they do not fit, see `transfer_weights`.
        FileFormatError: `source` is damaged, or has tensors of a different type, or NaN or infinite values.
    """
    stored = read_state_dict(source, partial(count_fitting, network))
    if isinstance(network, LGCNet):
        if network.space.searches_widths and any(SLIM in name for name in stored.tensors):
            stored = replace(stored, tensors=_inherit(network, stored))
        return transfer_weights(network, stored, classes, get_part=get_lgcnet_part, min_share=0.0)
    return transfer_weights(network, stored, classes)


def _inherit(network: LGCNet, stored: StateDict) -> dict[str, Tensor]:
    """Return the weights that a network, with the classes of the file, has in the supernet of a search of widths."""
    classes = [len(tensor) for name, tensor in stored.tensors.items() if name.startswith(_CLASSIFIER)]
    space = network.space.with_classes(max(classes, default=network.space.classes))
    with torch.device("meta"):
        supernet = Supernet(BlockDecisions(space))
    try:
        supernet.load_state_dict(dict(stored.tensors), assign=True)
    except RuntimeError as error:
        raise UsageError(f"{stored.path} is the supernet of a different space: train with --init scratch") from error
    return inherit_weights(supernet, LGCNet(space, space.build(network.architecture.choices)))


def compare_origin(source: Path, network: NetworkDefinition) -> list[str]:
    """Return warnings if the run that weights come from had images of another normalisation, or other classes.

    Only class lists of equal length are compared: otherwise the classifier begins with random weights.
    """
    warnings = []
    origin = source.parent / ARCHITECTURE_FILE
    if network.architecture is not None and origin.is_file():
        geometry = Architecture.load(origin).search_space.geometry
        if geometry != network.geometry:
            warnings.append(
                f"warning: {source} was trained in geometry {geometry}, this network has geometry {network.geometry}: "
                "its features are shifted at first"
            )
    record = read_record(source.parent)
    if record is None:
        return warnings
    normalisation = Normalisation(record.normalisation.mean, record.normalisation.std)
    if normalisation != network.normalisation:
        trained, now = map(_format_normalisation, (normalisation, network.normalisation))
        warnings.append(
            f"warning: {source} was trained on images of another normalisation: {trained}; now it is {now}: change "
            "normalisation in the dataset's yaml"
        )
    names, classes = record.class_names or (), network.class_names or ()
    if len(names) == len(classes) and names != classes:
        index = next(index for index, pair in enumerate(zip(names, classes, strict=True)) if pair[0] != pair[1])
        warnings.append(
            f"warning: {source} was trained on other classes: its class {index} is {names[index]!r}, not "
            f"{classes[index]!r}; its classifier is where this training begins, too"
        )
    return warnings


def _format_normalisation(normalisation: Normalisation) -> str:
    mean, std = (", ".join(f"{value:g}" for value in part) for part in (normalisation.mean, normalisation.std))
    return f"mean {mean} and std {std}"


def get_lgcnet_part(name: str) -> str:
    """Return the part of LGCNet that a tensor belongs to: stem, one of the cells, fusion or head.

    A part is transferred as a whole: trained statistics would be useless next to random weights.
    """
    levels = name.split(".")
    return ".".join(levels[:2]) if levels[0] == "cells" else levels[0]
