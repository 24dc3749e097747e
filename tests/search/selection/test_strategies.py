"""Choosing from a supernet, with losses that are known instead of a supernet."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgc.search.constraint.latency import Latency
from lgc.search.constraint.projection import TARGET_TOLERANCE, ArchitectureBatch, project_to_target
from lgc.search.decisions import Decisions
from lgc.search.selection.strategies import (
    POPULATION,
    Ranking,
    compute_gap,
    count_halving_passes,
    count_operators,
    evolve,
    halve,
    random_search,
    sample_likely,
)

STRATEGIES = {"random": random_search, "evolution": evolve}
seeds = st.integers(0, 10_000)


@pytest.fixture
def latency(deep_space, made_up) -> Latency:
    """A target in the middle of the deep space."""
    blocks, predictor = Decisions(deep_space), made_up(deep_space, 0)
    free = Latency(blocks, [predictor])
    slowest = float(free.ms[0].max(axis=1).sum() + free.fixed_ms[0])
    return Latency(blocks, [predictor], [(float(free.load(*free.fastest)[0]) + slowest) / 2])


class Losses:
    """A loss that is a sum over decisions, with noise on every batch; counts what was asked for."""

    def __init__(self, latency: Latency, seed: int = 0, noise: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        self.table = rng.normal(size=latency.ms.shape[1:])
        self.noise, self.seed, self.asked = noise, seed, 0

    def of(self, picked: np.ndarray) -> float:
        return float(self.table[np.arange(len(picked)), picked].mean())

    def __call__(self, found: ArchitectureBatch, row: int, batch: int) -> float:
        self.asked += 1
        rng = np.random.default_rng((self.seed, batch, *found.picked[row].tolist()))
        return self.of(found.picked[row]) + self.noise * float(rng.normal())


def log_probabilities(latency: Latency, seed: int, scale: float = 2.0) -> np.ndarray:
    logits = scale * np.random.default_rng(seed).normal(size=latency.ms.shape[1:])
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def likelihood(log_p: np.ndarray, picked: np.ndarray) -> np.ndarray:
    return log_p[np.arange(len(log_p)), picked].sum(axis=1)


@given(seed=seeds)
@settings(max_examples=15)
def test_candidates_come_likeliest_first_each_once_and_on_the_target(latency, seed):
    log_p = log_probabilities(latency, seed)
    found = sample_likely(log_p, latency, 64, 10, seed)
    assert len(found) == 10
    values = likelihood(log_p, found.picked)
    assert (np.diff(values) <= 0).all()
    most = project_to_target(log_p.argmax(axis=1)[None], log_p, latency)
    assert values[0] >= likelihood(log_p, most.picked)[0]
    assert len(np.unique(np.column_stack([found.picked, found.heads]), axis=0)) == 10
    load = latency.load(found.picked, found.heads)
    assert ((load <= 1 + 1e-9) & (load > 1 - 5 * TARGET_TOLERANCE)).all()


def test_a_certain_distribution_has_one_candidate(latency):
    picked = project_to_target(
        log_probabilities(latency, 3).argmax(axis=1)[None], log_probabilities(latency, 3), latency
    ).picked[0]
    log_p = np.full(latency.ms.shape[1:], -300.0)
    log_p[np.arange(len(picked)), picked] = 0.0
    found = sample_likely(log_p, latency, 20, 5, 0)
    assert np.array_equal(found.picked, picked[None])


def test_candidates_are_drawn_by_their_probabilities(zeroless_space, made_up):
    """Without a target, nothing is fitted: frequencies of the draws are the probabilities."""
    latency = Latency(Decisions(zeroless_space), [made_up(zeroless_space, 0)])
    log_p = log_probabilities(latency, 0, 1.0)
    found = sample_likely(log_p, latency, 4000, 4001, 0)
    assert len(found) > 3000, "few of 2 ** 15 are drawn twice"
    p = np.exp(log_p[:, 1])
    even = np.abs(p - 0.5) < 0.45  # where nearly all are alike, dropping repeats shows
    assert np.abs(found.picked.mean(axis=0) - p)[even].max() < 0.06
    other = sample_likely(log_p, latency, 4000, 4001, 1)
    assert not np.array_equal(found.picked[:50], other.picked[:50])


@given(
    losses=st.lists(st.integers(0, 50), min_size=1, max_size=40),
    batches=st.integers(1, 20),
)
def test_a_race_finds_the_least_loss_and_counts_what_it_took(losses, batches):
    candidates = ArchitectureBatch(np.arange(len(losses))[:, None], np.zeros(len(losses), np.int64))
    asked: list[tuple[int, int]] = []

    def loss_on(found: ArchitectureBatch, row: int, batch: int) -> float:
        asked.append((row, batch))
        return losses[found.picked[row, 0]] + 0.25 * batch  # batches are not equally hard

    chosen = halve(candidates, loss_on, batches)
    (best,) = chosen.found.picked[:, 0]
    assert losses[best] == min(losses)
    assert chosen.losses == [pytest.approx(min(losses) + 0.25 * (batches - 1) / 2)]
    assert chosen.passes == len(asked) == len(set(asked)) == count_halving_passes(len(losses), batches)
    assert chosen.tried == len(losses)
    assert {batch for row, batch in asked if row == best} == set(range(batches))


def test_a_race_keeps_the_best_in_order():
    losses = [5.0, 1.0, 4.0, 2.0, 3.0]
    candidates = ArchitectureBatch(np.arange(5)[:, None], np.zeros(5, np.int64))
    for batches, keep in itertools.product((1, 4), (1, 3, 9)):
        ranked = halve(candidates, lambda found, row, batch: losses[row], batches, keep)
        assert ranked.found.picked[:, 0].tolist() == [1, 3, 4, 2, 0][:keep]
        assert ranked.losses == sorted(losses)[:keep]
        assert ranked.passes == count_halving_passes(5, batches, keep)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strategies_keep_the_best_each_once(latency, strategy):
    losses = Losses(latency)
    ranked = STRATEGIES[strategy](latency, losses, 2, 400, 0, keep=4)
    assert ranked.losses == [pytest.approx(losses.of(picked)) for picked in ranked.found.picked]
    assert ranked.losses == sorted(ranked.losses)
    assert len(ranked.found.distinct()) == len(ranked.found) == 4


def test_a_race_lets_the_better_half_go_on():
    asked: dict[int, int] = {}

    def loss_on(found: ArchitectureBatch, row: int, batch: int) -> float:
        asked[row] = asked.get(row, 0) + 1
        return float(row)

    halve(ArchitectureBatch(np.arange(8)[:, None], np.zeros(8, np.int64)), loss_on, 8)
    assert [asked[row] for row in range(8)] == [8, 4, 2, 2, 1, 1, 1, 1]


def test_a_race_trusts_all_batches_seen_not_the_last():
    table = np.array([[0.0, 3, 0, 0], [1.0, 1, 1, 1], [2.0, 0, 3, 3], [9.0, 0, 0, 0]])
    chosen = halve(
        ArchitectureBatch(np.arange(4)[:, None], np.zeros(4, np.int64)), lambda f, row, batch: table[row, batch], 4
    )
    assert chosen.found.picked[0, 0] == 1
    assert chosen.losses == [1.0]


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(passes=st.integers(1, 300), batches=st.integers(1, 12), keep=st.integers(1, 4), seed=seeds)
@settings(max_examples=20)
def test_no_strategy_spends_more_than_it_is_given(latency, strategy, passes, batches, keep, seed):
    losses = Losses(latency, seed)
    chosen = STRATEGIES[strategy](latency, losses, batches, passes, seed, keep)
    assert losses.asked == chosen.passes <= max(passes, keep * batches)  # those that are kept are judged at least
    assert chosen.passes > 0.7 * passes - 2 * batches, "and does not leave it unused either"
    assert chosen.losses == [pytest.approx(losses.of(picked)) for picked in chosen.found.picked]
    assert latency.load(chosen.found.picked, chosen.found.heads)[0] <= 1 + 1e-9


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_seed_decides(latency, strategy):
    def run(seed: int) -> Ranking:
        return STRATEGIES[strategy](latency, Losses(latency, noise=0.1), 3, 200, seed)

    a, b, c = run(0), run(0), run(1)
    assert np.array_equal(a.found.picked, b.found.picked)
    assert (a.losses, a.passes, a.tried) == (b.losses, b.passes, b.tried)
    assert not np.array_equal(a.found.picked, c.found.picked)


def test_evolution_beats_chance_for_the_same_passes(latency):
    """On a loss that is a sum over decisions, so that children of good parents are good."""
    gains = []
    for seed in range(6):
        losses = Losses(latency, seed)
        evolved, drawn = (strategy(latency, losses, 2, 800, seed) for strategy in (evolve, random_search))
        gains.append(drawn.losses[0] - evolved.losses[0])
    assert np.mean(gains) > 0.1
    assert np.median(gains) > 0.1


def test_a_child_keeps_what_was_drawn_and_most_of_its_parent(latency):
    """What distinguishes evolution from chance: architectures of later trials are near earlier ones."""
    seen: list[np.ndarray] = []

    def loss_on(found: ArchitectureBatch, row: int, batch: int) -> float:
        seen.append(found.picked[row].copy())
        return float(len(seen))

    evolve(latency, loss_on, 1, 60, 0)
    first, later = seen[:POPULATION], seen[POPULATION:]
    apart = [min((one != other).sum() for other in first) for one in later[:10]]
    assert 0 < np.median(apart) < 8
    assert np.median([(one != other).sum() for one in first for other in first if one is not other]) > 12


def test_evolution_judges_nothing_twice(latency):
    asked: list[tuple[bytes, int]] = []

    def loss_on(found: ArchitectureBatch, row: int, batch: int) -> float:
        asked.append((found.picked[row].tobytes() + found.heads[row].tobytes(), batch))
        return float(found.picked[row].sum())

    ranked = evolve(latency, loss_on, 2, 4000, 0)
    assert len(set(asked)) == len(asked) == ranked.passes == 2 * ranked.tried == 4000


def test_the_gap_is_from_drawn_paths_to_the_likeliest_architecture():
    wanted = {"loss_before": 2.0, "loss_likeliest": 2.5, "loss_after": 1.5, "gap": 0.5}
    assert compute_gap([1.0, 2.0, 3.0], 2.5, 1.5) == wanted
    assert compute_gap([1.0, 2.0, 3.0], None, 1.5) == wanted | {"loss_likeliest": None, "gap": None}


def test_shares_count_every_operator():
    assert count_operators(("zero", "skip", "conv"), np.array([2, 0, 2, 2])) == {"zero": 1, "skip": 0, "conv": 3}
