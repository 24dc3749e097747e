"""Predicted and expected latencies of supernets, and targets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lgc.errors import UsageError
from lgc.lut import Correction
from lgc.search.constraint.constraint import CostConstraint
from lgc.search.constraint.objectives import DualAscent
from lgc.search.constraint.target_range import require_target_in_range
from lgc.search.supernet.blocks import BlockDecisions

CALIBRATED = Correction("kinds", 0.3, (1.7, 0.6, 2.5), error_pct=4.0, networks=9)
KINDS = [(shared, fixed) for shared in (False, True) for fixed in (False, True)]


@pytest.fixture(params=KINDS, ids=["independent", "independent, fixed fusion", "shared", "shared, fixed fusion"])
def decisions(request, deep_space) -> BlockDecisions:
    return BlockDecisions(deep_space, shared=request.param[0], fixed_fusion=request.param[1])


@pytest.fixture
def two(predict, deep_space):
    """Predictors of two devices, of which the second is calibrated."""
    return [predict(deep_space, 0), predict(deep_space, 1, correction=CALIBRATED)]


def random_choices(decisions: BlockDecisions, count: int, seed: int = 0) -> np.ndarray:
    """Return valid choices, [count, G], with the default head."""
    choices = np.random.default_rng(seed).integers(decisions.searched_shape[1], size=(count, decisions.num_searched))
    preference = decisions.complete_preferences(np.zeros(decisions.searched_shape))
    return decisions.repair(decisions.with_defaults(choices), preference)


def random_probabilities(latency: CostConstraint, seed: int = 0) -> torch.Tensor:
    logits = torch.randn(
        latency.decisions.searched_shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double
    )
    return torch.softmax(2 * logits, dim=-1)


def test_one_hot_probabilities_give_the_prediction(decisions, two):
    latency = CostConstraint.from_predictors(decisions, two)
    for choices in random_choices(decisions, 10):
        architecture = decisions.space.build(decisions.expand(choices[None])[0])
        expected = [predictor.predict(architecture) for predictor in two]
        one_hot = F.one_hot(torch.from_numpy(choices[:-1]), len(decisions.space.operators))
        assert latency.expected(one_hot.float()).tolist() == pytest.approx(expected, rel=1e-5)
        assert latency.evaluate(choices[None])[0].tolist() == pytest.approx(expected, rel=1e-12)


def test_expected_latency_is_mean_over_samples(decisions, two):
    latency = CostConstraint.from_predictors(decisions, two)
    p = random_probabilities(latency)
    torch.manual_seed(0)
    samples = decisions.with_defaults(torch.multinomial(p, 20_000, replacement=True).T.numpy())
    mean = latency.evaluate(samples).mean(axis=0)
    assert latency.expected(p).tolist() == pytest.approx(mean.tolist(), rel=0.01)


def test_heads_add_their_predicted_latency(little_space, predict):
    decisions, predictors = BlockDecisions(little_space), [predict(little_space, seed) for seed in (0, 1)]
    latency = CostConstraint.from_predictors(decisions, predictors, [3.0, 2.0])
    choices = random_choices(decisions, 6)
    assert (choices[:, -1] == little_space.default_head).all()
    values = set()
    for head in range(3):
        choices[:, -1] = head
        expected = np.column_stack([predictor.predict_many(choices) for predictor in predictors])
        np.testing.assert_allclose(latency.evaluate(choices), expected, rtol=1e-12)
        np.testing.assert_allclose(latency.target_ratio(choices), (expected / [3.0, 2.0]).max(axis=1), rtol=1e-12)
        values.add(expected[0, 0])
    assert len(values) == 3


def test_target_ratio_is_worst_over_tables(two, deep_space):
    choices = random_choices(BlockDecisions(deep_space), 50)
    predicted = np.column_stack([predictor.predict_many(choices) for predictor in two])
    targets = np.median(predicted, axis=0)
    latency = CostConstraint.from_predictors(BlockDecisions(deep_space), two, targets)
    shares = predicted / targets
    np.testing.assert_allclose(latency.target_ratio(choices), shares.max(axis=1), rtol=1e-12)
    assert set(shares.argmax(axis=1)) == {0, 1}, "each device must be the slower one for some"
    for factors in ([1.0, 1.1], [0.9, 0.8]):
        ratio = latency.expected_target_ratio(torch.tensor(targets * factors).float())
        assert ratio.item() == pytest.approx(max(factors))


def test_ratio_without_targets_is_first_latency(two, deep_space):
    latency = CostConstraint.from_predictors(BlockDecisions(deep_space), two)
    choices = random_choices(latency.decisions, 5)
    np.testing.assert_allclose(latency.target_ratio(choices), two[0].predict_many(choices), rtol=1e-12)
    assert latency.expected_target_ratio(torch.tensor([2.5, 40.0])).item() == pytest.approx(2.5)


def test_quantile_applies_the_predictors_margin(predict, deep_space):
    decisions = BlockDecisions(deep_space)
    predictors = [predict(deep_space, seed, correction=CALIBRATED) for seed in (0, 1)]
    latency, plain = (
        CostConstraint.from_predictors(decisions, predictors, [5.0, 5.0], quantile) for quantile in (0.9, None)
    )
    assert latency.margin.tolist() == [predictor.margin(0.9) for predictor in predictors]
    assert latency.margin[0] == pytest.approx(1 + CALIBRATED.upper_error_pct(0.9) / 100)
    choices = random_choices(decisions, 5)
    np.testing.assert_allclose(
        latency.target_ratio(choices), plain.target_ratio(choices) * predictors[0].margin(0.9), rtol=1e-12
    )
    np.testing.assert_array_equal(latency.evaluate(choices), plain.evaluate(choices))
    assert plain.margin.tolist() == [1.0, 1.0]
    with pytest.raises(UsageError, match="is not calibrated"):
        CostConstraint.from_predictors(decisions, [predict(deep_space)], [5.0], 0.9)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=10)
def test_ratios_after_swaps_match_explicit_swaps(decisions, two, seed):
    latency = CostConstraint.from_predictors(decisions, two, [4.0, 9.0])
    choices = random_choices(decisions, 2, seed)
    ratios = latency.target_ratio_after_swaps(choices)
    for row, (decision, operator) in itertools.product(range(2), np.ndindex(*latency.decisions.searched_shape)):
        swapped = choices[row : row + 1].copy()
        swapped[0, decision] = operator
        assert ratios[row, decision, operator] == pytest.approx(latency.target_ratio(swapped)[0], rel=1e-9)


@pytest.mark.parametrize("share", [0.3, 0.6])
@pytest.mark.parametrize("tables", [1, 2])
def test_dual_ascent_drives_expectation_to_target(two, deep_space, share, tables):
    ends = [[predictor.predict(end) for end in (predictor.fastest, predictor.slowest)] for predictor in two[:tables]]
    targets = [low + share * (high - low) for low, high in ends]
    latency, term = (
        CostConstraint.from_predictors(BlockDecisions(deep_space), two[:tables], targets),
        DualAscent(lr=0.02),
    )
    logits = torch.zeros(latency.decisions.searched_shape, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.05, betas=(0.5, 0.999))
    ratios = []
    for _ in range(400):
        ratio = latency.expected_target_ratio(latency.expected(torch.softmax(logits, -1)))
        optimiser.zero_grad()
        term.penalty(ratio).backward()
        optimiser.step()
        term.update(ratio.item())
        ratios.append(ratio.item())
    assert ratios[-1] == pytest.approx(1, abs=0.05)
    assert abs(ratios[0] - 1) > 0.05


def test_out_of_range_target_shows_range(predict, deep_space):
    predictor = predict(deep_space, correction=CALIBRATED)
    low, high = predictor.predict(predictor.fastest), predictor.predict(predictor.slowest)
    for quantile, margin in ((None, 1.0), (0.95, predictor.margin(0.95))):
        for reachable in (low * margin * 1.0001, (low + high) / 2 * margin, high * margin * 1.0001):
            require_target_in_range(predictor, reachable, quantile)
        target = low * margin * 0.9999
        with pytest.raises(UsageError, match="below the fastest") as error:
            require_target_in_range(predictor, target, quantile)
        message = str(error.value)
        assert f"a target of {target:.4g} ms" in message
        assert f"predicts {low * margin:.3f} to {high * margin:.3f} ms" in message
        assert str(predictor.table_path) in message
        assert ("--quantile 0.95" in message) == (quantile is not None)
        assert "FPS" not in message
    assert predictor.margin(0.95) > 1.05


@pytest.mark.parametrize("quantile", [None, 0.95])
def test_rate_out_of_range_answers_fps(predict, deep_space, quantile):
    predictor = predict(deep_space, correction=CALIBRATED)
    predictor.median_ratio = 1.25
    margin = 1.0 if quantile is None else predictor.margin(quantile)
    slowest, fastest = (predictor.to_fps(margin * ms) for ms in reversed(predictor.range_ms))
    fps = 1.01 * fastest
    low, high, given = (f"{rate:.0f}" if rate >= 1000 else f"{rate:.4g}" for rate in (slowest, fastest, fps))
    with pytest.raises(UsageError, match=f"a target of {given} FPS is above the fastest") as error:
        require_target_in_range(predictor, predictor.from_fps(fps), quantile, fps)
    message = str(error.value)
    assert f"predicts {low} to {high} FPS" in message
    assert " ms" not in message
    suggested = float(message.rpartition("--target-fps ")[2])
    assert 0.99 * fastest < suggested <= fastest
    require_target_in_range(predictor, predictor.from_fps(suggested), quantile, suggested)


@pytest.mark.parametrize(("fps", "text"), [(9999.7, "10000 FPS"), (1e6, "1000000 FPS"), (2345.6, "2346 FPS")])
def test_high_rates_are_written_in_full(predict, deep_space, fps, text):
    predictor = predict(deep_space, correction=CALIBRATED)
    with pytest.raises(UsageError, match=f"a target of {text} is above"):
        require_target_in_range(predictor, 1e-9, None, fps)


@pytest.mark.parametrize(("share", "inactive"), [(0.9, False), (1.0, False), (1.1, True)])
def test_targets_above_every_architecture_are_inactive(two, deep_space, share, inactive):
    decisions = BlockDecisions(deep_space)
    low, high = two[0].range_ms
    constraint = CostConstraint.from_predictors(decisions, two[:1], [low + share * (high - low)])
    assert constraint.is_inactive == inactive
    assert not constraint.scale(2.0).is_inactive
    other = CostConstraint.from_predictors(decisions, two, [2 * high, two[1].range_ms[0] * 1.1])
    assert not other.is_inactive
    assert not CostConstraint.from_predictors(decisions, two[:1]).is_inactive
