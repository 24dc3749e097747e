"""Export of torch modules to ONNX: operators and whole networks become the same kind of graph."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.jit._trace import TracerWarning

from ...errors import FileFormatError, LgcError, PluginError
from ...plugins import describe_error, is_user_file
from .graphs import name_nodes
from .tracing import require_traceable

OPSET = 17
"""ONNX operator set, supported by TensorRT 10, TensorRT-RTX 1.x and ONNX Runtime 1.15 and later."""


def to_onnx(module: nn.Module, input_shapes: Sequence[tuple[int, ...]], dtype: str = "float32") -> bytes:
    """Export `module` in evaluation mode to a checked, serialised ONNX model with static shapes.

    This uses torch's tracing exporter, not the newer one based on torch.export: it takes 10 ms instead of 1.5 s per
    graph, and a table holds hundreds of graphs. Control flow of the user's modules that tracing misses is refused.

    Args:
        module: Module whose inputs have the same type.
        input_shapes: Shape of each input. Inputs are named `input_0`, `input_1`, ..., the first output `output_0`.
        dtype: Type of the inputs, in torch's notation.

    Raises:
        PluginError: The module has an operation that ONNX lacks, decides by the values of tensors, or fails. The
            message has the line.
    """
    import onnx

    inputs = tuple(torch.zeros(shape, dtype=getattr(torch, dtype)) for shape in input_shapes)
    buffer: Any = io.BytesIO()  # torch annotates a path but accepts a file
    silence = patch.object(torch._C, "_jit_onnx_log", lambda *_: None)  # prints the graph of a failed export on stdout
    with warnings.catch_warnings(record=True) as caught, silence, torch.no_grad(), _plain_attention():
        warnings.simplefilter("always")
        try:
            torch.onnx.export(
                module.eval(),
                inputs,
                buffer,
                dynamo=False,
                opset_version=OPSET,
                input_names=[f"input_{index}" for index in range(len(inputs))],
                output_names=["output_0"],
            )
        except (LgcError, MemoryError):
            raise
        except Exception as error:
            raise PluginError(f"cannot export to ONNX: {_explain_failure(error, module, inputs)}") from error
    if any(issubclass(item.category, TracerWarning) and is_user_file(item.filename) for item in caught):
        require_traceable(module, input_shapes, dtype, "the module", sizes=True)
    exported: bytes = buffer.getvalue()
    try:
        onnx.checker.check_model(onnx.load_from_string(exported), full_check=True)
    except Exception as error:  # its errors share no base class
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        advice = "; compute in float32, without torch.autocast" if "unsupported type" in reason else ""
        raise PluginError(f"cannot export to ONNX: the exported graph is invalid: {reason}{advice}") from error
    return exported


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Compute torch's own attention layers from operators that have an ONNX form, unlike those of its fast path."""
    is_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fast)


def _explain_failure(error: Exception, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> str:
    """Return why torch cannot export a module, with the line of the first operation that ONNX lacks."""
    unsupported = re.search(r"the operator '([\w:]+)'.*opset version (\d+)", str(error))
    if unsupported is None:
        return describe_error(error)
    name, opset = unsupported.groups()
    with torch.no_grad():
        graph = torch.jit.trace(module, inputs, check_trace=False).inlined_graph  # type: ignore[no-untyped-call]
    frames = [re.split(r"[()]", line) for node in graph.findAllNodes(name) for line in node.sourceRange().splitlines()]
    places = [f" ({frame[0]}, line {frame[1]})" for frame in frames if len(frame) == 3 and is_user_file(frame[0])]
    return f"opset {opset} has no {name}{places[0] if places else ''}"


_SKIPPED_PASSES = ["graph_fusion", "subexpression_elimination", "weight_tying"]
"""Passes of onnxslim that rename nodes, whose names identify layers, or merge nodes that runtimes report separately."""


def simplify(model: bytes) -> bytes:
    """Return the serialised model with constants folded and identity nodes removed, checked.

    Names of nodes, inputs and outputs, the operator set, the IR version and the metadata are unchanged; outputs are
    bit-identical. The order of nodes is unchanged too: some runtimes execute in it, and it affects cache hits. Nodes
    without a unique name get one.
    """
    import onnx
    import onnxslim

    loaded = onnx.load_model_from_string(model)
    name_nodes(loaded.graph)
    positions = {node.name: position for position, node in enumerate(loaded.graph.node)}
    slim = onnxslim.slim(loaded, skip_optimizations=_SKIPPED_PASSES)
    nodes = list(slim.graph.node)
    if all(node.name in positions for node in nodes):  # else a branch was inlined
        del slim.graph.node[:]
        slim.graph.node.extend(sorted(nodes, key=lambda node: positions[node.name]))
    onnx.checker.check_model(slim, full_check=True)
    return bytes(slim.SerializeToString())


def upgrade_opset(model: bytes, version: int, where: str) -> bytes:
    """Return the serialised model in at least a version of ONNX's operator set.

    Args:
        model: Model, possibly of another program.
        version: Required version.
        where: Name of the model in errors.

    Raises:
        FileFormatError: ONNX cannot convert it.
    """
    import onnx
    from onnx import version_converter

    loaded = onnx.load_model_from_string(model)
    own = next((entry.version for entry in loaded.opset_import if entry.domain in ("", "ai.onnx")), version)
    if own >= version:
        return model
    try:
        converted = version_converter.convert_version(loaded, version)
    except MemoryError:
        raise
    except Exception as error:  # its errors share no base class
        reason = (str(error).splitlines() or [""])[0]
        raise FileFormatError(
            f"{where} has operator set {own}, needs {version}, and cannot be converted ({reason}): export it again"
        ) from error
    return bytes(converted.SerializeToString())


def replace_metadata(model: bytes, metadata: Mapping[str, str]) -> bytes:
    """Return the serialised model with `metadata` instead of its own."""
    import onnx

    loaded = onnx.load_model_from_string(model)
    del loaded.metadata_props[:]
    onnx.helper.set_model_props(loaded, dict(metadata))
    return bytes(loaded.SerializeToString())


def add_metadata(model: bytes, metadata: Mapping[str, str]) -> bytes:
    """Return the serialised model with `metadata` besides its own."""
    import onnx

    own = {entry.key: entry.value for entry in onnx.load_model_from_string(model).metadata_props}
    return replace_metadata(model, {**own, **metadata})
