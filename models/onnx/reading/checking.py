"""Checks of an ONNX model, and the shapes and types of its tensors."""

from __future__ import annotations

from typing import Any

from ....errors import FileFormatError
from ..graphs import Draft, list_custom_operators
from ..ort_probe import OrtProbe, first_line
from ..tensors import is_static, read_tensors


def normalise_graph(draft: Draft) -> None:
    """Inline functions, and make weights that are also inputs constant: runtimes optimise such graphs better."""
    import onnx
    import onnx.inliner

    model = draft.model
    if model.functions:
        draft.model = model = onnx.inliner.inline_local_functions(model)
        draft.change()
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) < len(model.graph.input):
        if model.ir_version > 3:  # earlier, every weight had to be an input
            draft.remarks.append("weights that are also inputs are treated as constants")
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        model.ir_version = max(model.ir_version, 4)
        draft.change()


def infer_shapes(draft: Draft) -> Any:
    """Check the model, write static shapes to its outputs, and return a copy with the shapes of all tensors.

    A model that ONNX's checker rejects and ONNX Runtime loads is accepted with a remark. ONNX Runtime also runs the
    model where the shape of an output cannot be inferred.

    Raises:
        FileFormatError: The model is invalid, or the shape of an output depends on the image.
    """
    import onnx

    model, custom = draft.model, list_custom_operators(draft.model)
    suffix = f" (custom operators: {', '.join(custom)})" if custom else ""
    reason = _check(model)
    probe = None
    if reason is not None:
        try:
            probe = OrtProbe(model.SerializeToString(), draft.where)
        except FileFormatError as error:
            raise FileFormatError(f"{draft.where}: invalid ONNX model: {reason}{suffix}") from error
        draft.remarks.append(f"ONNX Runtime loads the model, although ONNX's checker reports: {reason}")
    elif custom:
        draft.remarks.append(f"not every backend runs its custom operators: {', '.join(custom)}")
    inferred = _infer(model)
    if probe is None and is_static(inferred.graph.output):
        if not is_static(model.graph.output):
            del model.graph.output[:]
            model.graph.output.extend(inferred.graph.output)
            draft.change()
        return inferred
    try:
        probe = probe or OrtProbe(model.SerializeToString(), draft.where)
        outputs = probe.measure_outputs(read_tensors(model.graph.input, draft.where))
    except FileFormatError as error:
        raise FileFormatError(f"{error}{suffix}") from error
    del model.graph.output[:], model.graph.value_info[:]
    for name, (shape, dtype) in outputs.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(dtype)
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, shape))
    draft.change()
    return _infer(model)


def _check(model: Any) -> str | None:
    """Return the complaint of ONNX's checker about a model; None if it is valid."""
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the errors of checker and shape inference share no base class
        return first_line(error)
    return None


def _infer(model: Any) -> Any:
    """Return a copy of a model with the shapes and types that ONNX can infer."""
    import onnx

    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # its errors share no base class; of a model that the checker rejects
        return model
