"""Search space: operators, slots, architectures, costs. Imports no torch."""

from . import builtin_operators as builtin_operators
from .lgcnet import LGCNetSpace
from .protocol import PRESETS, SearchSpace, Space
from .slots import SlotSpace

__all__ = ["PRESETS", "LGCNetSpace", "SearchSpace", "SlotSpace", "Space"]
