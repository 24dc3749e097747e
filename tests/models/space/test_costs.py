"""Costs of arrays of architectures, compared with single architectures, executed modules and exported graphs."""

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from lgc.errors import UnknownNameError, UsageError
from lgc.models import OPERATORS, PRESETS, SCOPES, LGCNet, Operator, SearchSpace
from lgc.models.nets.layers import fold_norms
from lgc.models.nets.network import DenseOutput
from lgc.models.onnx.export import to_onnx
from lgc.models.recipe import Conv
from lgc.models.space import cost
from lgc.models.space.costs import Costs
from lgc.models.space.lgcnet import LGCNetSpace, memory

from ...operators import EXAMPLES
from ...spaces import SLIM

RECIPES = [name for name in EXAMPLES if name != "pooled_attention"]
ALL = {"operators": ["skip", "max_pool_3x3", "conv_3x3", "sep_conv_3x3_d2", "zero"]}
NARROW = {**ALL, "stem": {"channels": 1, "strides": [2, 2]}, "input": [64, 64]}
VARIANTS = {
    "mini": {},
    "wide stem": {**ALL, "stem": {"channels": 64, "strides": [1, 2, 2]}},
    "wide head": {"head_channels": 128},
    "several heads": {"head_channels": 64, "head_widths": [1, 16, 128]},
    "several heads and cells": {**NARROW, "cells": 1, "reductions": [], "channels": 48, "head_widths": [2, 256, 512]},
    "one wide cell": {**NARROW, "cells": 1, "reductions": [], "channels": 48},
    "three nodes": {**NARROW, "cells": 1, "reductions": [], "channels": 24, "nodes": 3},
    "wide reduction": {**NARROW, "cells": 1, "reductions": [0], "channels": 24, "nodes": 3},
    "no zero": {**NARROW, "cells": 1, "reductions": [], "channels": 48, "operators": ["skip", "max_pool_3x3"]},
    "one node": {**NARROW, "channels": 32, "nodes": 1, "fusion": {"nodes": 1, "channels": 8, "level": 3}},
    "features kept": {**NARROW, "cells": 3, "reductions": [1, 2], "channels": 48, "nodes": 1},
    "fine fusion": {**NARROW, "cells": 3, "reductions": [1], "fusion": {"nodes": 3, "channels": 64, "level": 1}},
    "coarse fusion": {**NARROW, "cells": 3, "reductions": [1, 2], "fusion": {"nodes": 1, "channels": 64, "level": 4}},
    "odd fusion": {**NARROW, "input": [49, 83], "reductions": [0], "fusion": {"nodes": 1, "channels": 32, "level": 3}},
    "wide projection": {
        **NARROW,
        "cells": 1,
        "reductions": [],
        "operators": ["skip", "max_pool_3x3"],
        "stem": {"channels": 1, "strides": [1]},
        "fusion": {"nodes": 1, "channels": 32, "level": 0},
    },
    "examples": {**NARROW, "cells": 1, "reductions": [0], "operators": ["skip", *RECIPES], "channels": 24},
    "bottlenecks": {**NARROW, "cells": 1, "reductions": [], "operators": ["skip", "bottleneck"], "channels": 24},
}
"""Changes of the mini space; the part of the network that needs the most memory differs between them."""


@pytest.fixture(params=VARIANTS)
def variant(request, mini_space, monkeypatch):
    """Return a space of `VARIANTS`; the tensors of operator `bottleneck` differ in size."""

    def recipe(spec):
        wide = 4 * spec.c_in
        return Conv(spec.c_in, wide, 1), Conv(wide, wide, 3, spec.stride, groups=wide), Conv(wide, spec.c_out, 1)

    monkeypatch.setitem(OPERATORS, "bottleneck", Operator("bottleneck", recipe, searchable=True, upsamples=False))
    return SearchSpace.check({**mini_space.model_dump(mode="json"), **VARIANTS[request.param]}, request.param)


@pytest.fixture(params=[*PRESETS, "mini"])
def space(request, mini_space):
    return mini_space if request.param == "mini" else SearchSpace.load(request.param)


