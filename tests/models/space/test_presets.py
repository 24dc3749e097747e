"""Conformance of every preset: its slots cover the whole network."""

import math
from collections import Counter
from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import nn

from lgc.models import PRESETS, LGCNet, SearchSpace, recipe
from lgc.models.nets.layers import fold_norms
from lgc.models.nets.network import DenseOutput
from lgc.models.onnx.export import to_onnx
from lgc.models.space import operators as ops
from lgc.models.space.presets import VARIANTS
from lgc.models.space.protocol import CORE, DENSE

from ...spaces import list_heads

SEEDS = range(5)


@pytest.fixture(scope="module", params=PRESETS)
def space(request):
    return SearchSpace.load(request.param)


def random_architecture(space, seed):
    """Return a random architecture; the `SEEDS` cover every head width."""
    return space.build([*space.sample(seed).choices[:-1], seed])


@cache
def on_meta(space, seed):
    """Return the folded network on the meta device: parameters and shapes without values."""
    architecture = random_architecture(space, seed)
    with torch.device("meta"):
        return architecture, fold_norms(DenseOutput(LGCNet(space, architecture), space.plan.dense))


def image(space):
    return torch.empty(1, 3, *space.input, device="meta")


@pytest.mark.parametrize("seed", SEEDS)
def test_spec_parameters_match_network(space, seed):
    architecture, network = on_meta(space, seed)
    real = sum(parameter.numel() for parameter in network.parameters())
    assert sum(ops.count_parameters(spec) for spec in architecture.specs()) == architecture.parameters == real


@pytest.mark.parametrize("seed", SEEDS)
def test_spec_macs_match_network(space, seed):
    architecture, network = on_meta(space, seed)
    total = 0

    def count(conv, _, out):
        nonlocal total
        total += out.numel() * conv.in_channels // conv.groups * conv.kernel_size[0] * conv.kernel_size[1]

    convolutions = [child for child in network.modules() if isinstance(child, nn.Conv2d)]
    hooks = [conv.register_forward_hook(count) for conv in convolutions]
    network(image(space))
    for hook in hooks:
        hook.remove()
    assert sum(ops.count_macs(spec) for spec in architecture.specs()) == architecture.macs == total


