"""Range of the values inside a network in fp16, which a CPU does not compute in: float16 ends at 65504."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from numpy.typing import NDArray

from ...models.onnx.ort_probe import OrtProbe
from ...models.onnx.skeleton import load_skeleton

MAX_HALF = 65504.0
"""Largest finite value of float16."""
CPU_REMARK = "compared on the CPU, which rounds weights to float16 but no activations: a run on a GPU rounds both"
"""Limit of every comparison of an fp16 file."""


def describe_fp16(model: bytes, inputs: Iterable[Sequence[NDArray[Any]]], where: str) -> tuple[str, ...]:
    """Return remarks on the fp16 file of a float32 model: what the CPU compares, and values beyond float16.

    Args:
        model: serialised float32 model.
        inputs: inputs of the model, for each run.
        where: name of the model, for messages.

    Raises:
        FileFormatError: ONNX Runtime fails.
    """
    peaks = measure_peaks(model, inputs, where)
    beyond = {name: peak for name, peak in peaks.items() if peak > MAX_HALF}
    if not beyond:
        return (CPU_REMARK,)
    name, peak = next(iter(beyond.items()))
    tensors = "a tensor exceeds" if len(beyond) == 1 else f"{len(beyond)} tensors exceed"
    warning = (
        f"warning: {tensors} float16's 65504 and will be infinite on a GPU, first {name} with {peak:.3g}: use bf16 or "
        "fp32"
    )
    return CPU_REMARK, warning


def measure_peaks(model: bytes, inputs: Iterable[Sequence[NDArray[Any]]], where: str) -> dict[str, float]:
    """Return the largest absolute value of each float32 tensor that the nodes of a model compute, in their order.

    The model computes the peaks itself: all its tensors together may take gigabytes.

    Raises:
        FileFormatError: ONNX Runtime fails.
    """
    import onnx
    from onnx import TensorProto, helper

    parsed = onnx.load_model_from_string(model)
    graph, skeleton = parsed.graph, load_skeleton(model).graph
    floats = {
        value.name
        for value in (*skeleton.value_info, *skeleton.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    names = [name for node in graph.node for name in node.output if name in floats]
    for index, name in enumerate(names):
        graph.node.append(helper.make_node("Abs", [name], [f"abs_{index}_of_{name}"]))
        graph.node.append(helper.make_node("ReduceMax", [f"abs_{index}_of_{name}"], [f"peak_{index}"], keepdims=0))
    del graph.output[:]
    graph.output.extend(
        helper.make_tensor_value_info(f"peak_{index}", TensorProto.FLOAT, ()) for index in range(len(names))
    )
    probe = OrtProbe(parsed.SerializeToString(), where)
    feeds = [each.name for each in probe.session.get_inputs()]
    peaks = dict.fromkeys(names, 0.0)
    for arrays in inputs:
        for name, peak in zip(names, probe.run(dict(zip(feeds, arrays, strict=True))), strict=True):
            peaks[name] = max(peaks[name], float(peak))
    return peaks
