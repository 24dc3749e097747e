"""Latencies of decisions: of arrays, expected ones with their gradients, and the terms of the loss."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lgc.errors import UsageError
from lgc.lut import Correction
from lgc.models import Architecture
from lgc.search.constraint.latency import Constraint, Latency, NoTerm, TradeOff, require_reachable
from lgc.search.decisions import Decisions

KNOWN = Correction("kinds", 0.3, (1.7, 0.6, 2.5), error_pct=4.0, networks=9)
KINDS = [(shared, fixed) for shared in (False, True) for fixed in (False, True)]


@pytest.fixture(params=KINDS, ids=["independent", "independent, fixed fusion", "shared", "shared, fixed fusion"])
def blocks(request, deep_space) -> Decisions:
    return Decisions(deep_space, shared=request.param[0], fixed_fusion=request.param[1])


@pytest.fixture
def two(predict, deep_space):
    """Predictors of two devices, one of them calibrated."""
    return [predict(deep_space, 0), predict(deep_space, 1, correction=KNOWN)]


def valid_picks(blocks: Decisions, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    picked = rng.integers(len(blocks.space.operators), size=(count, blocks.decisions))
    return blocks.repaired(picked, np.zeros((blocks.decisions, len(blocks.space.operators))))


def probabilities(latency: Latency, seed: int = 0) -> torch.Tensor:
    logits = torch.randn(latency.ms.shape[1:], generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    return torch.softmax(2 * logits, dim=-1)


def test_certain_probabilities_give_the_prediction(blocks, two):
    latency = Latency(blocks, two)
    for picked in valid_picks(blocks, 10):
        architecture = Architecture.from_choices(blocks.space, blocks.expand(picked[None])[0].tolist())
        wanted = [predictor.predict(architecture) for predictor in two]
        one_hot = F.one_hot(torch.from_numpy(picked), len(blocks.space.operators))
        assert latency.expected_ms(one_hot.float()).tolist() == pytest.approx(wanted, rel=1e-5)
        assert latency.predicted_ms(picked[None])[0].tolist() == pytest.approx(wanted, rel=1e-12)


def test_the_expectation_is_the_mean_over_draws(blocks, two):
    latency = Latency(blocks, two)
    p = probabilities(latency)
    torch.manual_seed(0)
    draws = torch.multinomial(p, 20_000, replacement=True).T.numpy()
    mean = latency.predicted_ms(draws).mean(axis=0)
    assert latency.expected_ms(p).tolist() == pytest.approx(mean.tolist(), rel=0.01)


def test_heads_add_what_the_predictor_says(little_space, predict):
    blocks, predictors = Decisions(little_space), [predict(little_space, seed) for seed in (0, 1)]
    latency = Latency(blocks, predictors, [3.0, 2.0])
    picked = valid_picks(blocks, 6)
    for head in range(3):
        heads = np.full(6, head)
        wanted = np.column_stack([predictor.predict_many(picked, heads) for predictor in predictors])
        np.testing.assert_allclose(latency.predicted_ms(picked, heads), wanted, rtol=1e-12)
        np.testing.assert_allclose(latency.load(picked, heads), (wanted / [3.0, 2.0]).max(axis=1), rtol=1e-12)
    assert np.array_equal(latency.predicted_ms(picked), latency.predicted_ms(picked, np.full(6, latency.own_head)))
    assert len(np.unique(latency.head_ms)) > 1


def test_the_load_is_the_worst_share_of_a_target(two, deep_space):
    picked = valid_picks(Decisions(deep_space), 50)
    predicted = np.column_stack([predictor.predict_many(picked) for predictor in two])
    targets = np.median(predicted, axis=0)
    latency = Latency(Decisions(deep_space), two, targets)
    shares = predicted / targets
    np.testing.assert_allclose(latency.load(picked), shares.max(axis=1), rtol=1e-12)
    assert set(shares.argmax(axis=1)) == {0, 1}, "both devices are the worst one for some"
    for factors in ([1.0, 1.1], [0.9, 0.8]):
        load = latency.expected_load(torch.tensor(targets * factors).float())
        assert load.item() == pytest.approx(max(factors))


def test_without_targets_the_load_is_the_first_devices_latency(two, deep_space):
    latency = Latency(Decisions(deep_space), two)
    picked = valid_picks(latency.blocks, 5)
    np.testing.assert_allclose(latency.load(picked), two[0].predict_many(picked), rtol=1e-12)
    assert latency.expected_load(torch.tensor([2.5, 40.0])).item() == pytest.approx(2.5)


def test_a_quantile_is_held_by_the_predictors_margin(predict, deep_space):
    blocks = Decisions(deep_space)
    predictors = [predict(deep_space, seed, correction=KNOWN) for seed in (0, 1)]
    latency, plain = (Latency(blocks, predictors, [5.0, 5.0], quantile) for quantile in (0.9, None))
    assert latency.margin.tolist() == [predictor.margin(0.9) for predictor in predictors]
    assert latency.margin[0] == pytest.approx(1 + KNOWN.upper_error_pct(0.9) / 100)
    picked = valid_picks(blocks, 5)
    np.testing.assert_allclose(latency.load(picked), plain.load(picked) * predictors[0].margin(0.9), rtol=1e-12)
    np.testing.assert_array_equal(latency.predicted_ms(picked), plain.predicted_ms(picked))
    assert plain.margin.tolist() == [1.0, 1.0]
    with pytest.raises(UsageError, match="never calibrated"):
        Latency(blocks, [predict(deep_space)], [5.0], 0.9)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=10)
def test_loads_after_swaps_by_swapping(blocks, two, seed):
    latency = Latency(blocks, two, [4.0, 9.0])
    picked, heads = valid_picks(blocks, 2, seed), np.zeros(2, np.int64)
    found = latency.load_after_swaps(picked, heads)
    for row, (decision, operator) in itertools.product(range(2), np.ndindex(*latency.ms.shape[1:])):
        swapped = picked[row : row + 1].copy()
        swapped[0, decision] = operator
        assert found[row, decision, operator] == pytest.approx(latency.load(swapped)[0], rel=1e-9)


@pytest.mark.parametrize(
    "term", [TradeOff(0.02), Constraint(0.1), NoTerm(), None], ids=["traded", "constrained", "no term", "no penalty"]
)
@pytest.mark.parametrize("targets_ms", [None, [4.0, 9.0]])
def test_gradients_against_finite_differences(two, deep_space, term, targets_ms):
    latency = Latency(Decisions(deep_space), two, targets_ms)
    if isinstance(term, Constraint):
        term.multiplier = -0.7
    logits = probabilities(latency, 1).log().requires_grad_()

    def value(x):
        expected = latency.expected_ms(torch.softmax(x, dim=-1))
        return expected if term is None else term.penalty(latency.expected_load(expected)).double()

    if isinstance(term, NoTerm):
        assert not value(logits).requires_grad
    else:
        assert torch.autograd.gradcheck(value, (logits,), atol=1e-6)
        value(logits).sum().backward()
        assert logits.grad.abs().max() > 1e-4


def test_traded_latency():
    load, term = torch.tensor(8.0), TradeOff(0.5)
    term.update(8.0)
    assert term.penalty(load).item() == pytest.approx(0.5 * math.log(8))
    assert term.multiplier == 0.5


def test_no_term():
    load, term = torch.tensor(8.0), NoTerm()
    term.update(8.0)
    assert (term.penalty(load).item(), term.multiplier) == (0.0, 0.0)


def test_a_constraint_is_pushed_from_both_sides():
    load, term = torch.tensor(2.0), Constraint(lr=0.1)
    assert term.penalty(load).item() == pytest.approx(math.log(2) ** 2 / 2)
    term.update(2.0)
    assert term.multiplier == pytest.approx(0.1 * math.log(2))
    assert term.penalty(load).item() == pytest.approx(0.6 * math.log(2) ** 2)
    term.update(0.25)
    assert term.multiplier == pytest.approx(-0.1 * math.log(2))
    assert term.penalty(torch.tensor(1.0)).item() == 0.0
    term.update(0.0)
    assert math.isfinite(term.multiplier)
    assert math.isfinite(term.penalty(torch.tensor(0.0)).item())


@pytest.mark.parametrize("share", [0.3, 0.6])
@pytest.mark.parametrize("tables", [1, 2])
def test_dual_ascent_drives_the_expectation_onto_the_target(two, deep_space, share, tables):
    ends = [[predictor.predict(end) for end in (predictor.fastest, predictor.slowest)] for predictor in two[:tables]]
    targets = [low + share * (high - low) for low, high in ends]
    latency, constraint = Latency(Decisions(deep_space), two[:tables], targets), Constraint(lr=0.02)
    logits = torch.zeros(latency.ms.shape[1:], requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.05, betas=(0.5, 0.999))
    loads = []
    for _ in range(400):
        load = latency.expected_load(latency.expected_ms(torch.softmax(logits, -1)))
        optimiser.zero_grad()
        constraint.penalty(load).backward()
        optimiser.step()
        constraint.update(load.item())
        loads.append(load.item())
    assert loads[-1] == pytest.approx(1, abs=0.05)
    assert abs(loads[0] - 1) > 0.05


def test_unreachable_targets_name_both_ends(predict, deep_space):
    predictor = predict(deep_space, correction=KNOWN)
    low, high = predictor.predict(predictor.fastest), predictor.predict(predictor.slowest)
    for quantile, margin in ((None, 1.0), (0.95, predictor.margin(0.95))):
        for reachable in (low * margin * 1.0001, (low + high) / 2 * margin, high * margin * 0.9999):
            require_reachable(predictor, reachable, quantile)
        beyond = ((low * margin * 0.9999, "below the fastest"), (high * margin * 1.0001, "above the slowest"))
        for target, side in beyond:
            with pytest.raises(UsageError, match=side) as refused:
                require_reachable(predictor, target, quantile)
            said = str(refused.value)
            assert f"a target of {target:.4g} ms" in said
            assert f"from {low * margin:.3f} to {high * margin:.3f} ms" in said
            assert str(predictor.table_path) in said
            assert ("--quantile 0.95" in said) == (quantile is not None)
    assert predictor.margin(0.95) > 1.05
