"""Parts of the GPU check: module, time limit, and the code on which the result depends."""

from __future__ import annotations

from typing import NamedTuple


class Part(NamedTuple):
    """Part of the check.

    Attributes:
        number: position in the order of value; lower parts run first.
        name: short description.
        module: module of this package, whose `run(record, settings)` is called.
        limit_s: time limit in seconds.
        min_s: shortest time in seconds with which the part is started.
        sources: folders and files of the repository on which the result depends.
        needs: number of the part whose table it needs; None if it needs none.
    """

    number: int
    name: str
    module: str
    limit_s: float
    min_s: float
    sources: tuple[str, ...]
    needs: int | None = None


MEASURING = ("models", "lut", "profiler", "device.py", "errors.py", "files.py")
SEARCHING = (*MEASURING, "search")

PARTS = (
    Part(1, "monitoring", "monitoring", 10, 2, MEASURING),
    Part(2, "clock", "clock", 25, 3, (*MEASURING, "tests/bench/common/paired_timing.py")),
    Part(3, "correctness", "correctness", 45, 4, (*MEASURING, "tests/profiler/backends/wide_dot.py")),
    Part(4, "engine runner", "engine_runner", 20, 1, MEASURING),
    Part(5, "table fp16", "table", 150, 8, MEASURING),
    Part(6, "protocol", "protocol", 50, 4, (*MEASURING, "tests/bench/latency/conventional.py"), needs=5),
    Part(7, "frame rates", "frame_rates", 50, 3, (*MEASURING, "tests/bench/common/paired_timing.py"), needs=5),
    Part(8, "tests", "suite", 80, 3, (*SEARCHING, "tools", "tests/gpu", "tests/conftest.py")),
    Part(9, "table fp32", "table", 60, 6, MEASURING),
    Part(10, "search", "searching", 70, 4, (*SEARCHING, "tests/search/runs.py"), needs=5),
)
