"""Checks of an ONNX model, and the shapes and types of its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from ....errors import FileFormatError
from .. import skeleton
from ..graphs import HARDWARE_DOMAINS, RawModel, list_custom_operators, walk_nodes
from ..ort_probe import DynamicOutputError, OrtProbe, quote_error
from ..skeleton import convert_weights, is_large, strip_weights
from ..tensors import is_static, read_inputs

_NO_DATA = re.compile(r"TensorProto \(tensor name: (.*?)\) should contain one and only one value field")
"""Complaint of ONNX's checker about a weight without values."""


def normalise_graph(raw: RawModel) -> None:
    """Inline functions, and make weights that are also inputs constant: runtimes optimise such graphs better."""
    import onnx
    import onnx.inliner

    model = raw.model
    if model.functions:
        raw.model = model = onnx.inliner.inline_local_functions(model)
        raw.change()
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) < len(model.graph.input):
        if model.ir_version > 3:  # earlier, every weight had to be an input
            raw.remarks.append("weights that are also inputs are treated as constants")
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        model.ir_version = max(model.ir_version, 4)
        raw.change()


def infer_shapes(raw: RawModel) -> Any:
    """Check the model, write static shapes to its outputs, and return its skeleton with the shapes of all tensors.

    A model that ONNX's checker rejects and ONNX Runtime loads is accepted with a remark. ONNX Runtime also runs the
    model where the shape of an output cannot be inferred.

    Raises:
        FileFormatError: The model is invalid, or the shape of an output depends on the image.
    """
    model, custom = raw.model, list_custom_operators(raw.model)
    inferred, is_measured = _infer(model), False
    try:
        if not is_static(model.graph.output):
            is_measured = not is_static(inferred.graph.output)
            _replace_outputs(raw, _measure(raw) if is_measured else inferred.graph.output)
        reason = _check(model)
        if reason is not None and not is_measured:
            is_measured = True
            _replace_outputs(raw, _measure(raw))
    except DynamicOutputError:
        raise
    except FileFormatError as error:
        cause = _check(model)
        detail = str(error) if cause is None else f"{raw.where}: invalid ONNX model: {cause}"
        if raw.bound:
            reason = cause or str(error).removeprefix(f"{raw.where}: ")
            detail = f"{raw.where} does not work with {raw.bound}, perhaps only with the size of its export: {reason}"
        suffix = f" (custom operators: {', '.join(custom)})" if custom else ""
        raise FileFormatError(f"{detail}{suffix}") from error
    if reason is not None:
        raw.remarks.append(f"ONNX Runtime runs the model, although ONNX's checker reports: {reason}")
    if any(node.domain in HARDWARE_DOMAINS for node in walk_nodes(model)):
        raw.remarks.append("optimised by ONNX Runtime for one kind of processor: use the original file elsewhere")
    if custom and reason is None:
        raw.remarks.append(f"not every backend runs its custom operators: {', '.join(custom)}")
    return _infer(model) if is_measured else inferred


def _measure(raw: RawModel) -> list[Any]:
    """Return the outputs with the shapes and types of a run of ONNX Runtime."""
    import onnx

    inputs = read_inputs(raw.model.graph.input, raw.where)
    outputs = OrtProbe(raw.model.SerializeToString(), raw.where).measure_outputs(inputs)
    to_type = onnx.helper.np_dtype_to_tensor_dtype
    return [
        onnx.helper.make_tensor_value_info(name, to_type(np.dtype(dtype)), shape)
        for name, (shape, dtype) in outputs.items()
    ]


def _replace_outputs(raw: RawModel, outputs: Iterable[Any]) -> None:
    """Write the shapes of the outputs, and drop those of other tensors, which may contradict them."""
    graph, values = raw.model.graph, list(outputs)
    del graph.output[:], graph.value_info[:]
    graph.output.extend(values)
    raw.change()


def _check(model: Any) -> str | None:
    """Return the complaint of ONNX's checker about a model; None if it is valid. Large weights are checked singly."""
    import onnx

    try:
        onnx.checker.check_model(convert_weights(strip_weights(model)), full_check=True)
        for tensor in filter(is_large, model.graph.initializer):
            onnx.checker.check_tensor(tensor)
    except MemoryError:
        raise
    except Exception as error:  # the errors of checker and shape inference share no base class
        reason = quote_error(error)
        empty = _NO_DATA.search(reason)
        return reason if empty is None else f"weight {empty[1]} has no data"
    return None


def _infer(model: Any) -> Any:
    """Return the skeleton of a model with the shapes and types that ONNX can infer."""
    return skeleton.infer_known_shapes(strip_weights(model))
