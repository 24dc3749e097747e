"""Choice of an output of an ONNX model."""

from __future__ import annotations

from ....errors import FileFormatError, UnknownNameError
from ..graphs import RawModel, keep_outputs
from ..signature import OUTPUT_OPTION, SCOPE_KEY
from ..skeleton import infer_known_shapes, strip_weights


def cut_to_output(raw: RawModel, name: str) -> None:
    """Keep one output, which may be any tensor of the graph, and what it is computed from.

    Raises:
        UnknownNameError: The graph has no such tensor; the message lists the outputs.
        FileFormatError: The type of the tensor is unknown.
    """
    graph = raw.model.graph
    outputs = {value.name: value for value in graph.output}
    if list(outputs) == [name]:
        return
    if name not in outputs:
        if not any(name in node.output for node in graph.node):
            raise UnknownNameError(f"output of {raw.where}:", name, outputs)
        inferred = infer_known_shapes(strip_weights(raw.model)).graph.value_info
        values = [value for value in inferred if value.name == name]
        if not values:
            raise FileFormatError(f"{raw.where}: the type of tensor {name!r} is unknown: choose an output instead")
        outputs[name] = values[0]
    inputs = [value.name for value in graph.input]
    whole = [value.name for value in graph.output]
    del graph.output[:]
    graph.output.append(outputs[name])
    keep_outputs(graph, [name])
    used = {value.name for value in graph.input}
    unused = [each for each in inputs if each not in used]
    removed = f"; inputs removed: {', '.join(unused)}" if unused else ""
    rest = f"all {len(whole)} outputs" if len(whole) > 1 else f"its output {whole[0]}"
    metadata = [entry for entry in raw.model.metadata_props if entry.key != SCOPE_KEY]  # that of the whole file
    del raw.model.metadata_props[:]
    raw.model.metadata_props.extend(metadata)
    raw.change(f"computes {name} only, not {rest}{removed}")


def require_tensors(raw: RawModel) -> None:
    """Check that all outputs are tensors, or of unknown type, which is inferred later.

    Raises:
        FileFormatError: One is a sequence or a map; the message lists the tensors to choose from.
    """
    kinds = {value.name: value.type.WhichOneof("value") for value in raw.model.graph.output}
    tensors = [name for name, kind in kinds.items() if kind == "tensor_type"]
    for name, kind in kinds.items():
        if kind not in (None, "tensor_type"):
            fix = f"choose a tensor with {OUTPUT_OPTION}: {', '.join(tensors)}" if tensors else "it has no tensors"
            raise FileFormatError(f"{raw.where}: output {name} is a {kind.removesuffix('_type')}, not a tensor: {fix}")
