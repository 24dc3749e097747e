"""Architecture parameters: who informs whom, and what is drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lgc.errors import UsageError
from lgc.models import Architecture
from lgc.search.decisions import Decisions
from lgc.search.supernet.alphas import COMMUNICATIONS, ArchitectureParameters
from lgc.search.supernet.gumbel import add_gumbel_noise, anneal_temperature, straight_through_gates


def parameters(blocks: Decisions, seed: int = 0, spread: float = 1.0, **settings: object) -> ArchitectureParameters:
    """Architecture parameters far from their start."""
    torch.manual_seed(seed)
    alphas = ArchitectureParameters(blocks, **settings)
    with torch.no_grad():
        for alpha in alphas.alpha:
            alpha.normal_().mul_(spread)
    return alphas


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("communication", COMMUNICATIONS)
@pytest.mark.parametrize("fixed", [False, True])
def test_only_the_cell_before_informs_a_cell_and_none_the_fusion(deep_space, communication, fixed):
    blocks = Decisions(deep_space, fixed_fusion=fixed)
    alphas = parameters(blocks, communication=communication)
    heard = np.zeros((len(blocks.sizes), len(blocks.sizes)), bool)
    for index, rows in enumerate(torch.split(alphas.logits(), blocks.sizes)):
        weights = torch.randn(rows.shape, generator=generator())
        total = (rows * weights).sum()
        gradients = torch.autograd.grad(total, list(alphas.alpha), retain_graph=True, allow_unused=True)
        heard[index] = [gradient is not None and bool(gradient.any()) for gradient in gradients]
    wanted = np.eye(len(blocks.sizes), dtype=bool)
    if communication != "none":
        wanted[range(1, 4), range(3)] = True
    assert np.array_equal(heard, wanted)


@pytest.mark.parametrize("communication", ["gcn", "linear"])
def test_cells_hear_own_parameters_not_guided_ones(deep_space, communication):
    alphas = parameters(Decisions(deep_space), communication=communication, gamma=0.7, embedding=5)
    rows = torch.split(alphas.logits(), alphas.blocks.sizes)
    assert torch.equal(rows[0], alphas.alpha[0])
    assert torch.equal(rows[-1], alphas.alpha[-1])
    for index, guide in enumerate(alphas.guides, start=1):
        assert torch.equal(rows[index], guide(alphas.alpha[index], alphas.alpha[index - 1]))
        assert guide.gamma == 0.7


def test_cells_that_share_cannot_inform_each_other(deep_space):
    shared = Decisions(deep_space, shared=True)
    for communication in ("gcn", "linear"):
        with pytest.raises(UsageError, match="share their parameters"):
            ArchitectureParameters(shared, communication)
    alphas = ArchitectureParameters(shared, "none")
    assert [tuple(alpha.shape) for alpha in alphas.alpha] == [(size, 4) for size in shared.sizes]


def test_probabilities_and_entropies(deep_space):
    alphas = parameters(Decisions(deep_space), spread=2.0)
    logits = alphas.logits().detach().double().numpy()
    wanted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(alphas.probabilities().detach().numpy(), wanted, atol=1e-6)
    rows = np.split(-(wanted * np.log(wanted)).sum(axis=1), np.cumsum(alphas.blocks.sizes)[:-1])
    assert alphas.entropies() == pytest.approx([row.mean() for row in rows], rel=1e-4)
    with torch.no_grad():
        alphas.alpha[4].zero_()
        alphas.alpha[0].copy_(torch.tensor([100.0, 0, 0, 0]))
    entropies = alphas.entropies()
    assert (entropies[4], entropies[0]) == pytest.approx((math.log(4), 0.0), abs=1e-6)


@pytest.mark.parametrize("communication", ["gcn", "none"])
@given(
    seed=st.integers(0, 10_000),
    spread=st.sampled_from([0.01, 1.0, 100.0, 1e4]),
    zeros=st.sampled_from([-1e4, 0.0, 10.0, 1e4]),
    explore=st.sampled_from([0.0, 0.3, 1.0]),
)
@settings(max_examples=40)
def test_a_draw_is_always_valid(deep_space, communication, seed, spread, zeros, explore):
    blocks = Decisions(deep_space)
    alphas = parameters(blocks, seed, spread, communication=communication)
    with torch.no_grad():
        for alpha in alphas.alpha:
            alpha[:, blocks.zero] += zeros
    draw = alphas.draw(0.5, generator(seed), explore)
    Architecture.from_choices(deep_space, blocks.expand(draw.picked[None])[0].tolist())  # checks itself
    assert torch.allclose(draw.gates, torch.ones(blocks.decisions))
    draw.gates.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in alphas.parameters() if p.grad is not None)


def test_a_draw_that_wants_zero_everywhere_keeps_what_must_live(deep_space):
    blocks = Decisions(deep_space)
    alphas = parameters(blocks, communication="none")
    with torch.no_grad():
        for alpha in alphas.alpha:
            alpha[:, blocks.zero] += 1e3
            alpha[:, 2] += 100.0
    draw = alphas.draw(1.0, generator())
    live = blocks.live(draw.picked[None])[0]
    assert set(draw.picked[live]) == {2}  # the second choice of the parameters, not any operator
    assert live.sum() <= len(blocks.ends)


@pytest.mark.parametrize("explore", [0.0, 0.4, 1.0])
def test_frequencies_follow_the_probabilities_mixed_with_even_ones(zeroless_space, explore):
    alphas = parameters(Decisions(zeroless_space), seed=3, spread=1.5)
    p, noise, draws = alphas.probabilities()[:, 0].detach().numpy(), generator(), 1500
    with torch.no_grad():
        picked = np.array([alphas.draw(1.0, noise, explore).picked for _ in range(draws)])
    wanted = (1 - explore) * p + explore / 2
    assert np.abs((picked == 0).mean(axis=0) - wanted).max() < 5 * 0.5 / math.sqrt(draws)
    assert np.ptp(p) > 0.5


def test_frequencies_of_many_operators():
    p = torch.tensor([0.6, 0.3, 0.09, 0.01])
    noisy = add_gumbel_noise(torch.log(p).repeat(20_000, 1) + 3.0, generator(), 0.2)
    share = torch.bincount(noisy.argmax(dim=1), minlength=4) / 20_000
    assert torch.allclose(share, 0.8 * p + 0.05, atol=0.015)


@given(seed=st.integers(0, 10_000), temperature=st.floats(0.2, 3.0))
@settings(max_examples=25)
def test_gates_are_one_with_the_gradient_of_the_softmax(seed, temperature):
    logits = torch.randn(6, 4, generator=generator(seed), dtype=torch.double, requires_grad=True)
    noisy = add_gumbel_noise(logits, generator(seed + 1))
    picked = torch.randint(4, (6,), generator=generator(seed))  # a repair may pick any
    weights = torch.randn(6, generator=generator(seed + 2), dtype=torch.double)
    gates = straight_through_gates(noisy, picked, temperature)
    torch.testing.assert_close(gates, torch.ones(6, dtype=torch.double))
    (gates * weights).sum().backward()
    # d softmax_i(x / T) / d x_j = s_i (1[i = j] - s_j) / T; log-softmax shifts a row, which changes nothing.
    scaled = noisy.detach().numpy() / temperature
    soft = np.exp(scaled) / np.exp(scaled).sum(axis=1, keepdims=True)
    rows, at = np.arange(6), picked.numpy()
    wanted = soft[rows, at][:, None] * (np.eye(4)[at] - soft) / temperature * weights.numpy()[:, None]
    np.testing.assert_allclose(logits.grad.numpy(), wanted, atol=1e-12)


def test_gates_of_a_draw_reach_own_parameters_and_guides(deep_space):
    alphas = parameters(Decisions(deep_space))
    draw = alphas.draw(1.0, generator())
    (draw.gates * torch.randn(len(draw.gates), generator=generator())).sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in alphas.parameters())


def test_the_same_generator_draws_the_same_path_and_moves_on(deep_space):
    alphas, noise, again = parameters(Decisions(deep_space)), generator(5), generator(5)
    first, second = alphas.draw(1.0, noise), alphas.draw(1.0, noise)
    state = again.get_state()
    assert np.array_equal(alphas.draw(1.0, again).picked, first.picked)
    assert not np.array_equal(first.picked, second.picked)
    again.set_state(state)
    with torch.no_grad():
        unwatched = alphas.draw(1.0, again)
    assert unwatched.gates is None
    assert np.array_equal(unwatched.picked, first.picked)


def test_temperature_sharpens_the_gradient_and_not_the_draw(deep_space):
    alphas = parameters(Decisions(deep_space))
    draws, sizes = [], []
    for temperature in (1.0, 0.03):
        draws.append(alphas.draw(temperature, generator(1)))
        alphas.zero_grad()
        draws[-1].gates.sum().backward()
        sizes.append(torch.cat([alpha.grad.abs().flatten() for alpha in alphas.alpha]).median())
    assert np.array_equal(draws[0].picked, draws[1].picked)
    assert sizes[1] < 0.1 * sizes[0]  # most decisions are settled far from a tie


def test_temperature_falls_exponentially_from_first_to_last():
    values = [anneal_temperature(share, 1.0, 0.03) for share in (-1, 0, 0.25, 0.5, 0.75, 1.0, 2.0)]
    assert values == pytest.approx([0.03 ** max(0, min(share, 1)) for share in (-1, 0, 0.25, 0.5, 0.75, 1.0, 2.0)])
    assert anneal_temperature(0.5, 4.0, 1.0) == pytest.approx(2.0)
