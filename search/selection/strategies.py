"""Search strategies: candidates on the target, compared by their mIoU in the trained supernet.

The computation of a strategy is counted in forward passes of one batch, so that all strategies can have equal budgets.
A registered strategy passes `tests/search/selection/test_strategies.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import add

import numpy as np
import torch
from numpy.typing import NDArray

from ...models.space.cost import Array
from ..constraint.constraint import CostConstraint
from ..constraint.projection import ArchitectureBatch, draw_on_target, project_to_target
from ..training.scores import compute_scores

Counts = NDArray[np.int64]

PASSES_PER_STEP = 3
"""Forward passes that one training step of the architecture counts as; its backward pass takes twice a forward one."""
RIVAL_PASSES = 1
"""More passes for the rivals of edges, and for that of a width, in spaces that have them."""
POPULATION, TOURNAMENT = 24, 6
"""Living architectures of the evolution, and those among them that compete to be the next parent."""
MUTATIONS = 2
"""Decisions that are redrawn in a child before its projection onto the target."""

MAX_HISTORY_RATIO = 8
"""Maximum length of the evolution's history, repeated architectures included, as a multiple of its evaluations."""


@dataclass(frozen=True)
class Evaluation:
    """Results of an architecture on some of the fixed batches; those of several batches add up.

    The mIoU of all pixels ranks architectures, not their cross-entropy, which follows large classes such as road and
    sky.

    Attributes:
        loss: sum of the batches' losses.
        batches: number of batches.
        confusion: counts of pixels, [classes, classes] with the truth in rows; None if only losses are compared.
    """

    loss: float
    batches: int = 1
    confusion: Counts | None = None

    def __add__(self, other: Evaluation) -> Evaluation:
        """Return the results on the batches of both."""
        confusion = None if self.confusion is None or other.confusion is None else self.confusion + other.confusion
        return Evaluation(self.loss + other.loss, self.batches + other.batches, confusion)

    @property
    def mean_loss(self) -> float:
        """Mean loss of the batches."""
        return self.loss / self.batches

    @cached_property
    def miou(self) -> float | None:
        """Mean intersection over union in percent; None without a labelled pixel."""
        if self.confusion is None:
            return None
        names = tuple(map(str, range(len(self.confusion))))
        return compute_scores(torch.from_numpy(self.confusion), names).miou

    @property
    def rank(self) -> tuple[float, float]:
        """Sort key, best first: higher mIoU, then lower loss."""
        return -(self.miou or 0.0), self.mean_loss


Evaluate = Callable[[ArchitectureBatch, int, int], Evaluation]
"""Evaluation of an architecture on one of the fixed batches: `evaluate(architectures, row, batch)`."""


@dataclass(frozen=True)
class Ranking:
    """Result of a strategy.

    Attributes:
        architectures: the best architectures, best first.
        evaluations: their evaluations in the supernet, over all batches.
        passes: forward passes that were used.
        num_compared: number of compared architectures.
        likeliest_loss: loss of the most probable architecture, whether ranked or not; None without probabilities.
    """

    architectures: ArchitectureBatch
    evaluations: list[Evaluation]
    passes: int
    num_compared: int
    likeliest_loss: float | None = None

    @property
    def losses(self) -> list[float]:
        """Mean loss of each of the best architectures."""
        return [evaluation.mean_loss for evaluation in self.evaluations]


@dataclass(frozen=True)
class StrategyTask:
    """Input of a strategy.

    Attributes:
        constraint: costs and targets.
        evaluate: evaluation of an architecture on one batch, by the trained supernet.
        batches: number of batches.
        log_p: log-probabilities of the searched choices, [S, C], which only gradients train; -inf for missing choices.
        passes: maximum number of forward passes; gradients have used all but `finalists` of them in training.
        samples: number of random architectures of `gradient`.
        finalists: number of most probable architectures that `gradient` compares.
        seed: random seed.
        keep: maximum number of returned architectures.
    """

    constraint: CostConstraint
    evaluate: Evaluate
    batches: int
    log_p: Array
    passes: int
    samples: int
    finalists: int
    seed: int
    keep: int = 1


def rank_likely(task: StrategyTask) -> Ranking:
    """Rank the most probable architectures; see `sample_likely`."""
    candidates = sample_likely(task.log_p, task.constraint, task.samples, task.finalists, task.seed)
    likeliest = _evaluate_all(task.evaluate, candidates, 0, range(task.batches)).mean_loss
    return replace(halve(candidates, task.evaluate, task.batches, task.keep), likeliest_loss=likeliest)


def sample_likely(
    log_p: Array, constraint: CostConstraint, samples: int, finalists: int, seed: int
) -> ArchitectureBatch:
    """Return the most probable architecture on the target and random ones, most probable first.

    A random architecture is the most probable one under log-probabilities with Gumbel noise (perturb and maximise). It
    is projected onto the target with these perturbed log-probabilities as preference.

    Args:
        log_p: log-probabilities of the searched choices, [S, C]; -inf for missing choices.
        constraint: costs and targets.
        samples: number of random architectures.
        finalists: maximum number of returned architectures.
        seed: random seed.
    """
    noise = np.random.default_rng(seed).gumbel(size=(samples, *log_p.shape))
    preference = np.concatenate([log_p[None], log_p + noise])
    candidates = project_to_target(preference.argmax(axis=2), preference, constraint)
    likelihood = log_p[np.arange(len(log_p)), candidates.choices[:, : len(log_p)]].sum(axis=1)
    candidates = candidates.select(np.argsort(-likelihood, kind="stable")).drop_duplicates()
    return candidates.select(np.arange(min(finalists, len(candidates))))


