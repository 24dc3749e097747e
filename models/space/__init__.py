"""Search space: operators, slots, architectures, costs. Imports no torch."""

from .lgcnet import LGCNetSpace
from .protocol import PRESETS, SearchSpace

__all__ = ["PRESETS", "LGCNetSpace", "SearchSpace"]
