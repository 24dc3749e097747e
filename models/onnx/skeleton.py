"""Copy of an ONNX model without the values of its large weights, which shape inference and costs do not need."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from .graphs import walk_nodes

MAX_VALUES = 256
"""Number of values above which a weight is large: a kilobyte of float32."""
_VALUE_READERS = ("Identity", "InstanceNormalization")
"""Operators whose weights tell by their values whether they are parameters."""


def strip_weights(model: Any) -> Any:
    """Return a copy of a model whose large weights have their shape and type, but no values.

    Sizes and indices, int32 or int64, keep their values, and so do constants that are nodes or in sub-graphs, and
    uniform weights of several nodes, which may be merged ones.
    """
    import onnx

    read = {name for node in walk_nodes(model) if node.op_type in _VALUE_READERS for name in node.input}
    uses = Counter(name for node in walk_nodes(model) for name in node.input)
    read |= {tensor.name for tensor in model.graph.initializer if uses[tensor.name] > 1 and is_uniform(tensor)}
    graph = onnx.GraphProto(**_list_fields(model.graph, "initializer"))
    for tensor in model.graph.initializer:
        if is_large(tensor) and tensor.name not in read:
            graph.initializer.add(
                name=tensor.name,
                dims=tensor.dims,
                data_type=tensor.data_type,
                data_location=onnx.TensorProto.EXTERNAL,  # and no location: its values cannot be read by mistake
            )
        else:
            graph.initializer.append(tensor)
    return onnx.ModelProto(**_list_fields(model, "graph"), graph=graph)


def is_large(tensor: Any) -> bool:
    """Return True for a weight of many values, other than sizes and indices."""
    from onnx import TensorProto

    values = (TensorProto.INT32, TensorProto.INT64, TensorProto.STRING)
    return math.prod(tensor.dims) > MAX_VALUES and tensor.data_type not in values


def is_uniform(tensor: Any) -> bool:
    """Return True for a constant whose values are all equal; False where the skeleton has no values."""
    import onnx

    if 0 in tensor.dims or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return False
    values = onnx.numpy_helper.to_array(tensor).reshape(-1)
    return bool((values == values[0]).all())


def infer_known_shapes(skeleton: Any) -> Any:
    """Return a skeleton with the shapes and types that ONNX can infer; as it is if the inference fails."""
    import onnx

    try:
        inferred = onnx.shape_inference.infer_shapes(convert_weights(skeleton), data_prop=True)
    except MemoryError:
        raise
    except Exception:  # its errors share no base class; of a model that the checker rejects
        return skeleton
    del inferred.graph.input[len(skeleton.graph.input) :]
    del inferred.graph.initializer[:]
    inferred.graph.initializer.extend(skeleton.graph.initializer)
    return inferred


def convert_weights(skeleton: Any) -> Any:
    """Return a skeleton whose weights without values are inputs, as ONNX's checker and shape inference require."""
    import onnx

    converted = onnx.ModelProto()
    converted.CopyFrom(skeleton)
    graph, external = converted.graph, onnx.TensorProto.EXTERNAL
    del graph.initializer[:]
    for tensor in skeleton.graph.initializer:
        if tensor.data_location == external:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            graph.initializer.append(tensor)
    return converted


def load_skeleton(data: bytes) -> Any:
    """Return the skeleton of a serialised model, with shapes."""
    import onnx

    return infer_known_shapes(strip_weights(onnx.load_model_from_string(data)))


def _list_fields(message: Any, skipped: str) -> dict[str, Any]:
    return {field.name: value for field, value in message.ListFields() if field.name != skipped}
