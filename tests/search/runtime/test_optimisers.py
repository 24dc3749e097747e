"""SGD that skips updates by invalid gradients, and otherwise equals torch's."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from lgc.search.runtime.optimisers import GuardedSGD

SETTINGS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


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


def test_valid_steps_equal_those_of_torch(network):
    other = copy.deepcopy(network)
    train(network, GuardedSGD(network.parameters(), **SETTINGS), [1.0] * 5)
    train(other, torch.optim.SGD(other.parameters(), **SETTINGS), [1.0] * 5)
    require_close(network, other)


@pytest.mark.parametrize("factor", [0.1, 1.0, 1e6])
def test_clipped_steps_equal_those_of_torch(network, factor):
    other = copy.deepcopy(network)
    optimiser = GuardedSGD(network.parameters(), **SETTINGS, max_norm=0.5)
    train(network, optimiser, [factor])
    plain = torch.optim.SGD(other.parameters(), **SETTINGS)
    torch.manual_seed(1)
    (factor * other[:2](torch.randn(2, 3, 5, 5)).square().mean()).backward()
    norm = nn.utils.clip_grad_norm_(other.parameters(), 0.5)
    plain.step()
    torch.testing.assert_close(optimiser.norm, norm)
    require_close(network, other)


def test_scaled_gradients_are_clipped_by_their_true_norm(network):
    others = [copy.deepcopy(network) for _ in range(2)]
    for index, (other, scale) in enumerate(zip(others, (1.0, 1024.0), strict=True)):
        optimiser = GuardedSGD(other.parameters(), **SETTINGS, max_norm=0.5)
        torch.manual_seed(1)
        (scale * 1e3 * other(torch.randn(2, 3, 5, 5)).square().mean()).backward()
        if index:  # what torch's gradient scaler sets
            optimiser.grad_scale, optimiser.found_inf = torch.tensor(scale), torch.tensor(0.0)
        optimiser.step()
        assert hasattr(optimiser, "grad_scale") == bool(index)
    require_close(others[0], others[1])


@pytest.mark.parametrize("factor", [math.nan, math.inf])
@pytest.mark.parametrize("first", [0, 2])
def test_invalid_gradients_change_nothing(network, factor, first):
    optimiser = GuardedSGD(network.parameters(), **SETTINGS)
    train(network, optimiser, [1.0] * first)
    before, state = copy.deepcopy(network), copy.deepcopy(optimiser.state_dict()["state"])
    train(network, optimiser, [factor] * 3)
    assert optimiser.skipped == 3
    assert are_equal(network, before)
    for index, values in optimiser.state_dict()["state"].items():
        assert torch.equal(values["momentum_buffer"], state[index]["momentum_buffer"])
    train(network, optimiser, [1.0])
    assert optimiser.skipped == 0
    assert not are_equal(network, before)
    assert all(bool(p.isfinite().all()) for p in network.parameters())


def test_state_of_torch_sgd_is_resumed(network):
    plain = torch.optim.SGD(network.parameters(), **SETTINGS)
    train(network, plain, [1.0])  # without a momentum of the last layer
    other = copy.deepcopy(network)
    resumed = GuardedSGD(other.parameters(), **SETTINGS)
    resumed.load_state_dict(copy.deepcopy(plain.state_dict()))
    train(network, plain, [1.0] * 3)
    train(other, resumed, [1.0] * 3)
    require_close(other, network)
    before = copy.deepcopy(other)
    train(other, resumed, [math.nan])
    assert are_equal(other, before)


def test_complex_parameters_are_guarded_too():
    network = nn.ParameterList([nn.Parameter(torch.ones(2, dtype=torch.complex64))])
    optimiser = GuardedSGD(network.parameters(), **SETTINGS)
    (network[0].abs().sum() * math.nan).backward()
    optimiser.step()
    assert torch.equal(network[0].detach(), torch.ones(2, dtype=torch.complex64))
    optimiser.zero_grad()
    network[0].abs().sum().backward()
    optimiser.step()
    assert (network[0].abs() < 1).all()


@pytest.mark.parametrize("formats", [(torch.contiguous_format, torch.channels_last), (torch.channels_last,) * 2])
def test_state_of_another_memory_format_is_laid_out(network, formats):
    before, after = formats
    network.to(memory_format=before)
    plain = torch.optim.SGD(network.parameters(), **SETTINGS)
    train(network, plain, [1.0] * 2)
    other = copy.deepcopy(network).to(memory_format=after)
    resumed = GuardedSGD(other.parameters(), **SETTINGS)
    resumed.load_state_dict(copy.deepcopy(plain.state_dict()))
    train(network, plain, [1.0] * 3)
    train(other, resumed, [1.0] * 3)
    require_close(other, network)


def make_gaps(kind):
    whole = torch.arange(1.0, 13.0).reshape(3, 4)
    return {"column slice": whole[:, :2], "every second": whole[0, ::2], "transposed": whole.t(), "dense": whole}[kind]


@pytest.mark.parametrize("kind", ["column slice", "every second", "transposed", "dense"])
def test_parameters_with_gaps_in_memory(kind):
    own, other = (nn.Parameter(make_gaps(kind)) for _ in range(2))
    for parameter, optimiser in (
        (own, GuardedSGD([own], **SETTINGS)),
        (other, torch.optim.SGD([other], **SETTINGS, foreach=False)),
    ):
        for _ in range(3):
            optimiser.zero_grad()
            (parameter * torch.arange(float(parameter.numel())).reshape(parameter.shape)).square().sum().backward()
            optimiser.step()
    torch.testing.assert_close(own, other)
