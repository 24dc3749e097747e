"""The latency table: store, look up, calibrate, predict."""

from .calibration import Correction, Report
from .predictor import Interval, Predictor
from .table import Entry, LatencyTable, Subject
from .target import Target

__all__ = ["Correction", "Entry", "Interval", "LatencyTable", "Predictor", "Report", "Subject", "Target"]
