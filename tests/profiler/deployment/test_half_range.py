"""Values beyond float16 inside a network, which a CPU does not show in fp16."""

import numpy as np
import pytest
from onnx import helper

from lgc.profiler.deployment.export import ExportSettings
from lgc.profiler.deployment.foreign import ForeignOptions, export_foreign
from lgc.profiler.deployment.half_range import measure_peaks
from lgc.profiler.deployment.parity import compute_file_outputs

from ... import onnx_files as files


def make_large(factor):
    """Return a network whose features are multiplied by `factor` and divided by it again."""
    nodes = [
        *files.net_nodes(y="z"),
        helper.make_node("Mul", ["z", "factor"], ["large"]),
        helper.make_node("Div", ["large", "factor"], ["y"]),
    ]
    return files.make(nodes, weights=files.WEIGHTS | {"factor": np.float32(factor)})


def test_peaks_are_those_of_the_tensors():
    model = files.make()
    inputs = [np.full(files.IMAGE, value, np.float32) for value in (1, -2)]
    peaks = measure_peaks(model.SerializeToString(), [(each,) for each in inputs], "m")
    assert list(peaks) == ["a", "r", "y"]
    exact = max(np.abs(output).max() for output in compute_file_outputs(model.SerializeToString(), inputs))
    assert peaks["y"] == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(("factor", "overflows"), [(1.0, False), (6e4, True)])
def test_overflow_of_fp16_is_a_warning(factor, overflows, tmp_path):
    settings = ExportSettings(tmp_path / "m.onnx", tmp_path / "out", precisions=("fp16", "fp32"))
    files.save(make_large(factor), settings.source)
    half, full = export_foreign(settings, ForeignOptions(), log=lambda _: None).files
    assert half.passes, "the CPU rounds no activations"
    assert full.remarks == ()
    assert "rounds weights to float16 but no activations" in half.remarks[0]
    assert len(half.remarks) == 1 + overflows
    if overflows:
        assert "a tensor exceeds float16's 65504 and will be infinite on a GPU, first large with" in half.remarks[1]
