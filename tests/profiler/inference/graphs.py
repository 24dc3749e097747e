"""Small ONNX files of other programs, whose classes follow from the colours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

SIZE = (32, 64)


def make_value(name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def write_graph(
    path: Path,
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    weights: dict[str, np.ndarray],
) -> Path:
    """Write a model of opset 17."""
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def write_copy(path: Path, none_above: float = 0.0) -> Path:
    """Write a network whose scores are the three channels, and a fourth score of `none_above`."""
    weight = np.zeros((4, 3, 1, 1), np.float32)
    weight[:3, :, 0, 0] = np.eye(3)
    nodes = [helper.make_node("Conv", ["x", "weight", "bias"], ["scores"])]
    weights = {"weight": weight, "bias": np.array([0, 0, 0, none_above], np.float32)}
    return write_graph(path, nodes, [make_value("x", (1, 3, *SIZE))], [make_value("scores", (1, 4, *SIZE))], weights)


def write_mask(path: Path, *nodes: NodeProto, kind: int = TensorProto.FLOAT, shape: Sequence[int] = ()) -> Path:
    """Write a network that computes red minus blue, `l`, and from it `nodes`; the last output is the network's."""
    conv = helper.make_node("Conv", ["x", "weight"], ["l"])
    name = nodes[-1].output[0] if nodes else "l"
    weights = {
        "weight": np.array([1, 0, -1], np.float32).reshape(1, 3, 1, 1),
        "zero": np.zeros((), np.float32),
        "axis1": np.array([1]),
        "axes01": np.array([0, 1]),
    }
    output = make_value(name, shape or (1, 1, *SIZE), kind)
    used = {tensor for node in (conv, *nodes) for tensor in node.input}
    return write_graph(
        path,
        [conv, *nodes],
        [make_value("x", (1, 3, *SIZE))],
        [output],
        {name: array for name, array in weights.items() if name in used},
    )


def make_halves(height: int = SIZE[0], width: int = SIZE[1]) -> np.ndarray:
    """Return an image with a red left and a blue right half."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 255
    return pixels


def list_halves(labels: np.ndarray) -> tuple[int, int]:
    """Return the classes of both halves, each of which must have a single class."""
    half = labels.shape[1] // 2
    (left,), (right,) = np.unique(labels[:, :half]), np.unique(labels[:, half:])
    return int(left), int(right)