def _evaluate_all(evaluate: Evaluate, architectures: ArchitectureBatch, row: int, batches: Iterable[int]) -> Evaluation:
    """Return the evaluation of an architecture on some batches."""
    return reduce(add, (evaluate(architectures, row, batch) for batch in batches))


def halve(candidates: ArchitectureBatch, evaluate: Evaluate, batches: int, keep: int = 1) -> Ranking:
    """Rank candidates by successive halving (arXiv 1502.07943): the better half is evaluated on twice the batches.

    Args:
        candidates: architectures to compare.
        evaluate: evaluation of an architecture on one batch.
        batches: number of batches; the last candidates are evaluated on all of them.
        keep: number of best candidates that are never dropped.
    """
    totals: dict[int, Evaluation] = {}
    alive, done, passes = list(range(len(candidates))), 0, 0
    while True:
        stop = min(max(2 * done, 1), batches)
        for row in alive:
            new = _evaluate_all(evaluate, candidates, row, range(done, stop))
            totals[row] = totals[row] + new if row in totals else new
        passes += len(alive) * (stop - done)
        done = stop
        order = sorted(alive, key=lambda row: totals[row].rank)
        if done == batches:
            best = order[:keep]
            chosen = candidates.select(np.array(best))
            return Ranking(chosen, [totals[row] for row in best], passes, len(candidates))
        alive = sorted(order[: max(len(order) // 2, keep)])


def count_halving_passes(candidates: int, batches: int, keep: int = 1) -> int:
    """Return the number of forward passes that `halve` needs."""
    done = passes = 0
    while done < batches:
        stop = min(max(2 * done, 1), batches)
        passes += candidates * (stop - done)
        done, candidates = stop, min(max(candidates // 2, keep), candidates)
    return passes


def search_at_random(task: StrategyTask) -> Ranking:
    """Rank random architectures, each projected onto the target by a random preference, by successive halving."""
    count = 1
    while count_halving_passes(count + 1, task.batches, task.keep) <= task.passes:
        count += 1
    candidates = draw_on_target(task.constraint, count, np.random.default_rng(task.seed)).drop_duplicates()
    return halve(candidates, task.evaluate, task.batches, task.keep)


def evolve(task: StrategyTask) -> Ranking:
    """Rank the architectures of regularised evolution (Real et al., arXiv 1802.01548): the oldest dies, not the worst.

    Every architecture is on the target and evaluated once, on all batches. A repeated one joins the population with its
    known evaluation, at no cost.
    """
    constraint, batches = task.constraint, task.batches
    rng = np.random.default_rng(task.seed)
    max_evaluations = max(task.passes // batches, 1)
    initial = draw_on_target(constraint, min(POPULATION, max_evaluations), rng)
    history: list[tuple[Evaluation, ArchitectureBatch]] = []
    known: dict[bytes, Evaluation] = {}

    def join(architecture: ArchitectureBatch) -> None:
        key = architecture.choices.tobytes()
        if key not in known:
            known[key] = _evaluate_all(task.evaluate, architecture, 0, range(batches))
        history.append((known[key], architecture))

    for row in range(len(initial)):
        join(initial.select(np.array([row])))
    # A small space may have fewer architectures than the budget allows.
    while len(known) < max_evaluations and len(history) < MAX_HISTORY_RATIO * max_evaluations:
        alive = history[-POPULATION:]
        rivals = rng.choice(len(alive), size=min(TOURNAMENT, len(alive)), replace=False)
        _, parent = min((alive[int(index)] for index in rivals), key=lambda entry: entry[0].rank)
        join(_mutate(parent, constraint, rng))
    ranked = sorted(history, key=lambda entry: entry[0].rank)
    architectures = ArchitectureBatch(np.concatenate([architecture.choices for _, architecture in ranked]))
    best = architectures.find_first_rows()[: task.keep]
    return Ranking(architectures.select(best), [ranked[row][0] for row in best], len(known) * batches, len(known))


STRATEGIES: dict[str, Callable[[StrategyTask], Ranking]] = {
    "gradient": rank_likely,
    "random": search_at_random,
    "evolution": evolve,
}
"""Name -> strategy. All but `gradient` use a supernet that is trained on random paths near the target alone."""


def _mutate(parent: ArchitectureBatch, constraint: CostConstraint, rng: np.random.Generator) -> ArchitectureBatch:
    """Redraw some decisions, then project onto the target with a preference for the new and the parent's choices."""
    decisions = constraint.decisions
    searched = decisions.num_searched
    choices = parent.choices[:, :searched].copy()
    mutated = rng.choice(searched, size=min(MUTATIONS, searched), replace=False)
    choices[0, mutated] = rng.integers([len(decisions.decisions[decision].choices) for decision in mutated])
    preference = decisions.draw_preferences(1, rng)
    preference[0, np.arange(searched), choices[0]] += 1.0
    preference[0, mutated, choices[0, mutated]] += 10.0
    return project_to_target(choices, preference, constraint)


def count_operators(known: Iterable[str], operators: Sequence[str]) -> dict[str, int]:
    """Return how often each known operator is among those of all edges, [E]."""
    return {name: operators.count(name) for name in dict.fromkeys(known)}
