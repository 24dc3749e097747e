"""Slimmable modules compute what modules of the narrower widths with the first channels' weights compute."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lgc.models import LGCNet, SearchSpace
from lgc.models.nets.layers import build_module
from lgc.models.space.lgcnet import LGCNetSpace
from lgc.models.space.lgcnet.widths import OpTemplate, Width
from lgc.models.space.operators import OPERATORS, ZERO, is_free
from lgc.search.supernet.alphas import ArchitectureParameters, SampledPath
from lgc.search.supernet.blocks import BlockDecisions
from lgc.search.supernet.slimming import SlimBatchNorm2d, SlimOperator, build_slim
from lgc.search.supernet.supernet import Supernet, inherit_weights

from ...operators import EXAMPLES
from ...spaces import SLIM

WIDE, NARROW = 16, 8
SEARCHED = [name for name, own in OPERATORS.items() if own.searchable and name not in (ZERO, *EXAMPLES)]


@pytest.fixture
def slim_space() -> LGCNetSpace:
    return LGCNetSpace.check(SLIM, "slim")


def copy_first_channels(narrow: nn.Module, wide: nn.Module, parts: Sequence[tuple[int, int]] = ()) -> None:
    """Give each convolution and normalisation of a module the first channels of those of a wider one, in order.

    Args:
        narrow: Module to change.
        wide: Slimmable module.
        parts: Wide and narrow channels of the concatenated tensors that the last convolution reads.
    """
    pairs = [[child for child in module.modules() if isinstance(child, nn.Conv2d)] for module in (narrow, wide)]
    with torch.no_grad():
        for index, (own, other) in enumerate(zip(*pairs, strict=True)):
            columns = range(own.weight.shape[1])
            if parts and index == len(pairs[0]) - 1:
                starts = itertools.accumulate((all_of for all_of, _ in parts), initial=0)
                columns = [start + at for start, (_, used) in zip(starts, parts, strict=False) for at in range(used)]
            own.weight.copy_(other.weight[: own.weight.shape[0]][:, list(columns)])
            if own.bias is not None:
                own.bias.copy_(other.bias[: len(own.bias)])
        norms = [child for child in narrow.modules() if isinstance(child, nn.BatchNorm2d)]
        others = [child for child in wide.modules() if isinstance(child, SlimBatchNorm2d)]
        for own, other in zip(norms, others, strict=True):
            own.weight.copy_(other.weight[: len(own.weight)])
            own.bias.copy_(other.bias[: len(own.bias)])


def randomise(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.5)
    return module.train()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", SEARCHED)
def test_narrow_operator_uses_first_channels(name: str, stride: int):
    width = Width((NARROW, WIDE), 0)
    template = OpTemplate(name, width, width, 12, 16, stride)
    slim = build_slim(template, [1])
    if is_free(template.at([1])) or not isinstance(slim, SlimOperator):
        assert list(slim.parameters()) == []
        return
    randomise(slim).choose([0])
    narrow = build_module(template.at([0])).train()
    pooled = [(max(WIDE // 4, 8), max(NARROW // 4, 8))] * 3
    copy_first_channels(narrow, slim, [(WIDE, NARROW), *pooled] if name == "pool_pyramid" else ())
    x = torch.randn(2, NARROW, 12, 16)
    torch.testing.assert_close(slim(x), narrow(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("narrow_in", [0, 1])
@pytest.mark.parametrize("narrow_out", [0, 1])
def test_both_widths_of_a_convolution_are_slim(narrow_in: int, narrow_out: int):
    template = OpTemplate("conv_3x3", Width((4, 6), 0), Width((8, 10), 1), 12, 16, 2)
    slim = randomise(build_slim(template, [1, 1]))
    slim.choose([narrow_in, narrow_out])
    narrow = build_module(template.at([narrow_in, narrow_out])).train()
    copy_first_channels(narrow, slim)
    x = torch.randn(2, (4, 6)[narrow_in], 12, 16)
    torch.testing.assert_close(slim(x), narrow(x), rtol=1e-4, atol=1e-5)


def test_equal_widths_pass_the_input_through():
    template = OpTemplate("conv_1x1", Width((4, 8), 0), Width((4, 8), 1), 12, 16, optional=True)
    slim = build_slim(template, [1, 1])
    x = torch.randn(1, 4, 12, 16)
    slim.choose([0, 0])
    assert slim(x) is x
    slim.choose([0, 1])
    assert slim(x).shape == (1, 8, 12, 16)


def random_path(decisions: BlockDecisions, seed: int) -> SampledPath:
    rng = np.random.default_rng(seed)
    sizes = [len(decision.choices) for decision in decisions.decisions[: decisions.num_searched]]
    return SampledPath(rng.integers(sizes))


def sample_with_rivals(decisions: BlockDecisions, seed: int) -> SampledPath:
    """Return a path whose gates are leaves, without architecture parameters."""
    parameters = ArchitectureParameters(decisions)
    path = parameters.sample_path(1.0, torch.Generator().manual_seed(seed))
    count = decisions.num_searched
    gates = [torch.full((count,), value, requires_grad=True) for value in (1.0, 0.0)]
    return SampledPath(path.choices, gates[0], path.rivals, gates[1])


@pytest.mark.parametrize("seed", range(4))
def test_contested_decisions_have_rivals(slim_space, seed):
    decisions = BlockDecisions(slim_space)
    path = sample_with_rivals(decisions, seed)
    contested = [*[True] * len(slim_space.plan.cells), *[False] * len(slim_space.plan.fusion.edges), *[True] * 5]
    assert decisions.contested.tolist() == contested
    assert decisions.are_widths.tolist() == [False] * slim_space.edges + [True] * 5
    assert [rival >= 0 for rival in path.rivals] == contested
    assert all(path.rivals[contested] != path.choices[contested])
    sizes = np.array([len(decision.choices) for decision in decisions.decisions[: decisions.num_searched]])
    assert all(path.rivals < sizes)


@pytest.mark.parametrize("seed", range(4))
def test_rival_gradients_match_finite_differences(slim_space, seed):
    decisions = BlockDecisions(slim_space)
    torch.manual_seed(seed)
    supernet, path = Supernet(decisions).double(), sample_with_rivals(decisions, seed)
    x = torch.randn(2, 3, *slim_space.input, dtype=torch.double)
    expected = supernet(x, SampledPath(path.choices))
    weights = torch.randn_like(expected)

    def compute(rival_gates: torch.Tensor) -> torch.Tensor:
        gates = torch.ones(decisions.num_searched, dtype=torch.double)
        return supernet(x, SampledPath(path.choices, gates, path.rivals, rival_gates))

    zeros = torch.zeros(decisions.num_searched, dtype=torch.double, requires_grad=True)
    out = compute(zeros)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)  # rivals add nothing
    gradient = torch.autograd.grad((out * weights).mean(), zeros)[0][: len(slim_space.plan.cells)]
    step = 1e-6 * torch.eye(decisions.num_searched, dtype=torch.double)[: len(gradient)]
    with torch.no_grad():
        differences = torch.stack([((compute(row) - compute(-row)) * weights).mean() / 2e-6 for row in step])
    torch.testing.assert_close(gradient, differences, rtol=1e-3, atol=1e-8)
    assert (gradient != 0).all()


@pytest.mark.parametrize("seed", range(8))
def test_path_equals_derived_network(slim_space, seed):
    decisions = BlockDecisions(slim_space)
    torch.manual_seed(seed)
    supernet, path = Supernet(decisions), random_path(decisions, seed)
    architecture = slim_space.build(decisions.expand(path.choices[None])[0].tolist())
    derived = LGCNet(slim_space, architecture).train()
    with torch.no_grad():
        for module in supernet.modules():
            if isinstance(module, SlimBatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
    before = {name: value.clone() for name, value in derived.state_dict().items()}
    derived.load_state_dict(inherit_weights(supernet, derived))
    changed = {name for name, value in derived.state_dict().items() if not value.equal(before[name])}
    assert changed == {name for name, _ in derived.named_parameters()}
    x = torch.randn(2, 3, *slim_space.input)
    with torch.no_grad():
        torch.testing.assert_close(supernet(x, path), derived(x), rtol=1e-4, atol=1e-5)


def test_path_trains_only_its_channels(slim_space):
    decisions = BlockDecisions(slim_space)
    supernet = Supernet(decisions)
    names = [decision.name for decision in decisions.decisions]
    choices = np.zeros(decisions.num_searched, np.int64)
    choices[0] = 1  # a residual block on the first cell
    supernet(torch.randn(2, 3, *slim_space.input), SampledPath(choices)).sum().backward()
    convolution = supernet.get_submodule("cells.0.edges.0.ops.res_conv_3x3.module.layers.0.conv")
    width = int(slim_space.decisions[slim_space.edges + 1].choices[0])
    assert names[slim_space.edges + 1] == "level0"
    gradient: Tensor = convolution.weight.grad
    assert bool(gradient[:width, :width].any())
    assert not bool(gradient[width:].any())
    assert not bool(gradient[:, width:].any())


def test_widths_are_decisions_after_the_cells(slim_space):
    decisions = BlockDecisions(slim_space)
    assert [block.name for block in decisions.blocks] == [
        *("cell0", "cell1", "context", "fusion"),
        *("stem", "level0", "level1", "fusion", "head"),
    ]
    assert decisions.num_searched == decisions.num_decisions == slim_space.edges + 5
    alphas = ArchitectureParameters(decisions)
    probabilities = alphas.probabilities().detach()
    assert probabilities.shape == (decisions.num_searched, 3)
    sizes = [len(decision.choices) for decision in decisions.decisions]
    for row, size in zip(probabilities, sizes, strict=True):
        assert float(row[:size].sum()) == pytest.approx(1)
        assert not bool(row[size:].any())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        drawn = [alphas.sample_path(1.0, generator).choices for _ in range(40)]
    assert (np.max(drawn, axis=0) == np.array(sizes) - 1).all()
    assert all(value > 0 for value in alphas.entropies())


def test_widths_communicate_from_stem_to_head(slim_space):
    decisions = BlockDecisions(slim_space)
    alphas = ArchitectureParameters(decisions)
    received = []
    for index, rows in enumerate(torch.split(alphas.logits(), decisions.block_sizes)):
        total = rows[torch.isfinite(rows)].square().sum()
        gradients = torch.autograd.grad(total, list(alphas.alpha), retain_graph=True, allow_unused=True)
        received += [(source, index) for source, g in enumerate(gradients) if g is not None and bool(g.any())]
    own = [(index, index) for index in range(9)]
    assert sorted(received) == sorted([*own, (0, 1), (1, 2), (4, 5), (5, 6), (6, 7), (7, 8)])


def test_shared_cells_leave_the_context_alone(slim_space):
    decisions = BlockDecisions(slim_space, shared=True)
    assert [block.cells for block in decisions.blocks[:3]] == [(0, 1), (2,), (3,)]


def test_rapid_builds_a_supernet():
    space = SearchSpace.load("rapid").with_input(64, 96)
    decisions = BlockDecisions(space)
    supernet = Supernet(decisions)
    with torch.no_grad():
        for seed in range(3):
            logits = supernet(torch.randn(2, 3, 64, 96), random_path(decisions, seed))
            assert logits.shape == (2, 11, 8, 12)
