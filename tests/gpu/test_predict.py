"""Predictions of exported files on a GPU, compared with the CPU's."""

from __future__ import annotations

import numpy as np
import pytest

from lgc.device import Device
from lgc.lut import Target
from lgc.models import SearchSpace
from lgc.profiler.backends import get_backend
from lgc.profiler.deployment.engines import build_target_engine
from lgc.profiler.deployment.network import Network, write_onnx
from lgc.profiler.inference.segmenter import Segmenter


def runs_on_gpu(backend):
    reason = get_backend(backend).diagnose(Device("cuda:0"))
    return pytest.param(backend, marks=pytest.mark.skipif(reason is not None, reason=str(reason)))


@pytest.fixture(scope="module")
def architecture():
    return SearchSpace.load("tiny").with_input(64, 96).sample(3)


@pytest.fixture(scope="module")
def picture():
    coarse = np.random.default_rng(0).integers(0, 256, (16, 20, 3)).astype(np.uint8)
    return np.kron(coarse, np.ones((9, 9, 1), np.uint8))[:101, :177]


@pytest.mark.parametrize("scope", ["core", "dense", "end-to-end"])
@pytest.mark.parametrize("backend", [runs_on_gpu(name) for name in ("onnxruntime", "onnxruntime-tensorrt", "tensorrt")])
def test_gpu_classes_equal_cpu_classes(architecture, picture, tmp_path, backend, scope):
    path = write_onnx(Network(architecture, None, scope), tmp_path)
    with Segmenter.open(path) as segmenter:
        expected = segmenter.segment(picture)
    with Segmenter.open(path, device="cuda:0", backend=backend) as segmenter:
        for _ in range(2):  # the second run replays a graph
            assert (segmenter.segment(picture) == expected).mean() >= 0.999


@pytest.mark.parametrize("backend", [runs_on_gpu("tensorrt")])
def test_engine_classes_equal_onnx_classes(architecture, picture, tmp_path, backend):
    network = Network(architecture, None, "dense")
    with Segmenter.open(write_onnx(network, tmp_path)) as segmenter:
        expected = segmenter.segment(picture)
    engine, _ = build_target_engine(network, tmp_path, Target("cuda:0", backend))
    with Segmenter.open(engine) as segmenter:
        assert (segmenter.segment(picture) == expected).mean() >= 0.999
