"""Messages of `lgc-demo`."""

from pathlib import Path

import pytest

from lgc.profiler.deployment.latency import TargetResult
from lgc.tools.demo import explain_error


@pytest.mark.parametrize(
    ("drift_pct", "rest"),
    [
        (140.0, "; the machine ran 2.4x slower than during profiling: run it again on an idle machine"),
        (-50.0, "; the machine ran 2.0x faster than during profiling: delete run and run it again on an idle machine"),
        (8.0, ": delete run and run it again on an idle machine"),
        (None, ": delete run and run it again on an idle machine"),
    ],
)
def test_error_names_cause_and_next_step(drift_pct, rest):
    measured = TargetResult("onnxruntime", "cpu", "fp32", "dense", drift_pct=drift_pct, error_pct=-15.7)
    assert explain_error(measured, Path("run")) == f"the prediction is off by -15.7 % (limit 10 %){rest}"
