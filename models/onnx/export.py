"""torch modules to ONNX: one way for operators and whole networks, so that both are timed as the same kind of graph."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

OPSET = 17
"""ONNX operator set; read by TensorRT 10, TensorRT-RTX 1.x and ONNX Runtime 1.15 and later."""


def to_onnx(module: nn.Module, input_shapes: Sequence[tuple[int, ...]], dtype: str = "float32") -> bytes:
    """Serialised ONNX model of `module` in evaluation mode, all shapes static, checked.

    torch's tracing exporter is used, not the newer one over torch.export: it takes 10 ms instead of 1.5 s a graph (a
    table holds hundreds), and our modules have no control flow that tracing could miss.

    Args:
        module: takes tensors of one type.
        input_shapes: one shape for each input; they are named `input_0`, `input_1`, ..., the first output `output_0`.
        dtype: of the inputs, as torch names it.
    """
    import onnx

    inputs = tuple(torch.zeros(shape, dtype=getattr(torch, dtype)) for shape in input_shapes)
    buffer: Any = io.BytesIO()  # torch's annotation asks for a path, its code takes a file
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            inputs,
            buffer,
            dynamo=False,
            opset_version=OPSET,
            input_names=[f"input_{index}" for index in range(len(inputs))],
            output_names=["output_0"],
        )
    exported: bytes = buffer.getvalue()
    onnx.checker.check_model(onnx.load_from_string(exported), full_check=True)
    return exported


_KEPT_OUT = ["graph_fusion", "subexpression_elimination", "weight_tying"]
"""Of onnxslim's passes: they rename nodes, by which layers are found again, or gather what other tools tell apart."""


def simplify(model: bytes) -> bytes:
    """The serialised model with its constants folded and nodes that only pass on removed, checked.

    Names of nodes, inputs and outputs stay, and so do operator set, IR version and metadata; outputs are the same to
    the bit. Nodes stay in order too: some runtimes compute in it, and what lies in a cache depends on it.

    Args:
        model: as `to_onnx` gives it, every node named.
    """
    import onnx
    import onnxslim

    read = onnx.load_model_from_string(model)
    places = {node.name: place for place, node in enumerate(read.graph.node)}
    slim = onnxslim.slim(read, skip_optimizations=_KEPT_OUT)
    nodes = sorted(slim.graph.node, key=lambda node: places[node.name])
    del slim.graph.node[:]
    slim.graph.node.extend(nodes)
    onnx.checker.check_model(slim, full_check=True)
    return bytes(slim.SerializeToString())


def replace_metadata(model: bytes, notes: Mapping[str, str]) -> bytes:
    """The serialised model with these properties in place of its own."""
    import onnx

    read = onnx.load_model_from_string(model)
    del read.metadata_props[:]
    onnx.helper.set_model_props(read, dict(notes))
    return bytes(read.SerializeToString())
