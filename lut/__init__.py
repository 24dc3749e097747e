"""The latency table: store, look up, calibrate, predict."""

if __package__ == "lut":
    raise ImportError("import lgc.lut, not lut: the repository root is the package lgc")

from .predictor import Interval, Predictor
from .statistics.calibration import Correction, Report
from .table.table import Benchmark, Entry, LatencyTable
from .target import Target

__all__ = ["Benchmark", "Correction", "Entry", "Interval", "LatencyTable", "Predictor", "Report", "Subject", "Target"]

Subject = Benchmark
"""Old name of `Benchmark`; removed in 0.3.0."""
