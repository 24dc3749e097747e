"""lgc: hardware-aware latency profiling and architecture search for real-time semantic segmentation."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if TYPE_CHECKING:
    from .errors import LgcError as LgcError
    from .lut import LatencyTable as LatencyTable
    from .lut import Predictor as Predictor
    from .lut import Target as Target
    from .models import Architecture as Architecture
    from .models import LGCNet as LGCNet
    from .models import OpSpec as OpSpec
    from .models import SearchSpace as SearchSpace
    from .models import Slot as Slot
    from .models import SlotSpace as SlotSpace
    from .profiler.slots import profile as profile
    from .profiler.slots import verify as verify
    from .search.constraint.expected import ExpectedCost as ExpectedCost

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it when it is imported

_MODULES = {
    "Architecture": ".models",
    "ExpectedCost": ".search.constraint.expected",
    "LGCNet": ".models",
    "LatencyTable": ".lut",
    "LgcError": ".errors",
    "OpSpec": ".models",
    "Predictor": ".lut",
    "SearchSpace": ".models",
    "Slot": ".models",
    "SlotSpace": ".models",
    "Target": ".lut",
    "profile": ".profiler.slots",
    "verify": ".profiler.slots",
}
__all__ = [
    "Architecture",
    "ExpectedCost",
    "LGCNet",
    "LatencyTable",
    "LgcError",
    "OpSpec",
    "Predictor",
    "SearchSpace",
    "Slot",
    "SlotSpace",
    "Target",
    "profile",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import lgc` stays fast."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)
