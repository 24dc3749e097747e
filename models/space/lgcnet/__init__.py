"""LGCNet's search space: settings to plan to slots, sampling, and memory."""

from .space import LGCNetArchitecture, LGCNetSpace

__all__ = ["LGCNetArchitecture", "LGCNetSpace"]
