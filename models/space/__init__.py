"""The search space: operators, slots, architectures, costs. Nothing here imports torch."""

from .lgcnet import SearchSpace
from .settings import PRESETS

__all__ = ["PRESETS", "SearchSpace"]
