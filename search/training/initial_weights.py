"""Initial weights of a training: random, or from a supernet, an earlier training, or another program's file."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import nn

from ...errors import UsageError
from ...models.nets.definition import read_record
from ...models.nets.network import LGCNet
from ...models.nets.state_dicts import read_state_dict
from ...models.nets.transfer import Transfer, count_fitting, transfer_weights
from .config import SCRATCH, SUPERNET


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
        return transfer_weights(network, stored, classes, get_part=get_lgcnet_part, min_share=0.0)
    return transfer_weights(network, stored, classes)


def compare_classes(source: Path, classes: tuple[str, ...] | None) -> list[str]:
    """Return a warning if the run that weights come from has as many classes, but others."""
    record = read_record(source.parent)
    names = None if record is None else record.class_names
    if names is None or classes is None or len(names) != len(classes) or names == classes:
        return []
    index = next(index for index, pair in enumerate(zip(names, classes, strict=True)) if pair[0] != pair[1])
    return [
        f"warning: {source} was trained on other classes: its class {index} is {names[index]!r}, not "
        f"{classes[index]!r}; its classifier is where this training begins, too"
    ]


def get_lgcnet_part(name: str) -> str:
    """Return the part of LGCNet that a tensor belongs to: stem, one of the cells, fusion or head.

    A part is transferred as a whole: trained statistics would be useless next to random weights.
    """
    levels = name.split(".")
    return ".".join(levels[:2]) if levels[0] == "cells" else levels[0]
