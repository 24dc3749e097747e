"""The search space: operators, slots, architectures, costs. Nothing here imports torch."""

from .space import PRESETS, SearchSpace

__all__ = ["PRESETS", "SearchSpace"]
