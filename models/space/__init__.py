"""Search space: operators, slots, architectures, costs. Imports no torch."""

from . import builtin_operators as builtin_operators
from .lgcnet import LGCNetSpace
from .presets import PRESETS
from .protocol import SearchSpace, Space
from .slots import SlotSpace

__all__ = ["PRESETS", "LGCNetSpace", "SearchSpace", "SlotSpace", "Space"]
