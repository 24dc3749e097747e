"""Quantised products that ONNX Runtime computes in float32.

Its CPU provider has a kernel for a convolution or matrix product whose output is quantised too. It has none for one
followed by an activation that the range of the output does not contain, as in files for TensorRT, for transposed
convolutions, and for 16 bits: it then dequantises the inputs and computes in float32.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from ....models.onnx.counting.arithmetic import has_quantised_factors, is_integer
from ....models.onnx.counting.costs import infer_tensors
from ....models.onnx.counting.macs import PRODUCTS, count_group_macs, is_product
from ....models.onnx.counting.node_costs import with_node_names
from .layer_nodes import trace_nodes
from .layers import OPTIMISED_FILE
from .loader import CPU_PROVIDER
from .session import open_session


@dataclass(frozen=True)
class FloatProducts:
    """Quantised products in float32.

    Attributes:
        count: number of products that the runtime computes in float32.
        total: number of quantised products.
        share_pct: their share of the multiply-accumulates of all quantised products, in percent; None if unknown.
    """

    count: int
    total: int
    share_pct: float | None = None


def count_float_products(onnx_model: bytes) -> FloatProducts:
    """Return how many products between Q/DQ nodes the CPU provider computes in float32.

    Args:
        onnx_model: serialised ONNX model with Q/DQ nodes.

    Raises:
        MeasurementError: ONNX Runtime rejects the model.
    """
    import onnx

    onnx_model = with_node_names(onnx_model)
    model = onnx.load_model_from_string(onnx_model)
    producers = {name: node for node in model.graph.node for name in node.output}
    products = list(filter(is_product, model.graph.node))
    fused = {node.name for node in products if has_quantised_factors(node, producers)}
    if not fused:
        return FloatProducts(0, 0)
    with tempfile.TemporaryDirectory(prefix="lgc-int8-") as folder:
        session = open_session("the model", onnx_model, CPU_PROVIDER, {}, 1, profile=Path(folder))
        session.end_profiling()
        optimised = onnx.load(str(Path(folder) / OPTIMISED_FILE), load_external_data=False)
    traced = trace_nodes(model, optimised)
    computed = [node for node in optimised.graph.node if node.op_type in PRODUCTS and not is_integer(node.op_type)]
    names = {name for node in computed if node.name in traced for name in traced[node.name].names}
    quantised = [node for node in products if node.name in fused or is_integer(node.op_type)]
    floats = [node for node in quantised if node.name in fused & names]
    _, tensors = infer_tensors(onnx_model)
    shapes = {name: shape for name, (shape, _) in tensors.items()}
    part, whole = count_group_macs(floats, shapes), count_group_macs(quantised, shapes)
    return FloatProducts(len(floats), len(quantised), 100 * part / whole if part is not None and whole else None)
