"""What several parts need: the space of the device, its networks, and the settings of a rehearsal."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from lgc.models import Architecture, SearchSpace

from .record import SkipPartError

SPREAD, SEED = 9, 4
"""Networks are taken from so many random ones of this seed, in order of their multiply-accumulates."""


def on_gpu(settings: dict[str, Any]) -> bool:
    """Return whether this is no rehearsal."""
    return str(settings["device"]) != "cpu"


def require_gpu(settings: dict[str, Any]) -> None:
    if not on_gpu(settings):
        raise SkipPartError("needs a CUDA device")


def space_of(settings: dict[str, Any]) -> SearchSpace:
    """Return the Cityscapes preset, and a small one in a rehearsal."""
    if on_gpu(settings):
        return SearchSpace.load("lgcnet-cityscapes")
    return SearchSpace.load("tiny").with_input(48, 64)


def by_size(space: SearchSpace) -> list[Architecture]:
    """Return networks of the space, the smallest first; the same in each run."""
    return sorted(space.spread(SPREAD, SEED), key=lambda network: network.macs)


def backend_of(settings: dict[str, Any]) -> str:
    """Return the backend under which tables and frame rates are measured."""
    return "torch" if on_gpu(settings) else "onnxruntime"


def table_path(settings: dict[str, Any], precision: str) -> Path:
    return Path(settings["out"]) / f"table-{precision}.lut"


def module_at(path: str) -> ModuleType:
    """Import a file of the repository that is in no package, say `tests/bench/turns.py`."""
    file = Path(__file__).resolve().parents[3] / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rounds_in(seconds: float) -> int:
    """Return the rounds of a bare loop that fit, of 0.4 s each: 3 to 20."""
    return max(3, min(20, int(seconds / 0.4)))
