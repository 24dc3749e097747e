"""Projection of architectures onto a target, vectorised over a batch; symbols as in `decisions` and `constraint`.

A preference [N, S, C] scores each choice of the S searched decisions, as a log-probability does. Swaps of single
choices trade preference for cost at the best rate until the target ratio is at most 1, then spend the remaining slack.
The last step chooses for the decisions with a default, such as the head's width, with another swap where that is worth
its cost, so that the ratio ends just below 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...models.space.cost import Array
from ...models.space.protocol import Architecture, iter_combinations
from ..decisions import Indices, Mask
from .constraint import CostConstraint

TARGET_TOLERANCE = 0.01
"""Slack below the target, as a share of it, that a result may have."""
FREE_SLACK = 0.002
"""Slack, as a share of the target, that costs nothing in the last step."""
SLACK_COST = 300.0
"""Cost of slack beyond `FREE_SLACK`, in nats of preference per share of the target: 3 per percent. Ours."""
KEPT_PREFERENCE = 1e6
"""Preference for a choice that other swaps must not undo, in nats."""
EPSILON = 1e-12


@dataclass(frozen=True)
class ArchitectureBatch:
    """Architectures as an array.

    Attributes:
        choices: index of the choice at each decision of the search, [N, G].
    """

    choices: Indices

    def __len__(self) -> int:
        return len(self.choices)

    def select(self, rows: Indices | Mask) -> ArchitectureBatch:
        """Return the architectures of some rows."""
        return ArchitectureBatch(self.choices[rows])

    def drop_duplicates(self) -> ArchitectureBatch:
        """Return each architecture once, in the order of first appearance."""
        return self.select(self.find_first_rows())

    def find_first_rows(self) -> Indices:
        """Return the row in which each architecture appears first, in ascending order."""
        _, first = np.unique(self.choices, axis=0, return_index=True)
        return np.sort(first)


def build_architecture(batch: ArchitectureBatch, row: int, constraint: CostConstraint) -> Architecture:
    """Return a row of a batch as an Architecture."""
    choices = constraint.decisions.expand(batch.choices[row : row + 1])[0]
    return constraint.decisions.space.build(choices.tolist())


def project_to_target(choices: Indices, preference: Array, constraint: CostConstraint) -> ArchitectureBatch:
    """Make architectures valid and project them onto the target.

    Args:
        choices: choices of the searched decisions before the projection, [N, S].
        preference: preference for choices, [S, C], or [N, S, C] with one preference per architecture.
        constraint: costs and targets; without targets, or with inactive ones, architectures are only made valid.

    Returns:
        N valid architectures; where the target is infeasible, the target ratio stays above 1.
    """
    decisions = constraint.decisions
    preference = decisions.complete_preferences(preference)
    batch = ArchitectureBatch(decisions.repair(decisions.with_defaults(choices), preference))
    if constraint.targets is None or constraint.is_inactive:
        return batch
    preference = np.broadcast_to(preference, (len(choices), *preference.shape[-2:]))
    batch = _swap_to_target(batch, preference, constraint)
    return _retry_with_costly_choice(batch, preference, constraint)


def draw_on_target(constraint: CostConstraint, count: int, rng: np.random.Generator) -> ArchitectureBatch:
    """Return random architectures, each projected onto the target by a random preference."""
    preference = constraint.decisions.draw_preferences(count, rng)
    return project_to_target(preference.argmax(axis=2), preference, constraint)


def _swap_to_target(batch: ArchitectureBatch, preference: Array, constraint: CostConstraint) -> ArchitectureBatch:
    """Reduce the cost, spend the slack and take the last step; `batch` is changed."""
    _reduce_cost(batch, preference, constraint)
    _restart_infeasible(batch, constraint)
    _spend_slack(batch, preference, constraint)
    return _repeat_last_step(_take_last_step(batch, preference, constraint), preference, constraint)


def _retry_with_costly_choice(
    batch: ArchitectureBatch, preference: Array, constraint: CostConstraint
) -> ArchitectureBatch:
    """Replace results below the tolerance by nearer ones that have a choice too costly for a single swap.

    Where one choice costs a large share of the target, no swap leads to it: the others must become cheaper first. The
    choice of smallest loss is made and kept, and the other decisions are projected again.
    """
    ratio = constraint.target_ratio(batch.choices)
    below = np.flatnonzero(ratio < 1 - TARGET_TOLERANCE)
    if not len(below):
        return batch
    start, kept = batch.select(below), preference[below].copy()
    after = constraint.target_ratio_after_swaps(start.choices)
    loss = np.where(after > 1, _list_penalties(start.choices, kept, constraint), np.inf)
    loss = _exclude_invalid(loss, start.choices, constraint)
    rows = np.flatnonzero(_apply_best_swap(start.choices, np.arange(len(below)), loss))
    swapped = start.choices[rows] != batch.choices[below[rows]]
    kept = kept[rows]
    kept[np.arange(len(rows)), swapped.argmax(axis=1), start.choices[rows, swapped.argmax(axis=1)]] += KEPT_PREFERENCE
    again = _swap_to_target(start.select(rows), kept, constraint).choices
    after = constraint.target_ratio(again)
    nearer = (after <= 1) & (after > ratio[below[rows]] + EPSILON)
    batch.choices[below[rows[nearer]]] = again[nearer]
    return batch


def _reduce_cost(batch: ArchitectureBatch, preference: Array, constraint: CostConstraint) -> None:
    """Swap in place until every ratio is at most 1 or no swap lowers it; then use the cheapest of the last step."""
    active = np.arange(len(batch))
    while len(active := active[constraint.target_ratio(batch.choices[active]) > 1]):
        rows = batch.choices[active]
        ratio = constraint.target_ratio(rows)
        saved = ratio[:, None, None] - constraint.target_ratio_after_swaps(rows)
        loss = _list_penalties(rows, preference[active], constraint)
        rate = np.where(saved > EPSILON, np.where(loss > 0, loss / np.maximum(saved, EPSILON), loss * saved), np.inf)
        swapped = _apply_best_swap(batch.choices, active, _exclude_invalid(rate, rows, constraint))
        stuck = active[~swapped]
        _choose_cheapest_last(batch.choices, stuck, constraint)
        changed = (batch.choices[stuck] != rows[~swapped]).any(axis=1)
        active = np.concatenate([active[swapped], stuck[changed]])


def _choose_cheapest_last(choices: Indices, rows: Indices, constraint: CostConstraint) -> None:
    """Give the decisions with a default their cheapest choices, in place in some rows."""
    if len(rows) == 0:
        return
    searched, combinations = _list_last_choices(constraint)
    trials = np.repeat(choices[rows][None], len(combinations), axis=0)
    trials[:, :, searched:] = combinations[:, None]
    ratios = [constraint.target_ratio(trial) for trial in trials]
    choices[rows] = trials[np.argmin(ratios, axis=0), np.arange(len(rows))]


def _list_last_choices(constraint: CostConstraint) -> tuple[int, Indices]:
    """Return the number of searched decisions, S, and all combinations of choices of the others, [M, G - S]."""
    decisions = constraint.decisions
    others = decisions.decisions[decisions.num_searched :]
    combinations = list(iter_combinations(others))
    return decisions.num_searched, np.array(combinations, np.int64).reshape(len(combinations), len(others))


def _restart_infeasible(batch: ArchitectureBatch, constraint: CostConstraint) -> None:
    """Replace in place, by the cheapest architecture, those that single swaps cannot bring below the target."""
    ratio = constraint.target_ratio(batch.choices)
    if (ratio > 1).any():
        stuck = ratio > max(1.0, float(constraint.target_ratio(constraint.cheapest)[0]))
        batch.choices[stuck] = constraint.cheapest


def _spend_slack(batch: ArchitectureBatch, preference: Array, constraint: CostConstraint) -> None:
    """Swap in place to costlier choices until every ratio is within `TARGET_TOLERANCE` below 1."""
    active = np.arange(len(batch))
    while len(active):
        ratio = constraint.target_ratio(batch.choices[active])
        below = ratio < 1 - TARGET_TOLERANCE
        active, ratio = active[below], ratio[below]
        rows = batch.choices[active]
        after = constraint.target_ratio_after_swaps(rows)
        added = after - ratio[:, None, None]
        loss = _list_penalties(rows, preference[active], constraint)
        feasible = (added > EPSILON) & (after <= 1)
        rate = np.where(feasible, np.where(loss > 0, loss / np.maximum(added, EPSILON), loss * added), np.inf)
        active = active[_apply_best_swap(batch.choices, active, _exclude_invalid(rate, rows, constraint))]


def _take_last_step(batch: ArchitectureBatch, preference: Array, constraint: CostConstraint) -> ArchitectureBatch:
    """Choose for the decisions with a default, and make at most one swap, to end within `TARGET_TOLERANCE` below 1.

    The smallest loss of preference wins; where nothing ends there, what ends nearest below 1.
    """
    loss = _list_penalties(batch.choices, preference, constraint)
    count = len(batch)
    lowest = np.full(count, np.inf)
    result = batch.choices.copy()
    searched, combinations = _list_last_choices(constraint)
    for combination in combinations:
        choices = batch.choices.copy()
        choices[:, searched:] = combination
        slack = 1 - constraint.target_ratio_after_swaps(choices)
        own = preference[:, np.arange(searched, choices.shape[1]), combination].sum(axis=1)
        price = np.maximum(loss, 0) - own[:, None, None]
        price += SLACK_COST * np.maximum(slack - FREE_SLACK, 0)
        # Slack beyond the tolerance costs more than any swap that ends within it.
        price = np.where(slack > TARGET_TOLERANCE, 1e6 * (1 + slack), price)
        price = _exclude_invalid(np.where(slack < 0, np.inf, price), choices, constraint)
        flat = price.reshape(count, loss.shape[1] * loss.shape[2])
        swap = flat.argmin(axis=1)
        better = flat[np.arange(count), swap] < lowest
        lowest = np.where(better, flat[np.arange(count), swap], lowest)
        rows = np.flatnonzero(better)
        decision, choice = np.divmod(swap[rows], loss.shape[2])
        result[rows] = choices[rows]
        result[rows, decision] = choice
    return ArchitectureBatch(result)


def _repeat_last_step(batch: ArchitectureBatch, preference: Array, constraint: CostConstraint) -> ArchitectureBatch:
    """Repeat the last step where the result is below the tolerance, for as long as that raises a ratio."""
    while True:
        ratio = constraint.target_ratio(batch.choices)
        below = np.flatnonzero(ratio < 1 - TARGET_TOLERANCE)
        again = _take_last_step(batch.select(below), preference[below], constraint)
        nearer = constraint.target_ratio(again.choices) > ratio[below] + EPSILON
        if not nearer.any():
            return batch
        batch.choices[below[nearer]] = again.choices[nearer]


def _list_penalties(choices: Indices, preference: Array, constraint: CostConstraint) -> Array:
    """Return the preference that each swap of a searched decision loses, [N, S, C]; 0 for a missing choice."""
    searched = constraint.decisions.num_searched
    chosen = np.take_along_axis(preference, choices[:, :, None], axis=2)
    loss: Array = np.where(constraint.decisions.exists, chosen - preference, 0.0)[:, :searched]
    return loss


def _exclude_invalid(rate: Array, choices: Indices, constraint: CostConstraint) -> Array:
    """Set the rate of swaps to missing choices, or that break a requirement, to infinity in place; return it."""
    decisions = constraint.decisions
    rate[:, ~decisions.exists[: decisions.num_searched]] = np.inf
    required = decisions.find_required(choices)
    for decision in np.flatnonzero(decisions.zeros[: decisions.num_searched] >= 0):
        rate[required[:, decision], decision, decisions.zeros[decision]] = np.inf
    return rate


def _apply_best_swap(choices: Indices, rows: Indices, rate: Array) -> Mask:
    """Make the swap of smallest finite rate in each row, in place; return the rows that had one."""
    flat = rate.reshape(len(rows), rate.shape[1] * rate.shape[2])
    swap = flat.argmin(axis=1)
    possible: Mask = np.isfinite(flat[np.arange(len(rows)), swap])
    decision, choice = np.divmod(swap, rate.shape[2])
    choices[rows[possible], decision[possible]] = choice[possible]
    return possible
