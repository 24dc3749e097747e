"""Communication from one cell to the next: formulas, gradients, shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lgc.search.supernet.communication import GraphCommunication, LinearCommunication

EDGES, PREVIOUS_EDGES, OPERATORS = 5, 3, 4


@pytest.fixture(params=["graph", "linear"])
def module(request):
    torch.manual_seed(0)
    if request.param == "graph":
        return GraphCommunication(OPERATORS, embedding=6, gamma=0.7).double()
    return LinearCommunication((EDGES, OPERATORS), (PREVIOUS_EDGES, OPERATORS), gamma=0.7).double()


def random_cells(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(edges, OPERATORS, generator=generator, dtype=torch.double, requires_grad=True)
        for edges in (EDGES, PREVIOUS_EDGES)
    )


def test_gradients_match_finite_differences(module):
    assert torch.autograd.gradcheck(module, random_cells())
    alpha, previous = (part.detach() for part in random_cells())
    for parameter in module.parameters():
        name = next(name for name, other in module.named_parameters() if other is parameter)

        def with_weight(weight, name=name):
            return torch.func.functional_call(module, {name: weight}, (alpha, previous))

        assert torch.autograd.gradcheck(with_weight, (parameter.detach().clone().requires_grad_(),)), name


def test_graph_matches_its_formula():
    torch.manual_seed(1)
    module = GraphCommunication(OPERATORS, embedding=6, gamma=0.7).double()
    alpha, previous = (part.detach().numpy() for part in random_cells(1))
    phi1, phi2, embed, mix, project = (
        layer.weight.detach().numpy() for layer in (module.phi1, module.phi2, module.embed, module.mix, module.project)
    )
    scores = (alpha @ phi1.T) @ (previous @ phi2.T).T
    adjacency = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    expected = alpha + 0.7 * np.maximum(adjacency @ (previous @ embed.T) @ mix.T, 0) @ project.T
    informed = module(torch.from_numpy(alpha), torch.from_numpy(previous)).detach().numpy()
    np.testing.assert_allclose(informed, expected, rtol=1e-12)
    assert np.abs(expected - alpha).max() > 1e-3
    attention = module.adjacency(torch.from_numpy(alpha), torch.from_numpy(previous)).detach().numpy()
    np.testing.assert_allclose(attention, adjacency, rtol=1e-12)


def test_attention_of_an_edge_sums_to_one():
    torch.manual_seed(2)
    adjacency = GraphCommunication(OPERATORS).double().adjacency(*(20 * part for part in random_cells(2)))
    assert adjacency.shape == (EDGES, PREVIOUS_EDGES)
    assert (adjacency >= 0).all()
    torch.testing.assert_close(adjacency.sum(dim=1), torch.ones(EDGES, dtype=torch.double))
    assert adjacency.std() > 0.01


def test_graph_is_equivariant_to_edge_order():
    torch.manual_seed(3)
    module = GraphCommunication(OPERATORS).double()
    alpha, previous = random_cells(3)
    previous_order, order = torch.tensor([2, 0, 1]), torch.tensor([4, 2, 0, 1, 3])
    torch.testing.assert_close(module(alpha, previous[previous_order]), module(alpha, previous))
    torch.testing.assert_close(module(alpha[order], previous), module(alpha, previous)[order])


def test_linear_map_matches_its_formula():
    torch.manual_seed(4)
    module = LinearCommunication((EDGES, OPERATORS), (PREVIOUS_EDGES, OPERATORS), gamma=0.7).double()
    alpha, previous = (part.detach().numpy() for part in random_cells(4))
    weight = module.map.weight.detach().numpy().reshape(EDGES, OPERATORS, PREVIOUS_EDGES, OPERATORS)
    expected = alpha + 0.7 * np.einsum("eofp,fp->eo", weight, previous)
    np.testing.assert_allclose(module(*random_cells(4)).detach().numpy(), expected, rtol=1e-12)


def test_zero_gamma_sends_no_message(module):
    alpha, previous = random_cells()
    assert not torch.equal(module(alpha, previous), alpha)
    module.gamma = 0.0
    assert torch.equal(module(alpha, previous), alpha)
