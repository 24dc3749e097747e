"""Quantised products in float32: by the graph that ONNX Runtime makes of a file."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from lgc.profiler.backends.int8 import dequantise_biases
from lgc.profiler.backends.ort.float_products import FloatProducts, count_float_products
from lgc.profiler.deployment.quantization import quantize

from .... import onnx_files as files

INT8 = FloatProducts(0, 2, 0.0)


@pytest.fixture
def foreign(tmp_path):
    """Return a file of ONNX Runtime's quantiser, with quantised outputs and int32 biases."""
    return files.quantise(tmp_path, "QDQ").read_bytes()


def test_foreign_files_compute_in_int8(foreign):
    assert count_float_products(foreign) == INT8
    assert count_float_products(dequantise_biases(foreign)) == INT8, "float32 biases alone do not matter"


def test_own_files_compute_in_float():
    """Their outputs are not quantised, which TensorRT does not need."""
    images = np.random.default_rng(0).random((2, *files.IMAGE), np.float32)
    own = quantize(files.make().SerializeToString(), images)
    assert count_float_products(own) == FloatProducts(2, 2, 100.0)


def test_float_products_of_files_do_not_count(tmp_path):
    source = files.make([*files.net_nodes(y="z"), helper.make_node("Sigmoid", ["z"], ["y"])])
    assert count_float_products(source.SerializeToString()) == FloatProducts(0, 0)
    assert count_float_products(files.quantise(tmp_path, "QOperator").read_bytes()) == FloatProducts(0, 0)


def test_transposed_convolution_computes_in_float(tmp_path):
    """The CPU provider has no int8 kernel for it."""
    nodes = [*files.net_nodes(y="z"), helper.make_node("ConvTranspose", ["z", "w3"], ["y"], name="up", strides=[2, 2])]
    weights = files.WEIGHTS | {"w3": np.ones((4, 4, 2, 2), np.float32)}
    source = files.make(nodes, outputs=[files.value("y", (1, 4, *files.SIZE))], weights=weights)
    products = count_float_products(files.quantise(tmp_path, "QDQ", source).read_bytes())
    assert (products.count, products.total) == (1, 3)
    assert products.share_pct == pytest.approx(100 * 64 / (64 + 8 * 27 + 4 * 8))


@pytest.mark.parametrize(("kind", "count"), [("uint8", 0), ("uint16", 1)])
def test_16_bit_matrix_product_computes_in_float(kind, count):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quantise"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="dequantise"),
        helper.make_node("DequantizeLinear", ["w", "s", "v"], ["e"], name="weights"),
        helper.make_node("MatMul", ["d", "e"], ["a"], name="product"),
        helper.make_node("QuantizeLinear", ["a", "s", "z"], ["p"], name="again"),
        helper.make_node("DequantizeLinear", ["p", "s", "z"], ["y"], name="last"),
    ]
    width = files.SIZE[1]
    weights = {"s": np.float32(0.1), "z": np.array(9, kind), "v": np.uint8(3), "w": np.eye(width, dtype=np.uint8)}
    model = files.make(nodes, outputs=[files.value("y", files.IMAGE)], weights=weights, opset=21, ir=10)
    assert count_float_products(model.SerializeToString()) == FloatProducts(count, 1, 100.0 * count)
