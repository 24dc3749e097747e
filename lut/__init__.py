"""The latency table: store, look up, calibrate, predict."""

from .calibration import Affine, Report
from .predictor import Predictor
from .table import Entry, LatencyTable
from .target import Target

__all__ = ["Affine", "Entry", "LatencyTable", "Predictor", "Report", "Target"]
