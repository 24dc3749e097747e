"""From architecture parameters to one architecture: likely, valid, within the target, good in the supernet."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..lut.predictor import Predictor
from ..models.architecture import Architecture
from ..models.operators import ZERO
from ..models.space import SearchSpace

Array = NDArray[np.float64]
Choices = NDArray[np.int64]

ROOM = 0.01
"""Share of the target that may be left unused."""


def derive(
    log_p: Array,
    predictor: Predictor,
    loss_of: Callable[[Architecture], float],
    *,
    target_ms: float | None,
    samples: int,
    finalists: int,
    seed: int,
) -> Architecture:
    """Pick the final architecture.

    The most likely architecture and random draws are made valid and brought to the target by the swaps that cost the
    least likelihood; the likeliest of them are compared by their loss.

    Args:
        log_p: log-probabilities of operators, [E, O].
        predictor: latency, in milliseconds.
        loss_of: loss of an architecture in the supernet; less is better.
        target_ms: upper bound of the predicted latency; None for no bound.
        samples: random draws.
        finalists: architectures that are compared by loss.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    noise = rng.gumbel(size=(samples, *log_p.shape))
    draws = np.concatenate([log_p.argmax(axis=1)[None], (log_p + noise).argmax(axis=2)])
    fitted = {
        tuple(fit_target(make_valid(draw, log_p, predictor.space), log_p, predictor, target_ms)) for draw in draws
    }
    pool = np.array(sorted(fitted))
    likelihood = log_p[np.arange(log_p.shape[0]), pool].sum(axis=1)
    best = pool[np.argsort(-likelihood, kind="stable")[:finalists]]
    candidates = [Architecture.from_choices(predictor.space, choices.tolist()) for choices in best]
    return min(candidates, key=loss_of)


def make_valid(choices: Choices, log_p: Array, space: SearchSpace) -> Choices:
    """Give every node and input of every cell a live edge: the likeliest live operator on its likeliest edge."""
    if ZERO not in space.operators:
        return choices
    zero = space.operators.index(ZERO)
    live = log_p.copy()
    live[:, zero] = -np.inf
    fixed, first = choices.copy(), 0
    for cell in space.plan.searched:
        ends = [[("node", edge.node), ("input", edge.source)] for edge in cell.edges]
        wanted = [("node", node) for node in range(cell.nodes)]
        wanted += [("input", source) for source in range(len(cell.inputs))]
        for end in wanted:
            at = [first + index for index, both in enumerate(ends) if end in both]
            if all(fixed[edge] == zero for edge in at):
                edge = max(at, key=lambda edge: live[edge].max() - log_p[edge, zero])
                fixed[edge] = live[edge].argmax()
        first += len(cell.edges)
    return fixed


def fit_target(choices: Choices, log_p: Array, predictor: Predictor, target_ms: float | None) -> Choices:
    """Bring valid choices under the target, and up to `ROOM` below it, by the swaps that cost the least likelihood.

    Args:
        choices: operator indices, [E].
        log_p: log-probabilities of operators, [E, O].
        predictor: latency, in milliseconds.
        target_ms: upper bound of the predicted latency; None leaves the choices as they are.

    Returns:
        [E]; never above a target that the space can reach, and as near below it as single swaps come.
    """
    if target_ms is None:
        return choices
    current = choices.copy()
    while _predicted(predictor, current) > target_ms:
        saved, cost = -_change(predictor.edge_ms, current), -_change(log_p, current)
        rate = np.where(saved > 0, cost / np.maximum(saved, 1e-12), np.inf)
        swap = _best_valid_swap(current, rate, predictor.space)
        if swap is None:
            return np.array(predictor.fastest.choices)
        current[swap[0]] = swap[1]
    while (room := target_ms - _predicted(predictor, current)) > ROOM * target_ms:
        added = _change(predictor.edge_ms, current)
        cost = -_change(log_p, current)
        rate = np.where((added > 0) & (added <= room), cost / np.maximum(added, 1e-12), np.inf)
        swap = _best_valid_swap(current, rate, predictor.space)
        if swap is None:
            break
        current[swap[0]] = swap[1]
    return current


def _predicted(predictor: Predictor, choices: Choices) -> float:
    return float(predictor.predict_many(choices[None])[0])


def _change(of: Array, choices: Choices) -> Array:
    """What each swap changes in the quantity `of`, [E, O]: its value there less its value now."""
    now: Array = of[np.arange(len(choices)), choices]
    change: Array = of - now[:, None]
    return change


def _best_valid_swap(current: Choices, cost: Array, space: SearchSpace) -> tuple[int, int] | None:
    """The swap (edge, operator) of least finite cost that leaves nothing dead; None if there is none."""
    for flat in np.argsort(cost, axis=None, kind="stable"):
        edge, operator = divmod(int(flat), cost.shape[1])
        if not np.isfinite(cost[edge, operator]):
            return None
        if space.operators[operator] != ZERO or _stays_valid(current, edge, space):
            return edge, operator
    return None


def _stays_valid(current: Choices, edge: int, space: SearchSpace) -> bool:
    """Whether `edge` may become zero: its node and its input keep another live edge."""
    first = 0
    for cell in space.plan.searched:
        if edge < first + len(cell.edges):
            names = [space.operators[choice] for choice in current[first : first + len(cell.edges)]]
            names[edge - first] = ZERO
            return cell.fault(names) is None
        first += len(cell.edges)
    return False
