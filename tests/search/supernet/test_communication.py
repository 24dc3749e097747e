"""The guidance of one cell by another: formulas, gradients, shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lgc.search.supernet.communication import GraphCommunication, LinearCommunication

EDGES, BEFORE, OPERATORS = 5, 3, 4


@pytest.fixture(params=["graph", "linear"])
def guide(request):
    torch.manual_seed(0)
    if request.param == "graph":
        return GraphCommunication(OPERATORS, embedding=6, gamma=0.7).double()
    return LinearCommunication(EDGES, BEFORE, OPERATORS, gamma=0.7).double()


def cells(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(edges, OPERATORS, generator=generator, dtype=torch.double, requires_grad=True)
        for edges in (EDGES, BEFORE)
    )


def test_gradients_against_finite_differences(guide):
    assert torch.autograd.gradcheck(guide, cells())
    alpha, before = (part.detach() for part in cells())
    for parameter in guide.parameters():
        name = next(name for name, other in guide.named_parameters() if other is parameter)

        def with_weight(weight, name=name):
            return torch.func.functional_call(guide, {name: weight}, (alpha, before))

        assert torch.autograd.gradcheck(with_weight, (parameter.detach().clone().requires_grad_(),)), name


def test_the_graphs_formula_by_hand():
    torch.manual_seed(1)
    guide = GraphCommunication(OPERATORS, embedding=6, gamma=0.7).double()
    alpha, before = (part.detach().numpy() for part in cells(1))
    phi1, phi2, embed, mix, project = (
        layer.weight.detach().numpy() for layer in (guide.phi1, guide.phi2, guide.embed, guide.mix, guide.project)
    )
    scores = (alpha @ phi1.T) @ (before @ phi2.T).T
    adjacency = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    wanted = alpha + 0.7 * np.maximum(adjacency @ (before @ embed.T) @ mix.T, 0) @ project.T
    found = guide(torch.from_numpy(alpha), torch.from_numpy(before)).detach().numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert np.abs(wanted - alpha).max() > 1e-3
    heard = guide.adjacency(torch.from_numpy(alpha), torch.from_numpy(before)).detach().numpy()
    np.testing.assert_allclose(heard, adjacency, rtol=1e-12)


def test_what_an_edge_listens_to_sums_to_one():
    torch.manual_seed(2)
    adjacency = GraphCommunication(OPERATORS).double().adjacency(*(20 * part for part in cells(2)))
    assert adjacency.shape == (EDGES, BEFORE)
    assert (adjacency >= 0).all()
    torch.testing.assert_close(adjacency.sum(dim=1), torch.ones(EDGES, dtype=torch.double))
    assert adjacency.std() > 0.01


def test_the_graph_knows_no_order_of_edges():
    torch.manual_seed(3)
    guide = GraphCommunication(OPERATORS).double()
    alpha, before = cells(3)
    there, here = torch.tensor([2, 0, 1]), torch.tensor([4, 2, 0, 1, 3])
    torch.testing.assert_close(guide(alpha, before[there]), guide(alpha, before))
    torch.testing.assert_close(guide(alpha[here], before), guide(alpha, before)[here])


def test_the_linear_formula_by_hand():
    torch.manual_seed(4)
    guide = LinearCommunication(EDGES, BEFORE, OPERATORS, gamma=0.7).double()
    alpha, before = (part.detach().numpy() for part in cells(4))
    weight = guide.map.weight.detach().numpy().reshape(EDGES, OPERATORS, BEFORE, OPERATORS)
    wanted = alpha + 0.7 * np.einsum("eofp,fp->eo", weight, before)
    np.testing.assert_allclose(guide(*cells(4)).detach().numpy(), wanted, rtol=1e-12)


def test_without_weight_nothing_is_heard(guide):
    alpha, before = cells()
    assert not torch.equal(guide(alpha, before), alpha)
    guide.gamma = 0.0
    assert torch.equal(guide(alpha, before), alpha)