def random_architectures(space, count, seed=0):
    return [*space.spread(count, seed), *(space.sample(seed + index) for index in range(count))]


def choices_array(architectures):
    return np.array([architecture.choices for architecture in architectures])


def make_module(space, architecture, scope):
    network = LGCNet(space, architecture).eval()
    return network if scope == "core" else DenseOutput(network, network.space.plan.dense).eval()


class LayerRecorder(TorchDispatchMode):
    """Record of executed layers, as (tensor indices of inputs, of output), and of the bytes of each tensor."""

    def __init__(self, image, bytes_per_value):
        super().__init__()
        self.bytes_per_value = bytes_per_value
        self.tensors, self.bytes, self.steps = [], [], []
        self.number(image)

    def number(self, tensor):
        """Return the index of a tensor; all are kept alive, so that no new tensor has the identity of an old one."""
        for index, known in enumerate(self.tensors):
            if known is tensor:
                return index
        self.tensors.append(tensor)
        self.bytes.append(math.prod(tensor.shape) * (8 if tensor.dtype == torch.int64 else self.bytes_per_value))
        return len(self.tensors) - 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("relu_", "hardswish_", "hardsigmoid_", "gelu"):  # part of the layer before it
            return args[0]
        if name == "native_batch_norm":  # folded into the convolution before it
            return args[0], *args[3:5]
        out = func(*args, **(kwargs or {}))
        if name == "empty":
            return out
        if name in ("replication_pad2d", "slice"):  # part of an upsampling, whose result is the last slice
            index = self.number(args[0])
            self.tensors[index] = out
            if name == "slice":
                self.bytes[index] = math.prod(out.shape) * self.bytes_per_value
            return out
        inputs = {"cat": args[0], "add": args[:2], "mul": args[:2]}.get(name, args[:1])
        output = out[0] if isinstance(out, tuple) else out
        self.steps.append(([self.number(tensor) for tensor in inputs], self.number(output)))
        return out


def run_peak(space, architecture, scope, bytes_per_value=4):
    """Return the peak of bytes alive while the architecture's module runs, each tensor until its last use."""
    with torch.device("meta"):
        module, image = make_module(space, architecture, scope), torch.zeros(1, 3, *space.input)
    with torch.no_grad(), LayerRecorder(image, bytes_per_value) as run:
        module(image)
    return peak_bytes(run.steps, dict(enumerate(run.bytes)))


def peak_bytes(steps, size):
    """Return the peak of bytes alive while `steps` of (inputs, output) run in order on tensors of these sizes."""
    born = {output: time_index for time_index, (_, output) in enumerate(steps)}
    last = dict(born)
    for time_index, (inputs, _) in enumerate(steps):
        last |= dict.fromkeys(inputs, time_index)
    return max(
        sum(size[tensor] for tensor, end in last.items() if born.get(tensor, 0) <= time_index <= end)
        for time_index in range(len(steps))
    )


def graph_peak(space, architecture, scope):
    """Return the peak of the exported graph, whose ReLUs run in place."""
    onnx = pytest.importorskip("onnx")
    exported = to_onnx(make_module(space, architecture, scope), [(1, 3, *space.input)])
    model = onnx.load_from_string(exported)
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    size = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        shape = [axis.dim_value for axis in kind.shape.dim]
        if len(shape) >= 3:  # lower ranks hold shapes
            size[value.name] = math.prod(shape) * (8 if kind.elem_type == onnx.TensorProto.INT64 else 4)
    assert all(size.values()), "a tensor of unknown shape"
    same, steps = {}, []
    for node in graph.node:
        inputs, output = [same.get(name, name) for name in node.input], node.output[0]
        if node.op_type in ("Relu", "Identity"):
            same[output] = inputs[0]
        elif node.op_type == "Slice" and output in size:  # the end of an upsampling
            same[output], size[inputs[0]] = inputs[0], size[output]
        elif output in size:
            steps.append(([name for name in inputs if name in size], output))
    return peak_bytes(steps, size)


def test_macs_and_parameters_match_single_architectures(space):
    architectures, counted = random_architectures(space, 20), Costs(space)
    choices = choices_array(architectures)
    assert len(set(choices[:, -1].tolist())) == len(space.heads)
    assert counted.macs(choices).tolist() == [architecture.macs for architecture in architectures]
    assert counted.parameters(choices).tolist() == [architecture.parameters for architecture in architectures]


