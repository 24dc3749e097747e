"""The latency table: store, look up, calibrate, predict."""

from .predictor import Interval, Predictor
from .statistics.calibration import Correction, Report
from .table.table import Entry, LatencyTable, Subject
from .target import Target

__all__ = ["Correction", "Entry", "Interval", "LatencyTable", "Predictor", "Report", "Subject", "Target"]
