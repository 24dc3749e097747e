"""Architecture parameters: communication between cells, and sampled paths."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lgc.errors import UsageError
from lgc.search.supernet.alphas import COMMUNICATIONS, ArchitectureParameters
from lgc.search.supernet.blocks import BlockDecisions
from lgc.search.supernet.gumbel import add_gumbel_noise, anneal_temperature, straight_through_gates


def build_parameters(
    decisions: BlockDecisions, seed: int = 0, spread: float = 1.0, **settings: object
) -> ArchitectureParameters:
    """Return architecture parameters far from their initial values."""
    torch.manual_seed(seed)
    alphas = ArchitectureParameters(decisions, **settings)
    with torch.no_grad():
        for alpha in alphas.alpha:
            alpha.normal_().mul_(spread)
    return alphas


def make_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("communication", COMMUNICATIONS)
@pytest.mark.parametrize("fixed", [False, True])
def test_only_previous_cell_informs_a_cell(deep_space, communication, fixed):
    decisions = BlockDecisions(deep_space, fixed_fusion=fixed)
    alphas = build_parameters(decisions, communication=communication)
    received = np.zeros((len(decisions.block_sizes), len(decisions.block_sizes)), bool)
    for index, rows in enumerate(torch.split(alphas.logits(), decisions.block_sizes)):
        weights = torch.randn(rows.shape, generator=make_generator())
        total = (rows * weights).sum()
        gradients = torch.autograd.grad(total, list(alphas.alpha), retain_graph=True, allow_unused=True)
        received[index] = [gradient is not None and bool(gradient.any()) for gradient in gradients]
    expected = np.eye(len(decisions.block_sizes), dtype=bool)
    if communication != "none":
        expected[range(1, 4), range(3)] = True
    assert np.array_equal(received, expected)


@pytest.mark.parametrize("communication", ["gcn", "linear"])
def test_messages_carry_own_parameters(deep_space, communication):
    alphas = build_parameters(BlockDecisions(deep_space), communication=communication, gamma=0.7, embedding=5)
    rows = torch.split(alphas.logits(), alphas.decisions.block_sizes)
    assert torch.equal(rows[0], alphas.alpha[0])
    assert torch.equal(rows[-1], alphas.alpha[-1])
    for index, module in enumerate(alphas.guides, start=1):
        assert torch.equal(rows[index], module(alphas.alpha[index], alphas.alpha[index - 1]))
        assert module.gamma == 0.7


def test_shared_cells_cannot_communicate(deep_space):
    shared = BlockDecisions(deep_space, shared=True)
    for communication in ("gcn", "linear"):
        with pytest.raises(UsageError, match="shared cells cannot communicate"):
            ArchitectureParameters(shared, communication)
    alphas = ArchitectureParameters(shared, "none")
    assert [tuple(alpha.shape) for alpha in alphas.alpha] == [(size, 4) for size in shared.block_sizes]


def test_probabilities_and_entropies_match_numpy(deep_space):
    alphas = build_parameters(BlockDecisions(deep_space), spread=2.0)
    logits = alphas.logits().detach().double().numpy()
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(alphas.probabilities().detach().numpy(), expected, atol=1e-6)
    rows = np.split(-(expected * np.log(expected)).sum(axis=1), np.cumsum(alphas.decisions.block_sizes)[:-1])
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
)
@settings(max_examples=40)
def test_sampled_path_is_always_valid(deep_space, communication, seed, spread, zeros):
    decisions = BlockDecisions(deep_space)
    alphas = build_parameters(decisions, seed, spread, communication=communication)
    with torch.no_grad():
        for alpha in alphas.alpha:
            alpha[:, 0] += zeros
    sample = alphas.sample_path(0.5, make_generator(seed))
    deep_space.build(decisions.expand(sample.choices[None])[0].tolist())  # validates itself
    assert torch.allclose(sample.gates, torch.ones(decisions.num_searched))
    sample.gates.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in alphas.parameters() if p.grad is not None)


def test_sample_of_zeros_keeps_required_edges(deep_space):
    decisions = BlockDecisions(deep_space)
    alphas = build_parameters(decisions, communication="none")
    with torch.no_grad():
        for alpha in alphas.alpha:
            alpha[:, 0] += 1e3
            alpha[:, 2] += 100.0
    sample = alphas.sample_path(1.0, make_generator())
    live = sample.choices != 0
    assert set(sample.choices[live]) == {2}  # the most probable live operator
    assert live.sum() <= len(decisions.requirements)


def test_frequencies_follow_probabilities(zeroless_space):
    alphas = build_parameters(BlockDecisions(zeroless_space), seed=3, spread=1.5)
    p, noise, num_samples = alphas.probabilities()[:, 0].detach().numpy(), make_generator(), 1500
    with torch.no_grad():
        choices = np.array([alphas.sample_path(1.0, noise).choices for _ in range(num_samples)])
    assert np.abs((choices == 0).mean(axis=0) - p).max() < 5 * 0.5 / math.sqrt(num_samples)
    assert np.ptp(p) > 0.5


def test_frequencies_of_several_operators():
    p = torch.tensor([0.6, 0.3, 0.09, 0.01])
    noisy = add_gumbel_noise(torch.log(p).repeat(20_000, 1) + 3.0, make_generator())
    share = torch.bincount(noisy.argmax(dim=1), minlength=4) / 20_000
    assert torch.allclose(share, p, atol=0.015)


@given(seed=st.integers(0, 10_000), temperature=st.floats(0.2, 3.0))
@settings(max_examples=25)
def test_gates_have_the_softmax_gradient(seed, temperature):
    logits = torch.randn(6, 4, generator=make_generator(seed), dtype=torch.double, requires_grad=True)
    noisy = add_gumbel_noise(logits, make_generator(seed + 1))
    choices = torch.randint(4, (6,), generator=make_generator(seed))  # a repair may choose any
    weights = torch.randn(6, generator=make_generator(seed + 2), dtype=torch.double)
    gates = straight_through_gates(noisy, choices, temperature)
    torch.testing.assert_close(gates, torch.ones(6, dtype=torch.double))
    (gates * weights).sum().backward()
    # d softmax_i(x / T) / d x_j = s_i (1[i = j] - s_j) / T; log-softmax shifts a row, which has no effect.
    scaled = noisy.detach().numpy() / temperature
    soft = np.exp(scaled) / np.exp(scaled).sum(axis=1, keepdims=True)
    rows, chosen = np.arange(6), choices.numpy()
    expected = soft[rows, chosen][:, None] * (np.eye(4)[chosen] - soft) / temperature * weights.numpy()[:, None]
    np.testing.assert_allclose(logits.grad.numpy(), expected, atol=1e-12)


def test_log_frequencies_are_added(zeroless_space):
    decisions = BlockDecisions(zeroless_space)
    alphas = build_parameters(decisions, seed=3)
    before = torch.cat([alpha.detach().clone() for alpha in alphas.alpha])
    choices = np.zeros((7, decisions.num_searched), np.int64)
    choices[0] = 1
    alphas.add_log_frequencies(choices)
    added = torch.cat([alpha.detach() for alpha in alphas.alpha]) - before
    expected = torch.log(torch.tensor([7.0, 2.0]))
    torch.testing.assert_close(added, (expected - expected.mean()).expand_as(added))


def test_raised_entropies_keep_the_ranking(deep_space):
    alphas = build_parameters(BlockDecisions(deep_space), seed=2, spread=8.0, communication="none")
    before, logits = alphas.list_entropies().detach(), alphas.logits().detach().clone()
    smallest = torch.full_like(before, 0.6)
    assert (before < 0.6).any()
    assert (before > 0.6).any()
    alphas.raise_entropies(smallest)
    after = alphas.list_entropies().detach()
    torch.testing.assert_close(after, torch.maximum(before, smallest), rtol=0, atol=1e-3)
    assert torch.equal(alphas.logits().argsort(dim=1), logits.argsort(dim=1))
    unchanged = alphas.logits().detach().clone()
    alphas.raise_entropies(torch.zeros_like(before))
    assert torch.equal(alphas.logits().detach(), unchanged)


def test_gradients_reach_all_parameters(deep_space):
    alphas = build_parameters(BlockDecisions(deep_space))
    sample = alphas.sample_path(1.0, make_generator())
    (sample.gates * torch.randn(len(sample.gates), generator=make_generator())).sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in alphas.parameters())


def test_generator_state_determines_the_path(deep_space):
    alphas, noise, again = build_parameters(BlockDecisions(deep_space)), make_generator(5), make_generator(5)
    first, second = alphas.sample_path(1.0, noise), alphas.sample_path(1.0, noise)
    state = again.get_state()
    assert np.array_equal(alphas.sample_path(1.0, again).choices, first.choices)
    assert not np.array_equal(first.choices, second.choices)
    again.set_state(state)
    with torch.no_grad():
        ungated = alphas.sample_path(1.0, again)
    assert ungated.gates is None
    assert np.array_equal(ungated.choices, first.choices)


def test_temperature_changes_only_the_gradient(deep_space):
    alphas = build_parameters(BlockDecisions(deep_space))
    samples, sizes = [], []
    for temperature in (1.0, 0.03):
        samples.append(alphas.sample_path(temperature, make_generator(1)))
        alphas.zero_grad()
        samples[-1].gates.sum().backward()
        sizes.append(torch.cat([alpha.grad.abs().flatten() for alpha in alphas.alpha]).median())
    assert np.array_equal(samples[0].choices, samples[1].choices)
    assert sizes[1] < 0.1 * sizes[0]  # most decisions are far from a tie


def test_temperature_decays_exponentially():
    values = [anneal_temperature(share, 1.0, 0.03) for share in (-1, 0, 0.25, 0.5, 0.75, 1.0, 2.0)]
    assert values == pytest.approx([0.03 ** max(0, min(share, 1)) for share in (-1, 0, 0.25, 0.5, 0.75, 1.0, 2.0)])
    assert anneal_temperature(0.5, 4.0, 1.0) == pytest.approx(2.0)