@pytest.mark.parametrize("seed", SEEDS)
def test_sizes_of_logits_and_labels(space, seed):
    _, network = on_meta(space, seed)
    height, width = (-(-length // 2**space.fusion.level) for length in space.input)
    assert tuple(network.network(image(space)).shape) == (1, space.classes, height, width)
    assert tuple(network(image(space)).shape) == (1, *space.input)


@pytest.mark.parametrize("seed", SEEDS)
def test_slots_cover_the_exported_graph(seed):
    """Node by node: what ONNX counts in the whole network is what the recipes of the slots list.

    Left aside: constants, and the arithmetic of sizes before a resize, which every runtime folds away.
    """
    onnx = pytest.importorskip("onnx")
    space = SearchSpace.load("tiny").with_input(64, 96)
    architecture = random_architecture(space, seed)
    graph = onnx.load_from_string(
        to_onnx(fold_norms(DenseOutput(LGCNet(space, architecture), space.plan.dense)), [(1, 3, 64, 96)])
    ).graph
    sizes = {name for node in graph.node if node.op_type in ("Shape", "Slice") for name in node.output}
    nodes = Counter(node.op_type for node in graph.node if not sizes & {*node.input, *node.output})
    names = {
        recipe.MaxPool: "MaxPool",
        recipe.Resize: "Resize",
        recipe.Add: "Add",
        recipe.Concat: "Concat",
        recipe.ArgMax: "ArgMax",
    }
    expected = Counter()
    for layer in (layer for spec in architecture.specs() for layer in ops.get_recipe(spec)):
        expected[names.get(type(layer), "Conv")] += 1
        expected["Relu"] += isinstance(layer, recipe.Conv) and not layer.plain
    ignored = {"Constant", "Identity", "Cast"}
    assert {name: count for name, count in nodes.items() if name not in ignored} == dict(expected)


def test_space_covers_specs_of_architectures(space):
    covered = set(space.specs())
    for architecture in space.spread(20, 0):
        assert set(architecture.specs()) <= covered


def test_seeds_cover_all_head_widths(space):
    assert [random_architecture(space, seed).choices[-1] for seed in SEEDS] == list(range(len(space.heads)))
    for head, (width, specs) in enumerate(zip(space.heads, list_heads(space), strict=True)):
        assert (specs[0].c_out, specs[1].c_in) == (width, width)
        network = on_meta(space, head)[1].network
        convolutions = [child for child in network.head[0].modules() if isinstance(child, nn.Conv2d)]
        assert (convolutions[-1].out_channels, network.head[1].in_channels) == (width, width)


def test_slot_names_and_edges_are_unique(space):
    slots = space.slots()
    assert len({slot.name for slot in slots}) == len(slots)
    edges = [slot for slot in slots if slot.decisions and slot.decisions[0] < space.edges]
    assert [slot.decisions[0] for slot in edges] == list(range(space.edges))
    head = [slot for slot in slots if slot.decisions[-1:] == (len(space.decisions) - 1,)]
    assert [slot.name for slot in head] == ["head/0", "head/1"]
    assert sorted(edge for slot in slots for edge in slot.sums) == list(range(space.edges))
    for slot in slots:
        choices = [space.decisions[index].choices for index in slot.decisions]
        assert len(slot.candidates) == math.prod(map(len, choices))
        names = [spec.operator for spec in slot.candidates]
        if slot in edges:
            assert names == [name for name in choices[0] for _ in range(len(names) // len(choices[0]))]
        else:
            assert len(set(names) - {"skip"}) <= 1


def test_core_lacks_only_dense_output(space):
    architecture = space.sample(0)
    dense, core = Counter(architecture.specs(DENSE)), Counter(architecture.specs(CORE))
    assert dense - core == Counter(space.plan.dense)
    assert not core - dense


@pytest.mark.parametrize("name", ["lgcnet-camvid", "lgcnet-cityscapes"])
def test_papers_presets_run(name):
    space = SearchSpace.load(name).with_input(97, 129)
    network = fold_norms(DenseOutput(LGCNet(space, space.sample(1)), space.plan.dense))
    labels = network(torch.randn(1, 3, 97, 129))
    assert tuple(labels.shape) == (1, 97, 129)
    assert labels.dtype == torch.int64
    assert int(labels.min()) >= 0
    assert int(labels.max()) < space.classes


def test_presets_have_the_papers_sizes():
    sizes = {name: SearchSpace.load(name).input for name in PRESETS}
    assert sizes == {
        "tiny": (192, 256),
        "rapid": (360, 480),
        "lgcnet-camvid": (720, 960),
        "lgcnet-cityscapes": (769, 1537),
    }
    assert all(SearchSpace.load(name).name == name for name in PRESETS)


@pytest.mark.parametrize("space", [name for name in PRESETS if name != "rapid"], indirect=True)
def test_reduction_cells_halve_and_double(space):
    for cell, edges in ((cell, cell.edges) for cell in space.plan.cells):
        inputs = len(cell.inputs)
        reduces = int(cell.name.removeprefix("cell")) in space.reductions
        for edge in edges:
            expected = 2 if reduces and edge.source < inputs else 1
            assert {spec.stride for spec in edge.candidates} == {expected}, cell.name
    widths = [cell.add.c_out for cell in space.plan.cells]
    for index, (before, after) in enumerate(pairwise(widths), start=1):
        assert after == before * (2 if index in space.reductions else 1)


def test_rapid_reduces_by_one_operator_and_passes_equal_widths():
    space = SearchSpace.load("rapid")
    for architecture in space.spread(5, 0):
        widths = [int(architecture.widths[f"level{level}"]) for level in range(3)]
        level = 0
        for index, cell in enumerate(architecture.plan.cells):
            (source,) = cell.inputs
            before, level = widths[level], level + (index in space.reductions)
            reduces = before != widths[level] or index in space.reductions
            expected = ("conv_3x3", 2) if reduces else ("skip", 1)
            assert (source.project.operator, source.project.stride) == expected
            assert (source.project.c_in, source.project.c_out) == (before, widths[level])
            assert {spec.stride for spec in cell.edges[0].candidates} == {1}


def test_rapid_spans_a_factor_of_eight():
    macs = [architecture.macs for architecture in SearchSpace.load("rapid").spread(100, 0)]
    assert max(macs) > 16 * min(macs)


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_is_a_preset_at_another_size(name):
    preset, size, classes = VARIANTS[name]
    variant, base = SearchSpace.load(name), SearchSpace.load(preset)
    assert (variant.name, variant.input, variant.classes) == (name, size, classes)
    assert variant.fingerprint == base.with_input(*size).with_classes(classes).fingerprint
