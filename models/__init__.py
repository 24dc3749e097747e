"""Operators, the search space, networks and their ONNX files. Only networks and export import torch."""

from __future__ import annotations

if __package__ == "models":
    raise ImportError("import lgc.models, not models: the repository root is the package lgc")

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .recipe import Conv, MaxPool, Residual, SqueezeExcite
from .space.lgcnet.plan import CellLayout
from .space.operators import OPERATORS, Operator, get_operator, operator, register_operator
from .space.opspec import OpSpec
from .space.presets import PRESETS
from .space.protocol import SCOPES, Architecture, Decision, Requirement, SearchSpace, Slot, Space
from .space.slots import SlotSpace

if TYPE_CHECKING:
    from .nets.modules import register_module as register_module
    from .nets.network import LGCNet as LGCNet

__all__ = [
    "OPERATORS",
    "PRESETS",
    "SCOPES",
    "Architecture",
    "CellLayout",
    "Conv",
    "Decision",
    "LGCNet",
    "MaxPool",
    "OpSpec",
    "Operator",
    "Requirement",
    "Residual",
    "SearchSpace",
    "Slot",
    "SlotSpace",
    "Space",
    "SqueezeExcite",
    "get_operator",
    "operator",
    "register_module",
    "register_operator",
]

_TORCH = {"LGCNet": ".nets.network", "register_module": ".nets.modules"}
"""Names whose modules import torch, and these modules."""


def __getattr__(name: str) -> Any:
    """Import a name of `_TORCH` on first use."""
    if name in _TORCH:
        return getattr(import_module(_TORCH[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
