"""TensorRT engines, built ahead of time."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from lgc.models import PRESETS, SearchSpace
from lgc.profiler.deployment.engines import build_engine_ahead
from lgc.profiler.deployment.network import Network


@pytest.mark.skipif(
    find_spec("tensorrt_rtx_bindings") is None, reason='TensorRT-RTX is missing: pip install "lgc[tensorrt-aot]"'
)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds_ahead_of_time(preset, tmp_path):
    network = Network(SearchSpace.load(preset).sample(0), None, "dense")
    result = build_engine_ahead(network, tmp_path, "fp32", None)
    assert Path(result.engine).stat().st_size > 100_000
    assert result.measured_ms is None
    assert result.note.startswith("built ahead of time with TensorRT")
    assert "not run: this machine has no NVIDIA GPU" in result.note or torch.cuda.is_available()
