"""Parameters and multiply-accumulates of an ONNX graph.

Multiply-accumulates are those of convolutions and matrix multiplications for one image, as usual in the literature;
biases, normalisations, activations, pooling and resizing are not counted.

Parameters are weights and biases of products, quantised ones too, and every other floating-point constant of several
values that is computed with, e.g. a scale of a decomposed normalisation or a positional embedding, in branches and
loops too. Sizes, indices, scales of quantisation, and means and variances of batch normalisation do not count. A fixed
mask, grid or normalisation of the image is indistinguishable from trained values and counts too, and so is a scale of
ones of a normalisation without parameters, unless metadata of torch's newer exporter tell.

A tensor of several layers is one shared parameter. But exporters and optimisers merge equal weights, those of an
untrained network: ones, and biases of zeros. A tensor of one value therefore counts once per layer; the modules'
names and the weights before tell a layer from a further call. torch's newer exporter also removes biases of zeros,
which count as long as the nodes keep its metadata.
"""

from __future__ import annotations

import math
import re
from collections import ChainMap
from collections.abc import Hashable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....errors import FileFormatError
from ..graphs import HARDWARE_DOMAINS, list_subgraphs
from ..ort_probe import OrtProbe
from ..skeleton import is_uniform, load_skeleton
from ..tensors import generate_array, read_inputs
from .macs import Shapes, count_node_macs, get_attribute, get_shape, is_product

Tensors = dict[str, tuple[tuple[int, ...], int]]
"""Tensor -> shape and element type."""


@dataclass(frozen=True)
class OnnxCosts:
    """Costs of a model.

    Attributes:
        parameters: Number of parameters, see the module.
        macs: Multiply-accumulates.
        uncounted: Names of operators whose multiply-accumulates are missing: their shapes are unknown, they are in a
            branch or loop, or neither ONNX nor this module knows what they compute. Usually empty.
    """

    parameters: int
    macs: int
    uncounted: tuple[str, ...] = ()


def count_costs(data: bytes, skeleton: Any = None) -> OnnxCosts:
    """Count the costs of a serialised model with embedded weights and static shapes; see `infer_tensors`."""
    graph, tensors = infer_tensors(data, skeleton)
    shapes = {name: shape for name, (shape, _) in tensors.items()}
    counts = [(node.name or node.op_type, count_node_macs(node, shapes)) for node in graph.node]
    return OnnxCosts(
        _count_parameters(graph, shapes),
        sum(count or 0 for _, count in counts),
        tuple(name for name, count in counts if count is None),
    )


def infer_tensors(data: bytes, skeleton: Any = None, *, all_known: bool = False) -> tuple[Any, Tensors]:
    """Return the graph without large weights, and its tensors of known shape.

    ONNX cannot infer some shapes, e.g. through operators of ONNX Runtime such as QLinearAdd: those of products, or with
    `all_known` those of all tensors, come from ONNX Runtime.

    Args:
        data: serialised model.
        skeleton: the same model from `load_skeleton`; None to make it.
        all_known: True for the shapes of all tensors.
    """
    import onnx

    graph = (load_skeleton(data) if skeleton is None else skeleton).graph
    tensors = read_known_shapes(graph)
    shapes = {name: shape for name, (shape, _) in tensors.items()}
    unknown = {name for node in graph.node for name in node.output if name} - shapes.keys()
    if (unknown and all_known) or any(is_product(n) and count_node_macs(n, shapes) is None for n in graph.node):
        tensors |= measure_tensors(onnx.load_model_from_string(data), unknown)
    return graph, tensors


def measure_tensors(model: Any, names: set[str]) -> Tensors:
    """Return shapes and types of computed tensors, as ONNX Runtime infers them or by two runs that give the same.

    The runs return the shapes only: all tensors of a large image together take tens of gigabytes.
    """
    types: dict[str, int] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    with suppress(FileFormatError):
        probe = _probe(model, [], sorted(names - {value.name for value in model.graph.output}))
        for output in probe.session.get_outputs():
            if kind := _read_type(output.type):
                types[output.name] = kind
                # an empty shape is that of a single value, or unknown
                if output.shape and all(isinstance(length, int) for length in output.shape):
                    shapes[output.name] = tuple(output.shape)
        if unknown := sorted(types.keys() - shapes.keys()):
            shapes |= _measure_shapes(model, unknown)
    return {name: (shape, types[name]) for name, shape in shapes.items()}


