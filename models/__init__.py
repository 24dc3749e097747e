"""Operators, the search space, networks and their ONNX files. Only networks and export import torch."""

from __future__ import annotations

if __package__ == "models":
    raise ImportError("import lgc.models, not models: the repository root is the package lgc")

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .space.operators import OPERATORS, Operator, get_operator, operator, register_operator
from .space.opspec import OpSpec
from .space.plan import CellPlan
from .space.protocol import PRESETS, SCOPES, Architecture, Decision, Requirement, SearchSpace, Slot, Space
from .space.slots import SlotSpace

if TYPE_CHECKING:
    from .nets.network import LGCNet as LGCNet

__all__ = [
    "OPERATORS",
    "PRESETS",
    "SCOPES",
    "Architecture",
    "CellPlan",
    "Decision",
    "LGCNet",
    "OpSpec",
    "Operator",
    "Requirement",
    "SearchSpace",
    "Slot",
    "SlotSpace",
    "Space",
    "get_operator",
    "operator",
    "register_operator",
]


def __getattr__(name: str) -> Any:
    """Import the network on first use, because it imports torch."""
    if name == "LGCNet":
        return import_module(".nets.network", __name__).LGCNet
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
