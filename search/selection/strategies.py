"""From a trained supernet to one architecture: candidates on the target, compared by their loss in the supernet.

A candidate's computation is counted in forward passes of one batch, so that strategies can be given the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..constraint.latency import Latency
from ..constraint.projection import ArchitectureBatch, project_to_target
from ..decisions import Array, Indices

PASSES_PER_STEP = 3
"""Forward passes that one training step of the architecture counts as: forward, and a backward twice as long."""
POPULATION, TOURNAMENT = 24, 6
"""Of the evolution: architectures alive, and those that compete to be the parent of the next."""
MUTATIONS = 2
"""Decisions that are drawn anew in a child, before it is brought onto the target."""

MAX_REPEATS = 8
"""Architectures, as a multiple of those that may be judged, after which an evolution that repeats itself ends."""

BatchLoss = Callable[[ArchitectureBatch, int, int], float]
"""Loss of an architecture (a row) on one of the fixed batches: `loss_on(found, row, batch)`."""


@dataclass(frozen=True)
class Ranking:
    """What a selection found.

    Attributes:
        found: the best architectures, the best one first.
        losses: their losses in the supernet, over all batches.
        passes: forward passes that the selection took.
        tried: architectures that were compared.
        likeliest_loss: loss of the most likely architecture, which need not be among these; None where there is none.
    """

    found: ArchitectureBatch
    losses: list[float]
    passes: int
    tried: int
    likeliest_loss: float | None = None


def sample_likely(log_p: Array, latency: Latency, samples: int, finalists: int, seed: int) -> ArchitectureBatch:
    """Candidates of a search by gradients: the most likely architecture on the target and random ones, likeliest first.

    Each random one is the most likely under log-probabilities with Gumbel noise (perturb and maximise): a draw, brought
    onto the target by what that same draw wanted next.

    Args:
        log_p: log-probabilities of operators, [G, O].
        latency: loads.
        samples: random draws.
        finalists: how many of the candidates are returned at most.
        seed: of the draws.
    """
    noise = np.random.default_rng(seed).gumbel(size=(samples, *log_p.shape))
    preference = np.concatenate([log_p[None], log_p + noise])
    found = project_to_target(preference.argmax(axis=2), preference, latency)
    likelihood = log_p[np.arange(log_p.shape[0]), found.picked].sum(axis=1)
    order = np.argsort(-likelihood, kind="stable")
    found = found.take(order).distinct()
    return found.take(np.arange(min(finalists, len(found))))


def halve(candidates: ArchitectureBatch, loss_on: BatchLoss, batches: int, keep: int = 1) -> Ranking:
    """Compare candidates on ever more batches, the better half going on (successive halving, arXiv 1502.07943).

    Args:
        candidates: architectures.
        loss_on: loss of one on one batch.
        batches: how many there are; the last few are compared on all of them.
        keep: how many of the best stay to the end, and are returned.
    """
    alive = np.arange(len(candidates))
    totals = np.zeros(len(candidates))
    seen = passes = 0
    while True:
        upto = min(max(2 * seen, 1), batches)
        for row in alive:
            totals[row] += sum(loss_on(candidates, int(row), batch) for batch in range(seen, upto))
        passes += len(alive) * (upto - seen)
        seen = upto
        order = alive[np.argsort(totals[alive], kind="stable")]
        if seen == batches:
            best = order[:keep]
            return Ranking(candidates.take(best), (totals[best] / seen).tolist(), passes, len(candidates))
        alive = np.sort(order[: max(len(order) // 2, keep)])


def count_halving_passes(candidates: int, batches: int, keep: int = 1) -> int:
    """Forward passes that a race of so many candidates takes."""
    seen = passes = 0
    while seen < batches:
        upto = min(max(2 * seen, 1), batches)
        passes += candidates * (upto - seen)
        seen, candidates = upto, min(max(candidates // 2, keep), candidates)
    return passes


def random_search(latency: Latency, loss_on: BatchLoss, batches: int, passes: int, seed: int, keep: int = 1) -> Ranking:
    """Architectures drawn evenly, each brought onto the target by a random preference; the best in a race.

    Args:
        latency: loads.
        loss_on: loss of an architecture on one of the batches.
        batches: how many there are.
        passes: forward passes that may be spent.
        seed: of the draws.
        keep: how many of the best are returned at most.
    """
    count = 1
    while count_halving_passes(count + 1, batches, keep) <= passes:
        count += 1
    return halve(_sample_random(latency, count, np.random.default_rng(seed)).distinct(), loss_on, batches, keep)


def evolve(latency: Latency, loss_on: BatchLoss, batches: int, passes: int, seed: int, keep: int = 1) -> Ranking:
    """Regularised evolution (Real et al., arXiv 1802.01548): the oldest dies, not the worst.

    Every architecture is on the target, and judged on all batches once: one that comes out again lives again with the
    loss it had, which costs no passes. Arguments as in `random_search`.
    """
    rng = np.random.default_rng(seed)
    trials = max(passes // batches, 1)
    start = _sample_random(latency, min(POPULATION, trials), rng)
    history: list[tuple[float, ArchitectureBatch]] = []
    known: dict[bytes, float] = {}

    def judge(found: ArchitectureBatch) -> None:
        key = found.picked.tobytes() + found.heads.tobytes()
        if key not in known:
            known[key] = sum(loss_on(found, 0, batch) for batch in range(batches)) / batches
        history.append((known[key], found))

    for row in range(len(start)):
        judge(start.take(np.array([row])))
    while (
        len(known) < trials and len(history) < MAX_REPEATS * trials
    ):  # a small space has too few to spend the passes on
        alive = history[-POPULATION:]
        rivals = rng.choice(len(alive), size=min(TOURNAMENT, len(alive)), replace=False)
        parent = min((alive[int(index)] for index in rivals), key=lambda one: one[0])[1]
        judge(_mutate(parent, latency, rng))
    ranked = sorted(history, key=lambda one: one[0])
    everything = ArchitectureBatch(
        np.concatenate([f.picked for _, f in ranked]), np.concatenate([f.heads for _, f in ranked])
    )
    best = everything.first_rows()[:keep]
    return Ranking(everything.take(best), [ranked[row][0] for row in best], len(known) * batches, len(known))


def _sample_random(latency: Latency, count: int, rng: np.random.Generator) -> ArchitectureBatch:
    _, decisions, operators = latency.ms.shape
    preference = rng.gumbel(size=(count, decisions, operators))
    return project_to_target(preference.argmax(axis=2), preference, latency)


def _mutate(parent: ArchitectureBatch, latency: Latency, rng: np.random.Generator) -> ArchitectureBatch:
    """The parent with some decisions drawn anew, on the target again; what was drawn is kept if it can be."""
    _, decisions, operators = latency.ms.shape
    picked = parent.picked.copy()
    at = rng.choice(decisions, size=min(MUTATIONS, decisions), replace=False)
    picked[0, at] = rng.integers(operators, size=len(at))
    preference = rng.gumbel(size=(1, decisions, operators))
    preference[0, np.arange(decisions), picked[0]] += 1.0
    preference[0, at, picked[0, at]] += 10.0
    return project_to_target(picked, preference, latency)


def compute_gap(losses_of_draws: Sequence[float], likeliest: float | None, chosen: float) -> dict[str, float | None]:
    """The discretisation gap: the likeliest architecture's loss less the mean loss of paths as the search drew them.

    The chosen one's loss is no measure of it: it was chosen for that loss.
    """
    drawn = float(np.mean(losses_of_draws))
    compute_gap = None if likeliest is None else likeliest - drawn
    return {"loss_before": drawn, "loss_likeliest": likeliest, "gap": compute_gap, "loss_after": chosen}


def count_operators(operators: Sequence[str], choices: Indices) -> dict[str, int]:
    """Operator -> on how many of the edges (choices [E]) it stands."""
    return {name: int((choices == index).sum()) for index, name in enumerate(operators)}
