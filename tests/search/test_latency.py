from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lgc.errors import UsageError
from lgc.lut import Predictor
from lgc.search.latency import ExpectedLatency, Target, TradeOff, require_reachable


@pytest.fixture(params=["plain", "calibrated"])
def any_predictor(request, mini_space, make_table) -> Predictor:
    with make_table(mini_space) as table:
        if request.param == "calibrated":
            table.write_note(
                "calibration", {"dense": {"form": "kinds", "intercept_ms": 0.3, "weights": [1.7, 0.6, 2.5]}}
            )
        return Predictor(mini_space, table)


@pytest.mark.parametrize("seed", range(5))
def test_one_hot_probabilities_give_the_prediction(any_predictor, seed):
    architecture = any_predictor.space.sample(seed)
    one_hot = F.one_hot(torch.tensor(architecture.choices), len(any_predictor.space.operators)).float()
    expected = ExpectedLatency(any_predictor)(one_hot).item()
    assert expected == pytest.approx(any_predictor.predict(architecture), rel=1e-5)


def test_gradient_against_finite_differences(any_predictor):
    latency = ExpectedLatency(any_predictor).double()
    logits = torch.randn(any_predictor.edge_ms.shape, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: latency(torch.softmax(x, -1)), (logits,))


def test_expectation_equals_the_mean_of_sampled_architectures(any_predictor):
    torch.manual_seed(0)
    probabilities = torch.softmax(torch.randn(any_predictor.edge_ms.shape), -1)
    draws = torch.multinomial(probabilities, 40_000, replacement=True).T.numpy()
    mean = any_predictor.predict_many(draws).mean()
    assert ExpectedLatency(any_predictor)(probabilities).item() == pytest.approx(mean, rel=0.01)


def test_penalties():
    expected = torch.tensor(8.0, requires_grad=True)
    assert TradeOff(0.5).penalty(expected).item() == pytest.approx(0.5 * math.log(8))
    target = Target(4.0, lr=0.1)
    assert target.penalty(expected).item() == pytest.approx(math.log(2) ** 2 / 2)
    target.update(8.0)
    assert target.multiplier == pytest.approx(0.1 * math.log(2))
    assert target.penalty(expected).item() == pytest.approx(0.6 * math.log(2) ** 2)
    target.update(1.0)
    assert target.multiplier == pytest.approx(-0.1 * math.log(2))


def test_dual_ascent_drives_the_expectation_to_the_target(any_predictor):
    latency = ExpectedLatency(any_predictor)
    low, high = (any_predictor.predict(end) for end in (any_predictor.fastest, any_predictor.slowest))
    for share in (0.3, 0.6):
        goal = low + share * (high - low)
        constraint = Target(goal, lr=0.02)
        logits = torch.zeros(any_predictor.edge_ms.shape, requires_grad=True)
        optimiser = torch.optim.Adam([logits], lr=0.05, betas=(0.5, 0.999))
        for _ in range(400):
            expected = latency(torch.softmax(logits, -1))
            optimiser.zero_grad()
            constraint.penalty(expected).backward()
            optimiser.step()
            constraint.update(expected.item())
        assert expected.item() == pytest.approx(goal, rel=0.05)


def test_unreachable_targets_name_both_ends(predictor):
    low, high = predictor.predict(predictor.fastest), predictor.predict(predictor.slowest)
    require_reachable(predictor, (low + high) / 2)
    for target, side in ((low * 0.9, "below the fastest"), (high * 1.1, "above the slowest")):
        with pytest.raises(UsageError, match=side) as refused:
            require_reachable(predictor, target)
        assert f"{low:.3f} to {high:.3f} ms" in str(refused.value)
    assert np.isfinite(low)