def _probe(model: Any, nodes: Sequence[Any], outputs: Sequence[str]) -> OrtProbe:
    """Return a session of the model with further nodes and outputs."""
    import onnx

    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    probed.graph.node.extend(nodes)
    probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return OrtProbe(probed.SerializeToString(), "")


def _read_type(text: str) -> int | None:
    """Return the element type of a tensor in ONNX Runtime's words, e.g. `tensor(float)`; None for text and others."""
    from onnx import TensorProto

    name = re.fullmatch(r"tensor\((\w+)\)", text)
    return None if name is None or name[1] == "string" else int(TensorProto.DataType.Value(name[1].upper()))


def _measure_shapes(model: Any, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of tensors in two runs with random inputs; those that differ are left out."""
    from onnx import helper

    outputs = [f"{name}/lgc-shape" for name in names]
    nodes = [helper.make_node("Shape", [name], [output]) for name, output in zip(names, outputs, strict=True)]
    probe, specs = _probe(model, nodes, outputs), read_inputs(model.graph.input, "")
    runs = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        arrays = probe.run({spec.name: generate_array(rng, spec.shape, spec.dtype) for spec in specs}, outputs)
        runs.append([tuple(map(int, array)) for array in arrays])
    return {name: first for name, first, second in zip(names, *runs, strict=True) if first == second}


def read_known_shapes(graph: Any) -> Tensors:
    """Return the tensors of a graph whose static shapes are known."""
    tensors = {tensor.name: (tuple(tensor.dims), tensor.data_type) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(size.HasField("dim_value") for size in kind.shape.dim):
            shape = tuple(size.dim_value for size in kind.shape.dim)
            tensors.setdefault(value.name, (shape, kind.elem_type))
    return tensors


TRANSPARENT = (
    *("Identity", "DequantizeLinear", "QuantizeLinear", "Cast"),
    *("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand"),
)
"""Operators between a weight and the operator that uses it; they change its type or shape only."""

_WEIGHTS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Conv", "FusedConv", "NhwcConv", "NhwcFusedConv", "ConvTranspose", "FusedMatMul"), (1, 2)),
    "ConvInteger": (1,),
    "QLinearConv": (3, 8),
    "DeformConv": (1, 3),
    **dict.fromkeys(("Gemm", "FusedGemm", "GemmFastGelu", "GemmFloat8"), (0, 1, 2)),
    "QGemm": (0, 3, 6),
    **dict.fromkeys(("MatMul", "MatMulInteger", "MatMulInteger16"), (0, 1)),
    "MatMulIntegerToFloat": (0, 1, 6),
    "DynamicQuantizeMatMul": (0, 1, 4),
    "QLinearMatMul": (0, 3),
    "MatMulNBits": (1, 5),
    **dict.fromkeys(("MatMulBnb4", "MatMulFpQ4"), (1,)),
    **dict.fromkeys(("QLinearAdd", "QLinearMul"), (0, 3)),
    **dict.fromkeys(("LSTM", "DynamicQuantizeLSTM"), (1, 2, 3, 7)),
    **dict.fromkeys(("GRU", "RNN"), (1, 2, 3)),
    "QAttention": (1, 2),
    "BatchNormalization": (1, 2),  # mean and variance are statistics
    **dict.fromkeys(("InstanceNormalization", "LayerNormalization", "GroupNormalization"), (1, 2)),
    "PRelu": (1,),
    **dict.fromkeys(("Resize", "Upsample", "OneHot", "DynamicQuantizeLinear"), ()),
    **dict.fromkeys(("RotaryEmbedding", "GroupQueryAttention"), ()),  # their tables of angles are computed
}
"""Operator -> inputs that may be weights, of any type and size; of others, all floats of several values may be."""

PACKED = ("MatMulNBits", "MatMulBnb4", "MatMulFpQ4")
"""Products whose weights share bytes: as many as an output row times an input row has values."""

_BIAS_PATH = ("Cast", "Mul", "Identity")
"""Operators between an integer product and its bias: the product is scaled first."""
_BIASED = ("MatMul", "FusedMatMul", "MatMulInteger", "ConvInteger")
"""Products without an input for a bias, which an addition adds."""


class Scope:
    """Graph with what its nodes can read, from the graphs around it too.

    torch exports equal weights as one and its copies by Identity: those of one value are weights before training, and
    others are shared.

    Attributes:
        graph: The graph.
        constants: Tensor -> its initializer or the value of its Constant node.
        producers: Tensor -> node that computes it.
    """

    def __init__(
        self, graph: Any, constants: MutableMapping[str, Any] | None = None, producers: Mapping[str, Any] | None = None
    ) -> None:
        own = {tensor.name: tensor for tensor in graph.initializer}
        computed = {name: node for node in graph.node for name in node.output}
        for node in graph.node:
            if node.op_type == "Constant" and (value := get_attribute(node, "value")) is not None:
                own[node.output[0]] = value
            elif node.op_type == "Identity" and (value := own.get(node.input[0])) is not None and is_uniform(value):
                own[node.output[0]] = copy(value)
        self.graph = graph
        self.constants = ChainMap(own, constants or {})
        self.producers = ChainMap(computed, dict(producers or {}))

    def walk(self) -> Iterator[Scope]:
        """Yield the graph and those inside."""
        yield self
        for node in self.graph.node:
            for inner in list_subgraphs(node):
                yield from Scope(inner, self.constants, self.producers).walk()

    def find_constant(self, name: str) -> tuple[Any, bool]:
        """Return the constant that a tensor is made of by `TRANSPARENT` operators, if any; and True if dequantised."""
        is_dequantised = False
        while name not in self.constants and name in self.producers:
            node = self.producers[name]
            if node.op_type not in TRANSPARENT:
                return None, False
            is_dequantised |= node.op_type == "DequantizeLinear"
            name = node.input[0]
        return self.constants.get(name), is_dequantised

    def has_product(self, name: str) -> bool:
        """Return True if a tensor is a product of `_BIASED`, perhaps scaled."""
        node = self.producers.get(name)
        if node is None or node.op_type in _BIASED:
            return node is not None
        return node.op_type in _BIAS_PATH and any(map(self.has_product, node.input))

    def is_scaling(self, node: Any) -> bool:
        """Return True for the product of the scales of an image and of weights, as quantisation at run time needs."""
        producers = [self.producers.get(name) for name in node.input]
        return any(made is not None and made.op_type == "DynamicQuantizeLinear" for made in producers)

    def is_group_norm(self, node: Any) -> bool:
        """Return True for the part of torch's group normalisation without parameters: they follow as Mul and Add."""
        made, constants = self.producers.get(node.input[0]), [self.constants.get(name) for name in node.input[1:3]]
        is_plain = all(tensor is not None and is_uniform(tensor) for tensor in constants)
        return made is not None and made.op_type == "Reshape" and is_plain


def _count_parameters(graph: Any, shapes: Shapes) -> int:
    """Return the number of values of all parameters, each tensor once, those of one value once per layer."""
    scopes = list(Scope(graph).walk())
    counted: dict[tuple[Hashable, ...], int] = {}
    for scope in scopes:
        for node in scope.graph.node:
            if node.domain in HARDWARE_DOMAINS or node.op_type in (*TRANSPARENT, "Constant"):
                continue
            parameters = dict(_iter_parameters(node, scope))
            unique = tuple(id(tensor) for tensor in parameters.values() if not is_uniform(tensor))
            for index, tensor in parameters.items():
                size = math.prod(tensor.dims)
                layer = () if id(tensor) in unique else (index, *(unique or _identify_layer(node, tensor, scope)))
                if node.op_type in PACKED and index == 1:
                    left, out = get_shape(node, 0, shapes), shapes.get(node.output[0])
                    size = left[-1] * out[-1] if left and out else size
                counted[id(tensor), *layer] = size
            if _lost_bias(node) and (shape := shapes.get(node.output[0])):
                counted["bias", *unique] = shape[1]
    return sum(counted.values())


_MODULE_KEY, _CALL_KEY = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.fx_node"
"""Metadata of a node by torch's newer exporter: the modules around it, with its own name; and torch's call."""
_RULES_KEY = "pkg.onnxscript.rewriter.rule_name"
"""Further metadata: the rules that rewrote the node."""
_CALL_SUFFIX = re.compile(r"_\d+(?=/|$)")
"""Number that torch's older exporter adds to the name of a module at its further calls."""
_CALL_WITH_BIAS = re.compile(r"args = \(%\w+, %\w+, %")
"""Call with an input, a weight, and a tensor as the bias."""

_BARE_CALL = re.compile(r"instance_norm\.default\]\(args = \(%\w+, None, None,")
"""Call of an instance normalisation without parameters."""


def _read_note(node: Any, key: str) -> str:
    """Return an entry of a node's metadata; empty without one."""
    return next((entry.value for entry in node.metadata_props if entry.key == key), "")


def _lost_bias(node: Any) -> bool:
    """Return True for a product whose bias, or that of its folded normalisation, was removed as it was all zeros."""
    if len(node.input) > 2 or "RemoveOptionalBias" not in _read_note(node, _RULES_KEY):
        return False
    return _CALL_WITH_BIAS.search(_read_note(node, _CALL_KEY)) is not None


def _identify_layer(node: Any, tensor: Any, scope: Scope) -> tuple[Hashable, ...]:
    """Return the identity of the layer of a node whose parameters all have one value, the same at each of its calls.

    It is the module, else its name by torch's older exporter and the weights before it. Single values, e.g. those of an
    activation, and matrices of other operators than products, e.g. masks, are shared. So are those of an instance
    normalisation that may be one without parameters.
    """
    if math.prod(tensor.dims) == 1 or (node.op_type not in _WEIGHTS and sum(size > 1 for size in tensor.dims) > 1):
        return ()
    if node.op_type == "InstanceNormalization" and not _read_note(node, _CALL_KEY):
        return ()
    if module := _read_note(node, _MODULE_KEY).rpartition(",")[0]:
        return (module,)
    return (_CALL_SUFFIX.sub("", node.name.rpartition("/")[0]), *_find_weights(node, tensor, scope))


def _find_weights(node: Any, tensor: Any, scope: Scope) -> tuple[Hashable, ...]:
    """Return the next weights before a node, other than those of one value, and the number of uses of `tensor` since.

    A shared layer usually follows another one, whose weight is the same at each call.
    """
    pending, seen = list(node.input), set()
    weights, uses = set(), 0
    while pending:
        name = pending.pop()
        made = scope.producers.get(name)
        if made is None or name in seen:
            continue
        seen.add(name)
        parameters = [each for _, each in _iter_parameters(made, scope)]
        unique = {id(each) for each in parameters if not is_uniform(each)}
        weights |= unique
        uses += any(each is tensor for each in parameters)
        pending += () if unique else made.input
    return frozenset(weights), uses


def _iter_parameters(node: Any, scope: Scope) -> Iterator[tuple[int, Any]]:
    """Yield positions and constants of those among a node's inputs that are parameters."""
    if scope.is_scaling(node) and node.op_type == "Mul":
        return
    if node.op_type == "InstanceNormalization" and (
        scope.is_group_norm(node) or _BARE_CALL.search(_read_note(node, _CALL_KEY))
    ):
        return
    places = range(len(node.input)) if node.op_type == "Einsum" else _WEIGHTS.get(node.op_type)
    is_bias = node.op_type == "Add" and any(map(scope.has_product, node.input))
    for index, name in enumerate(node.input):
        tensor, is_dequantised = scope.find_constant(name)
        if tensor is None or (places is not None and index not in places):
            continue
        if places is not None or is_bias or ((is_dequantised or _is_float(tensor)) and math.prod(tensor.dims) > 1):
            yield index, tensor


def _is_float(tensor: Any) -> bool:
    from onnx import TensorProto

    return tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
