"""Search space: operators, slots, architectures, costs. Imports no torch."""

from .lgcnet import SearchSpace
from .settings import PRESETS

__all__ = ["PRESETS", "SearchSpace"]
