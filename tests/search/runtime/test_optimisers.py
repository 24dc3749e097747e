"""Optimisers that skip updates by invalid gradients, and otherwise equal torch's."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn

from lgc.search.runtime.optimisers import GuardedAdamW, GuardedSGD

OPTIMISERS = {
    "sgd": (GuardedSGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}),
    "adamw": (GuardedAdamW, torch.optim.AdamW, {"lr": 0.1, "weight_decay": 1e-1}),
}
"""Name -> guarded optimiser, torch's, settings of both."""


@pytest.fixture(params=OPTIMISERS)
def optimisers(request):
    """Return a function that makes the guarded optimiser of parameters, and one for torch's."""
    guarded, plain, settings = OPTIMISERS[request.param]
    return partial(guarded, **settings), partial(plain, **settings)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def train(network, optimiser, factors):
    """Make a step for each factor of the loss; every other one leaves the last layer without a gradient."""
    torch.manual_seed(1)
    for index, factor in enumerate(factors):
        x = torch.randn(2, 3, 5, 5)
        optimiser.zero_grad()
        (factor * network[: 2 + index % 2](x).square().mean()).backward()
        optimiser.step()


def require_close(network, other):
    for own, expected in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(own, expected)


def are_equal(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_valid_steps_equal_those_of_torch(network, optimisers):
    other = copy.deepcopy(network)
    train(network, optimisers[0](network.parameters()), [1.0] * 5)
    train(other, optimisers[1](other.parameters()), [1.0] * 5)
    require_close(network, other)


@pytest.mark.parametrize("factor", [0.1, 1.0, 1e6])
def test_clipped_steps_equal_those_of_torch(network, optimisers, factor):
    other = copy.deepcopy(network)
    optimiser = optimisers[0](network.parameters(), max_norm=0.5)
    train(network, optimiser, [factor])
    plain = optimisers[1](other.parameters())
    torch.manual_seed(1)
    (factor * other[:2](torch.randn(2, 3, 5, 5)).square().mean()).backward()
    norm = nn.utils.clip_grad_norm_(other.parameters(), 0.5)
    plain.step()
    torch.testing.assert_close(optimiser.norm, norm)
    require_close(network, other)


def test_scaled_gradients_are_clipped_by_their_true_norm(network, optimisers):
    others = [copy.deepcopy(network) for _ in range(2)]
    for index, (other, scale) in enumerate(zip(others, (1.0, 1024.0), strict=True)):
        optimiser = optimisers[0](other.parameters(), max_norm=0.5)
        torch.manual_seed(1)
        (scale * 1e3 * other(torch.randn(2, 3, 5, 5)).square().mean()).backward()
        if index:  # what torch's gradient scaler sets
            optimiser.grad_scale, optimiser.found_inf = torch.tensor(scale), torch.tensor(0.0)
        optimiser.step()
        assert hasattr(optimiser, "grad_scale") == bool(index)
    require_close(others[0], others[1])


@pytest.mark.parametrize("factor", [math.nan, math.inf])
@pytest.mark.parametrize("first", [0, 2])
def test_invalid_gradients_change_nothing(network, optimisers, factor, first):
    optimiser = optimisers[0](network.parameters())
    train(network, optimiser, [1.0] * first)
    before, state = copy.deepcopy(network), copy.deepcopy(optimiser.state_dict()["state"])
    train(network, optimiser, [factor] * 3)
    assert optimiser.skipped == 3
    assert are_equal(network, before)
    for index, values in optimiser.state_dict()["state"].items():
        for name, value in values.items():
            assert torch.equal(value, state[index][name] if index in state else torch.zeros_like(value))
    train(network, optimiser, [1.0])
    assert optimiser.skipped == 0
    assert not are_equal(network, before)
    assert all(bool(p.isfinite().all()) for p in network.parameters())


def test_state_of_torch_sgd_is_resumed(network, optimisers):
    plain = optimisers[1](network.parameters())
    train(network, plain, [1.0])  # without a momentum of the last layer
    other = copy.deepcopy(network)
    resumed = optimisers[0](other.parameters())
    resumed.load_state_dict(copy.deepcopy(plain.state_dict()))
    train(network, plain, [1.0] * 3)
    train(other, resumed, [1.0] * 3)
    require_close(other, network)
    before = copy.deepcopy(other)
    train(other, resumed, [math.nan])
    assert are_equal(other, before)


def test_complex_parameters_are_guarded_too(optimisers):
    network = nn.ParameterList([nn.Parameter(torch.ones(2, dtype=torch.complex64))])
    optimiser = optimisers[0](network.parameters())
    (network[0].abs().sum() * math.nan).backward()
    optimiser.step()
    assert torch.equal(network[0].detach(), torch.ones(2, dtype=torch.complex64))
    optimiser.zero_grad()
    network[0].abs().sum().backward()
    optimiser.step()
    assert (network[0].abs() < 1).all()


@pytest.mark.parametrize("formats", [(torch.contiguous_format, torch.channels_last), (torch.channels_last,) * 2])
def test_state_of_another_memory_format_is_laid_out(network, optimisers, formats):
    before, after = formats
    network.to(memory_format=before)
    plain = optimisers[1](network.parameters())
    train(network, plain, [1.0] * 2)
    other = copy.deepcopy(network).to(memory_format=after)
    resumed = optimisers[0](other.parameters())
    resumed.load_state_dict(copy.deepcopy(plain.state_dict()))
    train(network, plain, [1.0] * 3)
    train(other, resumed, [1.0] * 3)
    require_close(other, network)


def make_gaps(kind):
    whole = torch.arange(1.0, 13.0).reshape(3, 4)
    return {"column slice": whole[:, :2], "every second": whole[0, ::2], "transposed": whole.t(), "dense": whole}[kind]


@pytest.mark.parametrize("kind", ["column slice", "every second", "transposed", "dense"])
def test_parameters_with_gaps_in_memory(optimisers, kind):
    own, other = (nn.Parameter(make_gaps(kind)) for _ in range(2))
    for parameter, optimiser in (
        (own, optimisers[0]([own])),
        (other, optimisers[1]([other], foreach=False)),
    ):
        for _ in range(3):
            optimiser.zero_grad()
            (parameter * torch.arange(float(parameter.numel())).reshape(parameter.shape)).square().sum().backward()
            optimiser.step()
    torch.testing.assert_close(own, other)
