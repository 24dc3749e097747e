"""Cells with all candidates compute, on a path, the same as cells with fixed operators."""

import pytest
import torch

from lgc.models import SearchSpace
from lgc.models.nets.cell import Cell, EdgePath, FusionCell
from lgc.models.nets.layers import build_module
from lgc.models.nets.network import randomise_norms

TINY = SearchSpace.load("tiny").with_input(32, 48)
PLANS = [*TINY.plan.cells, TINY.plan.fusion]


def make_features(plan, size):
    """Return random features for the inputs of the cell; other features are empty."""
    generator = torch.Generator().manual_seed(0)
    features = [torch.zeros(0)] * (1 + max(source.feature for source in plan.inputs))
    for source in plan.inputs:
        spec = source.project
        features[source.feature] = torch.randn(size, spec.c_in, *spec.fine, generator=generator)
    return features


def mixed_and_fixed_cell(plan, choices):
    """Return a cell with all candidates and one with `choices` only, with the same weights."""
    kind = FusionCell if plan.name == "fusion" else Cell
    torch.manual_seed(0)
    mixed, fixed = (kind(plan, names, build_module) for names in (None, choices))
    randomise_norms(mixed, 0)
    left = fixed.load_state_dict(mixed.state_dict(), strict=False)
    assert left.missing_keys == []
    return mixed, fixed


def make_path(choices, gates=None):
    gates = torch.ones(len(choices)) if gates is None else gates
    return [EdgePath(TINY.operators.index(name), gate) for name, gate in zip(choices, gates, strict=True)]


def random_choices(plan, count):
    """Return the operators of `count` random cells, and of one whose every third edge is `zero`."""
    position = PLANS.index(plan)
    drawn = [(*a.cells, a.fusion)[position] for a in (TINY.sample(seed) for seed in range(count))]
    holes = tuple("zero" if index % 3 == 0 else "sep_conv_3x3" for index in range(len(plan.edges)))
    return [*drawn, holes]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_path_output_equals_fixed_cell(plan, training):
    features = make_features(plan, 2)
    for choices in random_choices(plan, 3):
        mixed, fixed = mixed_and_fixed_cell(plan, choices)
        mixed.train(training)
        fixed.train(training)
        with torch.no_grad():
            expected = fixed(features)
            assert torch.equal(mixed(features, make_path(choices)), expected)
        node = plan.add
        assert tuple(expected.shape) == (2, plan.nodes * node.c_out, *node.fine)


@pytest.mark.parametrize("plan", [PLANS[0], PLANS[1], PLANS[-1]], ids=lambda plan: plan.name)
def test_node_without_live_edges_is_zero(plan):
    dead = [edge.node == 0 for edge in plan.edges]
    choices = ["zero" if is_dead else "sep_conv_3x3" for is_dead in dead]
    mixed, _ = mixed_and_fixed_cell(plan, choices)
    mixed.eval()
    width = plan.add.c_out
    with torch.no_grad():
        out = mixed(make_features(plan, 1), make_path(choices))
    assert tuple(out.shape) == (1, plan.nodes * width, *plan.add.fine)
    assert not out[:, :width].any()
    assert out[:, width:].any()


def test_gates_receive_gradients_of_live_edges():
    choices = ["sep_conv_3x3", "zero", "skip", "max_pool_3x3", "conv_3x3"]
    mixed, _ = mixed_and_fixed_cell(PLANS[0], choices)
    gates = torch.ones(len(choices), requires_grad=True)
    mixed(make_features(PLANS[0], 1), make_path(choices, gates)).square().sum().backward()
    assert [bool(reached) for reached in gates.grad != 0] == [True, False, True, True, True]


def test_gate_gradient_matches_finite_difference():
    choices = ["sep_conv_3x3", "skip", "skip", "max_pool_3x3", "conv_3x3"]
    mixed, _ = mixed_and_fixed_cell(PLANS[0], choices)
    mixed.double().eval()
    features = [feature.double() for feature in make_features(PLANS[0], 1)]
    gates = torch.ones(len(choices), dtype=torch.double, requires_grad=True)
    mixed(features, make_path(choices, gates)).square().mean().backward()
    for edge in range(len(choices)):
        step, around = 1e-6, []
        for sign in (1, -1):
            moved = gates.detach().clone()
            moved[edge] += sign * step
            around.append(mixed(features, make_path(choices, moved)).square().mean().item())
        assert gates.grad[edge].item() == pytest.approx((around[0] - around[1]) / (2 * step), rel=1e-4)


@pytest.mark.parametrize(("choice", "rival"), [("conv_3x3", "skip"), ("skip", "conv_3x3"), ("zero", "conv_3x3")])
def test_rival_adds_only_a_gradient(choice, rival):
    mixed, _ = mixed_and_fixed_cell(PLANS[0], ["sep_conv_3x3"] * 5)
    plan, edge = PLANS[0], mixed.edges[0].double().eval()
    features = torch.randn(2, plan.add.c_out, *plan.add.fine, dtype=torch.double)
    chosen, other = (edge(features, EdgePath(TINY.operators.index(name))) for name in (choice, rival))
    gate = torch.zeros((), dtype=torch.double, requires_grad=True)
    one = torch.ones((), dtype=torch.double)
    path = EdgePath(TINY.operators.index(choice), one, TINY.operators.index(rival), gate)
    out = edge(features, path)
    assert torch.equal(out, torch.zeros_like(other) if chosen is None else chosen)
    weights = torch.randn_like(out)
    (out * weights).sum().backward()
    assert gate.grad.item() == pytest.approx((weights * other).sum().item())
    assert all(weight.grad is None for weight in edge.ops["conv_3x3"].parameters() if choice != "conv_3x3")


def test_state_dict_keys_carry_operator_names():
    _, fixed = mixed_and_fixed_cell(PLANS[0], ["sep_conv_3x3"] * 5)
    assert {key.split(".")[3] for key in fixed.state_dict() if key.startswith("edges.")} == {"sep_conv_3x3"}
