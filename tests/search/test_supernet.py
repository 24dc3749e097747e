from __future__ import annotations

import numpy as np
import pytest
import torch

from lgc.models import LGCNet, SearchSpace
from lgc.models.network import randomise_norms
from lgc.search.guide import GraphGuide
from lgc.search.gumbel import sample_gates, temperature_at
from lgc.search.supernet import Supernet, batch_statistics


@pytest.mark.parametrize("seed", range(4))
def test_one_hot_choices_give_the_derived_networks_output(mini_space, seed):
    architecture = mini_space.sample(seed)
    torch.manual_seed(seed)
    supernet = Supernet(mini_space)
    randomise_norms(supernet, seed)
    derived = LGCNet(mini_space, architecture)
    derived.load_state_dict({name: supernet.state_dict()[name] for name in derived.state_dict()})
    images = torch.randn(2, 3, *mini_space.input)
    with torch.no_grad():
        wanted = derived.eval()(images)
        got = supernet.eval()(images, supernet.one_hot(architecture))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)
    assert wanted.std() > 1e-3


def test_the_tiny_presets_supernet_agrees_too():
    space = SearchSpace.load("tiny")
    architecture = space.sample(3)
    supernet = Supernet(space)
    randomise_norms(supernet, 0)
    derived = LGCNet(space, architecture)
    derived.load_state_dict({name: supernet.state_dict()[name] for name in derived.state_dict()})
    images = torch.randn(1, 3, *space.input)
    with torch.no_grad():
        torch.testing.assert_close(supernet.eval()(images, supernet.one_hot(architecture)), derived.eval()(images))


def test_every_parameter_is_of_the_weights_or_of_the_architecture(mini_space):
    supernet = Supernet(mini_space)
    weights, arch = supernet.weight_parameters(), supernet.architecture_parameters()
    assert {id(p) for p in weights} | {id(p) for p in arch} == {id(p) for p in supernet.parameters()}
    assert not {id(p) for p in weights} & {id(p) for p in arch}
    assert sum(alpha.shape[0] for alpha in supernet.alpha) == mini_space.edges


def test_guidance_reaches_the_next_cell_and_not_the_fusion(mini_space):
    supernet = Supernet(mini_space, gamma=0.5)
    before = [logits.detach().clone() for logits in supernet.logits()]
    with torch.no_grad():
        supernet.alpha[0] += torch.randn_like(supernet.alpha[0])
    moved = [not torch.equal(a, b) for a, b in zip(before, supernet.logits(), strict=True)]
    assert moved == [True, True, False]


def test_without_gamma_there_is_no_guidance(mini_space):
    supernet = Supernet(mini_space, gamma=0)
    assert len(supernet.guides) == 0
    for logits, alpha in zip(supernet.logits(), supernet.alpha, strict=True):
        assert torch.equal(logits, alpha)


def test_guides_gradient_against_finite_differences():
    torch.manual_seed(0)
    guide = GraphGuide(operators=4, embedding=6, gamma=0.5).double()
    alpha = torch.randn(5, 4, dtype=torch.double, requires_grad=True)
    before = torch.randn(3, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(guide, (alpha, before))


def test_guides_formula_by_hand():
    torch.manual_seed(1)
    guide = GraphGuide(operators=3, embedding=4, gamma=0.7)
    alpha, before = torch.randn(5, 3), torch.randn(2, 3)
    phi1, phi2, embed, mix, project = (
        layer.weight.detach().numpy() for layer in (guide.phi1, guide.phi2, guide.embed, guide.mix, guide.project)
    )
    scores = (alpha.numpy() @ phi1.T) @ (before.numpy() @ phi2.T).T
    adjacency = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    heard = np.maximum(adjacency @ (before.numpy() @ embed.T) @ mix.T, 0)
    np.testing.assert_allclose(
        guide(alpha, before).detach().numpy(), alpha.numpy() + 0.7 * heard @ project.T, atol=1e-5
    )


def test_gates_are_one_hot_with_the_softmaxs_gradient():
    logits = torch.randn(6, 5, requires_grad=True)
    gates = sample_gates(logits, 0.7, torch.Generator().manual_seed(0))
    assert torch.allclose(gates.sum(1), torch.ones(6))
    assert set(gates.detach().round().flatten().tolist()) == {0.0, 1.0}
    (gates * torch.randn(6, 5)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


def test_gates_follow_the_probabilities():
    logits = torch.log(torch.tensor([0.6, 0.3, 0.1])).repeat(20_000, 1)
    share = sample_gates(logits, 1.0, torch.Generator().manual_seed(0)).mean(0)
    assert torch.allclose(share, torch.tensor([0.6, 0.3, 0.1]), atol=0.02)


def test_the_same_generator_draws_the_same_path(mini_space):
    supernet = Supernet(mini_space)
    paths = [supernet.sample(1.0, torch.Generator().manual_seed(5)) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*paths, strict=True))


def test_temperature_falls_from_first_to_last():
    values = [temperature_at(share, 1.0, 0.03) for share in (0, 0.25, 0.5, 1.0)]
    assert values[0] == pytest.approx(1.0)
    assert values[-1] == pytest.approx(0.03)
    assert values == sorted(values, reverse=True)


def test_a_path_trains_only_its_own_operators(mini_space):
    supernet = Supernet(mini_space)
    architecture = mini_space.sample(0)
    supernet(torch.randn(2, 3, *mini_space.input), supernet.one_hot(architecture)).sum().backward()
    chosen = set(LGCNet(mini_space, architecture).state_dict())
    for name, parameter in supernet.named_parameters():
        if ".ops." in name:
            assert (parameter.grad is not None) == (name in chosen), name


def test_batch_statistics_leave_the_running_ones_alone(mini_space):
    supernet = Supernet(mini_space).eval()
    before = {name: value.clone() for name, value in supernet.named_buffers() if "running" in name}
    images, gates = torch.randn(4, 3, *mini_space.input), supernet.one_hot(mini_space.sample(0))
    with torch.no_grad():
        running = supernet(images, gates)
    with batch_statistics(supernet):
        batch = supernet(images, gates)
    assert not torch.allclose(running, batch)
    assert all(torch.equal(value, before[name]) for name, value in supernet.named_buffers() if name in before)
    with torch.no_grad():
        assert torch.equal(supernet(images, gates), running)