@given(seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=10)
def test_costs_match_modules_with_any_head(headed_space, seed, data):
    operators = headed_space.sample(seed).choices[:-1]
    heads = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=4))
    architectures = [headed_space.build([*operators, head]) for head in heads]
    counted, choices = Costs(headed_space), choices_array(architectures)
    for scope in SCOPES:
        peaks = counted.peak_activation_bytes(choices, scope=scope)
        assert peaks.tolist() == [run_peak(headed_space, architecture, scope) for architecture in architectures]
    modules = [fold_norms(make_module(headed_space, architecture, "core")) for architecture in architectures]
    real = [sum(parameter.numel() for parameter in module.parameters()) for module in modules]
    assert counted.parameters(choices).tolist() == real
    assert counted.macs(choices).tolist() == [architecture.macs for architecture in architectures]


@pytest.mark.parametrize("variant", ["several heads", "several heads and cells"], indirect=True)
def test_peak_can_depend_on_head(variant):
    choices = choices_array([variant.sample(0)] * len(variant.heads))
    choices[:, -1] = np.arange(len(variant.heads))
    peaks = Costs(variant).peak_activation_bytes(choices, scope="core").tolist()
    assert peaks == sorted(peaks)
    assert len(set(peaks)) > 1


@pytest.mark.parametrize("scope", SCOPES)
def test_peak_matches_executed_modules(variant, scope):
    architectures = random_architectures(variant, 12 if scope == "core" else 3)
    peaks = Costs(variant).peak_activation_bytes(choices_array(architectures), scope=scope)
    assert peaks.tolist() == [run_peak(variant, architecture, scope) for architecture in architectures]


@pytest.mark.parametrize("inputs", [1, 2])
def test_inputs_that_are_passed_through_count_once(inputs):
    """With searched widths, a feature that has a cell's width is an input itself, and may be kept for later cells."""
    space = LGCNetSpace.check({**SLIM, "inputs": inputs, "cells": 4, "widths": [[8, 12], [8, 16]]}, "slim")
    architectures = random_architectures(space, 40)
    peaks = Costs(space).peak_activation_bytes(choices_array(architectures), scope="core")
    assert peaks.tolist() == [run_peak(space, architecture, "core") for architecture in architectures]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("preset", PRESETS)
def test_preset_peak_matches_executed_modules(preset, scope):
    space = SearchSpace.load(preset)
    architectures = random_architectures(space, 3, seed=7)
    peaks = Costs(space).peak_activation_bytes(choices_array(architectures), 2, scope)
    assert peaks.tolist() == [run_peak(space, single, scope, 2) for single in architectures]


@pytest.mark.parametrize("scope", SCOPES)
def test_peak_matches_exported_graph(mini_space, scope):
    for space in (mini_space, SearchSpace.load("tiny")):
        architectures = random_architectures(space, 2, seed=3)
        peaks = Costs(space).peak_activation_bytes(choices_array(architectures), scope=scope)
        assert peaks.tolist() == [graph_peak(space, architecture, scope) for architecture in architectures]


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "rapid"])
def test_preset_peak_depends_on_no_choice(preset):
    space = SearchSpace.load(preset)
    choices, (height, width) = choices_array(random_architectures(space, 20)), space.input
    assert set(Costs(space).peak_activation_bytes(choices)) == {height * width * (space.classes * 4 + 8)}
    assert len(set(Costs(space).peak_activation_bytes(choices, scope="core"))) == 1


def test_untabulated_peaks_equal_tabulated_peaks(variant, monkeypatch):
    choices = choices_array(random_architectures(variant, 20))
    expected = Costs(variant).peak_activation_bytes(choices, scope="core")
    monkeypatch.setattr(memory, "MAX_CODES", 4)
    assert Costs(variant).peak_activation_bytes(choices, scope="core").tolist() == expected.tolist()


