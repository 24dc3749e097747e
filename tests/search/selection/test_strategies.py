"""Search strategies, with known losses in place of a supernet."""

from __future__ import annotations

import itertools
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgc.models.space.costs import count_cost
from lgc.search.config import SearchConfig
from lgc.search.constraint.constraint import CostConstraint
from lgc.search.constraint.projection import TARGET_TOLERANCE, ArchitectureBatch, project_to_target
from lgc.search.decisions import Decisions
from lgc.search.selection.strategies import (
    POPULATION,
    STRATEGIES,
    Evaluation,
    Ranking,
    StrategyTask,
    count_halving_passes,
    count_operators,
    evolve,
    halve,
    sample_likely,
    search_at_random,
)
from lgc.search.supernet.blocks import BlockDecisions

from ...spaces import ToySpace

seeds = st.integers(0, 10_000)


@pytest.fixture
def latency(deep_space, random_predictor, latency_at) -> CostConstraint:
    """A target in the middle of the deep space."""
    return latency_at(BlockDecisions(deep_space), random_predictor(deep_space, 0), 0.5)


class Losses:
    """A loss that is a sum over decisions, with noise on every batch; it counts its calls."""

    def __init__(self, latency: CostConstraint, seed: int = 0, noise: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        self.table = rng.normal(size=latency.decisions.searched_shape)
        self.noise, self.seed, self.calls = noise, seed, 0

    def mean(self, choices: np.ndarray) -> float:
        return float(self.table[np.arange(len(self.table)), choices[: len(self.table)]].mean())

    def __call__(self, architectures: ArchitectureBatch, row: int, batch: int) -> Evaluation:
        self.calls += 1
        rng = np.random.default_rng((self.seed, batch, *architectures.choices[row].tolist()))
        return Evaluation(self.mean(architectures.choices[row]) + self.noise * float(rng.normal()))


def random_log_probabilities(latency: CostConstraint, seed: int, scale: float = 2.0) -> np.ndarray:
    logits = scale * np.random.default_rng(seed).normal(size=latency.decisions.searched_shape)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def compute_likelihood(log_p: np.ndarray, choices: np.ndarray) -> np.ndarray:
    return log_p[np.arange(len(log_p)), choices[:, : len(log_p)]].sum(axis=1)


@given(seed=seeds)
@settings(max_examples=15)
def test_candidates_are_ordered_unique_and_on_target(latency, seed):
    log_p = random_log_probabilities(latency, seed)
    candidates = sample_likely(log_p, latency, 64, 10, seed)
    assert len(candidates) == 10
    values = compute_likelihood(log_p, candidates.choices)
    assert (np.diff(values) <= 0).all()
    most = project_to_target(log_p.argmax(axis=1)[None], log_p, latency)
    assert values[0] >= compute_likelihood(log_p, most.choices)[0]
    assert len(np.unique(candidates.choices, axis=0)) == 10
    load = latency.target_ratio(candidates.choices)
    assert ((load <= 1 + 1e-9) & (load > 1 - 5 * TARGET_TOLERANCE)).all()


def test_certain_distribution_has_a_single_candidate(latency):
    choices = project_to_target(
        random_log_probabilities(latency, 3).argmax(axis=1)[None], random_log_probabilities(latency, 3), latency
    ).choices[0]
    log_p = np.full(latency.decisions.searched_shape, -300.0)
    log_p[np.arange(len(log_p)), choices[:-1]] = 0.0
    candidates = sample_likely(log_p, latency, 20, 5, 0)
    assert np.array_equal(candidates.choices, choices[None])


def test_candidates_follow_their_probabilities(zeroless_space, random_predictor):
    """Without a target nothing is projected, so frequencies equal probabilities."""
    latency = CostConstraint.from_predictors(BlockDecisions(zeroless_space), [random_predictor(zeroless_space, 0)])
    log_p = random_log_probabilities(latency, 0, 1.0)
    candidates = sample_likely(log_p, latency, 4000, 4001, 0)
    assert len(candidates) > 3000, "few of 2 ** 15 are sampled twice"
    p = np.exp(log_p[:, 1])
    uncertain = np.abs(p - 0.5) < 0.45  # elsewhere, dropped duplicates bias the frequencies
    assert np.abs(candidates.choices[:, :-1].mean(axis=0) - p)[uncertain].max() < 0.06
    other = sample_likely(log_p, latency, 4000, 4001, 1)
    assert not np.array_equal(candidates.choices[:50], other.choices[:50])


@given(
    losses=st.lists(st.integers(0, 50), min_size=1, max_size=40),
    batches=st.integers(1, 20),
)
def test_halving_finds_lowest_loss_and_counts_passes(losses, batches):
    candidates = ArchitectureBatch(np.arange(len(losses))[:, None])
    calls: list[tuple[int, int]] = []

    def evaluate(architectures: ArchitectureBatch, row: int, batch: int) -> Evaluation:
        calls.append((row, batch))
        return Evaluation(losses[architectures.choices[row, 0]] + 0.25 * batch)  # batches are not equally hard

    ranking = halve(candidates, evaluate, batches)
    (best,) = ranking.architectures.choices[:, 0]
    assert losses[best] == min(losses)
    assert ranking.losses == [pytest.approx(min(losses) + 0.25 * (batches - 1) / 2)]
    assert ranking.passes == len(calls) == len(set(calls)) == count_halving_passes(len(losses), batches)
    assert ranking.num_compared == len(losses)
    assert {batch for row, batch in calls if row == best} == set(range(batches))


def test_halving_keeps_the_best_in_order():
    losses = [5.0, 1.0, 4.0, 2.0, 3.0]
    candidates = ArchitectureBatch(np.arange(5)[:, None])
    for batches, keep in itertools.product((1, 4), (1, 3, 9)):
        ranking = halve(candidates, lambda _, row, batch: Evaluation(losses[row]), batches, keep)
        assert ranking.architectures.choices[:, 0].tolist() == [1, 3, 4, 2, 0][:keep]
        assert ranking.losses == sorted(losses)[:keep]
        assert ranking.passes == count_halving_passes(5, batches, keep)


def test_halving_drops_the_worse_half():
    calls: dict[int, int] = {}

    def evaluate(architectures: ArchitectureBatch, row: int, batch: int) -> Evaluation:
        calls[row] = calls.get(row, 0) + 1
        return Evaluation(row)

    halve(ArchitectureBatch(np.arange(8)[:, None]), evaluate, 8)
    assert [calls[row] for row in range(8)] == [8, 4, 2, 2, 1, 1, 1, 1]


def test_halving_compares_by_all_evaluated_batches():
    table = np.array([[0.0, 3, 0, 0], [1.0, 1, 1, 1], [2.0, 0, 3, 3], [9.0, 0, 0, 0]])
    ranking = halve(ArchitectureBatch(np.arange(4)[:, None]), lambda _, row, batch: Evaluation(table[row, batch]), 4)
    assert ranking.architectures.choices[0, 0] == 1
    assert ranking.losses == [1.0]


def test_miou_of_all_batches_ranks_before_loss():
    """The first candidate has the lower loss, and misses the rare class."""
    rare_missed = np.array([[98, 0], [2, 0]])
    balanced = np.array([[90, 8], [0, 2]])
    evaluations = [Evaluation(0.1, 1, rare_missed), Evaluation(0.5, 1, balanced)]
    ranking = halve(ArchitectureBatch(np.arange(2)[:, None]), lambda _, row, batch: evaluations[row], 3)
    assert ranking.architectures.choices[0, 0] == 1
    (best,) = ranking.evaluations
    assert best.batches == 3
    assert best.miou == pytest.approx(100 * (90 / 98 + 2 / 10) / 2)
    assert ranking.losses == [pytest.approx(0.5)]


def test_confusions_add_up_before_the_mean():
    """mIoU of all pixels, not the mean of the batches' mIoU; classes without a pixel do not count."""
    first = Evaluation(1.0, 1, np.array([[4, 0, 0], [0, 0, 0], [0, 0, 0]]))
    second = Evaluation(3.0, 1, np.array([[0, 4, 0], [0, 2, 0], [0, 0, 0]]))
    both = first + second
    assert (first.miou, both.mean_loss) == (100.0, 2.0)
    assert both.miou == pytest.approx(100 * (4 / 8 + 2 / 6) / 2)
    assert Evaluation(1.0, 1, np.zeros((2, 2), np.int64)).miou is None


def make_task(
    latency: CostConstraint, losses: Losses, batches: int, passes: int, seed: int = 0, keep: int = 1
) -> StrategyTask:
    """Return a task with as many finalists as the passes allow."""
    finalists = keep
    while count_halving_passes(finalists + 1, batches, keep) <= passes:
        finalists += 1
    log_p = random_log_probabilities(latency, 1)
    return StrategyTask(latency, losses, batches, log_p, passes, 4 * finalists, finalists, seed, keep)


@pytest.fixture(params=["lgcnet", "toy"])
def any_latency(request, latency) -> CostConstraint:
    """A target in the middle of LGCNet's space, and of one whose widths interact."""
    if request.param == "lgcnet":
        return latency
    space = ToySpace()
    cost = count_cost(space, "macs").scale(1e-6)
    ends = [float(cost.evaluate(np.array([choices]))[0]) for choices in ([0] * 3 + [1, 0, 0], [2] * 6)]
    return CostConstraint(Decisions(space), [cost], [sum(ends) / 2])


def test_settings_name_every_strategy():
    assert get_args(SearchConfig.model_fields["strategy"].annotation) == tuple(STRATEGIES)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strategy_keeps_best_without_duplicates(any_latency, strategy):
    losses = Losses(any_latency)
    ranking = STRATEGIES[strategy](make_task(any_latency, losses, 2, 400, keep=4))
    assert ranking.losses == [pytest.approx(losses.mean(choices)) for choices in ranking.architectures.choices]
    assert ranking.losses == sorted(ranking.losses)
    assert len(ranking.architectures.drop_duplicates()) == len(ranking.architectures) == 4
    assert (any_latency.target_ratio(ranking.architectures.choices) <= 1 + 1e-9).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(passes=st.integers(1, 300), batches=st.integers(1, 12), keep=st.integers(1, 4), seed=seeds)
@settings(max_examples=20)
def test_strategy_never_exceeds_its_budget(any_latency, strategy, passes, batches, keep, seed):
    losses = Losses(any_latency, seed)
    ranking = STRATEGIES[strategy](make_task(any_latency, losses, batches, passes, seed, keep))
    assert ranking.passes <= max(passes, keep * batches)  # kept candidates are always evaluated
    # the loss of the most probable architecture is reported, not part of the comparison
    assert losses.calls == ranking.passes + (0 if ranking.likeliest_loss is None else batches)
    assert (any_latency.target_ratio(ranking.architectures.choices) <= 1 + 1e-9).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_seed_determines_the_ranking(latency, strategy):
    def run(seed: int) -> Ranking:
        return STRATEGIES[strategy](make_task(latency, Losses(latency, noise=0.1), 3, 200, seed))

    a, b, c = run(0), run(0), run(1)
    assert np.array_equal(a.architectures.choices, b.architectures.choices)
    assert (a.losses, a.passes, a.num_compared) == (b.losses, b.passes, b.num_compared)
    assert a.losses != c.losses or not np.array_equal(a.architectures.choices, c.architectures.choices)


@pytest.mark.parametrize("strategy", [search_at_random, evolve])
@given(passes=st.integers(20, 300), batches=st.integers(1, 12), seed=seeds)
@settings(max_examples=20)
def test_baselines_use_their_budget(latency, strategy, passes, batches, seed):
    """They are compared with gradients at equal computation."""
    ranking = strategy(make_task(latency, Losses(latency, seed), batches, passes, seed))
    assert ranking.passes > 0.7 * passes - 2 * batches


def test_evolution_beats_random_search_at_equal_passes(latency):
    """The loss is a sum over decisions, so children of good parents are good."""
    gains = []
    for seed in range(6):
        losses = Losses(latency, seed)
        task = make_task(latency, losses, 2, 800, seed)
        evolved, random = (strategy(task) for strategy in (evolve, search_at_random))
        gains.append(random.losses[0] - evolved.losses[0])
    assert np.mean(gains) > 0.1
    assert np.median(gains) > 0.1


def test_child_is_near_its_parent(latency):
    """Unlike in a random search, later architectures are near earlier ones."""
    seen: list[np.ndarray] = []

    def evaluate(architectures: ArchitectureBatch, row: int, batch: int) -> Evaluation:
        seen.append(architectures.choices[row].copy())
        return Evaluation(len(seen))

    evolve(make_task(latency, evaluate, 1, 60))
    first, later = seen[:POPULATION], seen[POPULATION:]
    distances = [min((child != other).sum() for other in first) for child in later[:10]]
    assert 0 < np.median(distances) < 8
    assert np.median([(a != b).sum() for a, b in itertools.combinations(first, 2)]) > 12


def test_evolution_evaluates_nothing_twice(latency):
    calls: list[tuple[bytes, int]] = []

    def evaluate(architectures: ArchitectureBatch, row: int, batch: int) -> Evaluation:
        calls.append((architectures.choices[row].tobytes(), batch))
        return Evaluation(float(architectures.choices[row].sum()))

    ranking = evolve(make_task(latency, evaluate, 2, 4000))
    assert len(set(calls)) == len(calls) == ranking.passes == 2 * ranking.num_compared == 4000


def test_count_operators_includes_absent_ones():
    edges = ["conv", "zero", "conv", "conv"]
    assert count_operators(("zero", "skip", "conv"), edges) == {"zero": 1, "skip": 0, "conv": 3}
