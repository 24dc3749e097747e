"""The latency table: store, look up, calibrate, predict."""

if __package__ == "lut":
    raise ImportError("import lgc.lut, not lut: the repository root is the package lgc")

from .predictor import Interval, Predictor
from .statistics.calibration import Correction, PredictionReport
from .table.rows import Benchmark, Entry
from .table.table import LatencyTable
from .target import Target

__all__ = [
    "Benchmark",
    "Correction",
    "Entry",
    "Interval",
    "LatencyTable",
    "PredictionReport",
    "Predictor",
    "Report",
    "Subject",
    "Target",
]

Report = PredictionReport
"""Old name of `PredictionReport`; removed in 0.3.0."""

Subject = Benchmark
"""Old name of `Benchmark`; removed in 0.3.0."""
