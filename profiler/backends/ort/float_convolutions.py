"""Quantised convolutions that ONNX Runtime computes in float32.

Its CPU provider has a kernel for a convolution whose output is quantised too, but not for one followed by an activation
that the range of the output does not contain, as in files for TensorRT. It then dequantises the inputs and convolves in
float32.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from ....models.onnx.counting.arithmetic import has_quantised_factors
from .layers import OPTIMISED_FILE
from .loader import CPU_PROVIDER
from .session import open_session

_FLOAT_CONVOLUTIONS = ("Conv", "FusedConv", "NhwcFusedConv")


def count_float_convolutions(onnx_model: bytes) -> tuple[int, int]:
    """Return how many quantised convolutions the CPU provider computes in float32, and the number of all of them.

    Args:
        onnx_model: serialised ONNX model with Q/DQ nodes.

    Raises:
        MeasurementError: ONNX Runtime rejects the model.
    """
    import onnx

    graph = onnx.load_model_from_string(onnx_model).graph
    producers = {name: node for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type in _FLOAT_CONVOLUTIONS]
    quantised = sum(has_quantised_factors(node, producers) for node in convolutions)
    if not quantised:
        return 0, 0
    with tempfile.TemporaryDirectory(prefix="lgc-int8-") as folder:
        session = open_session("the model", onnx_model, CPU_PROVIDER, {}, 1, profile=Path(folder))
        session.end_profiling()
        optimised = onnx.load(str(Path(folder) / OPTIMISED_FILE), load_external_data=False).graph
    computed = sum(node.op_type in _FLOAT_CONVOLUTIONS for node in optimised.node)
    return computed - (len(convolutions) - quantised), quantised
