"""Helpers of several parts: the space and its networks, and files of the repository."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from lgc.models import Architecture, SearchSpace

from .record import SkipPartError
from .settings import Settings

NUM_NETWORKS, NETWORK_SEED = 9, 4
"""Number of random networks, spread over their multiply-accumulates, and their seed."""


def require_gpu(settings: Settings) -> None:
    """Skip a part that needs a GPU."""
    if not settings.on_gpu:
        raise SkipPartError("needs a CUDA device")


def load_space(settings: Settings) -> SearchSpace:
    """Return the Cityscapes preset, or a small one in a rehearsal."""
    if settings.rehearsal:
        return SearchSpace.load("tiny").with_input(48, 64)
    return SearchSpace.load("lgcnet-cityscapes")


def sort_by_size(space: SearchSpace) -> list[Architecture]:
    """Return networks of the space from the smallest to the largest, the same in each run."""
    return sorted(space.spread(NUM_NETWORKS, NETWORK_SEED), key=lambda network: network.macs)


def import_file(path: str) -> ModuleType:
    """Import a file of the repository that is not in a package, e.g. `tests/bench/common/paired_timing.py`."""
    file = Path(__file__).resolve().parents[3] / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def count_rounds(seconds: float) -> int:
    """Return the number of rounds of a bare loop that fit, of 0.4 s each: 3 to 20."""
    return max(3, min(20, int(seconds / 0.4)))
