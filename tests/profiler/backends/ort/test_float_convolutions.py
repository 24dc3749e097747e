"""Quantised convolutions in float32: by the graph that ONNX Runtime makes of a file."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from lgc.profiler.backends.int8 import dequantise_biases
from lgc.profiler.backends.ort.float_convolutions import count_float_convolutions
from lgc.profiler.deployment.quantization import quantize

from .... import onnx_files as files


@pytest.fixture
def foreign(tmp_path):
    """Return a file of ONNX Runtime's quantiser, with quantised outputs and int32 biases."""
    return files.quantise(tmp_path, "QDQ").read_bytes()


def test_foreign_files_compute_in_int8(foreign):
    assert count_float_convolutions(foreign) == (0, 2)
    assert count_float_convolutions(dequantise_biases(foreign)) == (0, 2), "float32 biases alone do not matter"


def test_own_files_compute_in_float():
    """Their outputs are not quantised, which TensorRT does not need."""
    images = np.random.default_rng(0).random((2, *files.IMAGE), np.float32)
    own = quantize(files.make().SerializeToString(), images)
    assert count_float_convolutions(own) == (2, 2)


def test_float_convolutions_of_files_do_not_count(tmp_path):
    source = files.make([*files.net_nodes(y="z"), helper.make_node("Sigmoid", ["z"], ["y"])])
    assert count_float_convolutions(source.SerializeToString()) == (0, 0)
    assert count_float_convolutions(files.quantise(tmp_path, "QOperator").read_bytes()) == (0, 0)