def test_chunks_do_not_change_costs(headed_space, monkeypatch):
    choices = choices_array(random_architectures(headed_space, 10))
    whole = Costs(headed_space)
    expected = [method(choices).tolist() for method in (whole.macs, whole.parameters, whole.peak_activation_bytes)]
    monkeypatch.setattr(cost, "CHUNK_ROWS", 7)
    parted = Costs(headed_space)
    assert [m(choices).tolist() for m in (parted.macs, parted.parameters, parted.peak_activation_bytes)] == expected


@pytest.mark.parametrize("name", ["macs", "parameters", "peak_activation_bytes"])
def test_empty_arrays_and_integer_types_work(mini_space, name):
    method, choices = getattr(Costs(mini_space), name), choices_array(random_architectures(mini_space, 3))
    empty = method(choices[:0])
    assert (empty.shape, empty.dtype) == ((0,), np.int64)
    assert method(choices.astype(np.uint8)).tolist() == method(choices).tolist() == method(choices.tolist()).tolist()


@pytest.mark.parametrize("variant", ["mini", "one wide cell", "wide stem"], indirect=True)
@given(seed=st.integers(0, 2**32), bytes_per_value=st.integers(1, 8))
@settings(max_examples=20)
def test_peak_grows_with_bytes_per_value(variant, seed, bytes_per_value):
    counted, choices = Costs(variant), choices_array(random_architectures(variant, 1, seed))
    single, core = (counted.peak_activation_bytes(choices, size, "core") for size in (1, bytes_per_value))
    assert core.tolist() == (single * bytes_per_value).tolist()
    dense, half = (counted.peak_activation_bytes(choices, size) for size in (2 * bytes_per_value, bytes_per_value))
    assert (dense >= 2 * core).all()
    assert (2 * half >= dense).all(), "the size of labels is fixed"


@pytest.mark.parametrize("variant", ["bottlenecks"], indirect=True)
def test_more_tensors_never_lower_the_peak(variant):
    skip, bottleneck = (variant.operators.index(name) for name in ("skip", "bottleneck"))
    counted, choices = Costs(variant), choices_array(random_architectures(variant, 20))
    grown = 0
    for edge in range(variant.edges):
        light, heavy = choices.copy(), choices.copy()
        light[:, edge], heavy[:, edge] = skip, bottleneck
        below, above = (counted.peak_activation_bytes(each, scope="core") for each in (light, heavy))
        assert (below <= above).all()
        grown += int((below < above).sum())
    assert grown


@pytest.mark.parametrize("name", ["macs", "parameters", "peak_activation_bytes"])
def test_costs_are_vectorised(name):
    """The number of Python calls is independent of the number of architectures."""
    space = SearchSpace.load("lgcnet-cityscapes")
    choices = np.random.default_rng(0).integers(0, len(space.heads), (1000, len(space.decisions)))
    method = getattr(Costs(space), name)
    choices[: len(space.heads), -1] = range(len(space.heads))  # each width has tables of its own
    method(choices)  # computes the tables
    assert 0 < count_calls(lambda: method(choices)) < 1.1 * count_calls(lambda: method(choices[:10]))


def count_calls(function):
    calls = []
    sys.setprofile(lambda frame, event, _: calls.append(frame) if event == "call" else None)
    try:
        function()
    finally:
        sys.setprofile(None)
    return len(calls)


@pytest.mark.parametrize("name", ["macs", "parameters", "peak_activation_bytes"])
def test_invalid_arrays_are_rejected(headed_space, name):
    method = getattr(Costs(headed_space), name)
    with pytest.raises(UsageError, match="must be from 0 to 2"):
        method(np.full((2, 16), 3))
    with pytest.raises(UsageError, match=r"must be integers \[N, 16\]"):
        method(np.ones((2, 15), int))


def test_invalid_scope_and_value_size_are_rejected(mini_space):
    choices = choices_array([mini_space.sample(0)])
    with pytest.raises(UnknownNameError, match="unknown scope 'whole'; known: core, dense"):
        Costs(mini_space).peak_activation_bytes(choices, scope="whole")
    with pytest.raises(UsageError, match="bytes_per_value must be at least 1, got 0"):
        Costs(mini_space).peak_activation_bytes(choices, bytes_per_value=0)
