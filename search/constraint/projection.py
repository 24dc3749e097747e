"""Bringing architectures onto a latency target, all of them side by side; symbols as in `blocks` and `latency`.

A preference [N, G, O] says how much each operator is wanted, as a log-probability does. Swaps of single operators pay
preference for latency at the best rate until the load is below 1, then spend what room is left; the last step chooses
the head's width, and one swap more where that pays, so that the load lands just below 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...models.space.lgcnet import Architecture
from ..decisions import Array, Flags, Indices
from .latency import Latency

ROOM = 0.01
"""Share of the target that the last step is left to place."""
LANDING = 0.002
"""Share of the target that the last step leaves unused at no cost."""
MISS_COST = 300.0
"""Preference that a share of the target left unused beyond that costs, in nats: 3 for a hundredth. Ours."""
HEAD_COST = 0.1
"""Preference that each step of width away from the space's own costs, in nats. Ours: small beside any operator's."""
TINY = 1e-12


@dataclass(frozen=True)
class ArchitectureBatch:
    """Architectures as arrays.

    Attributes:
        picked: operators of the decisions, [N, G].
        heads: widths of the head, indices into the space's `heads`, [N].
    """

    picked: Indices
    heads: Indices

    def __len__(self) -> int:
        return len(self.picked)

    def take(self, rows: Indices | Flags) -> ArchitectureBatch:
        """Some of them."""
        return ArchitectureBatch(self.picked[rows], self.heads[rows])

    def distinct(self) -> ArchitectureBatch:
        """Each once, in the order of first appearance."""
        return self.take(self.first_rows())

    def first_rows(self) -> Indices:
        """Where each of them appears first."""
        _, first = np.unique(np.column_stack([self.picked, self.heads]), axis=0, return_index=True)
        return np.sort(first)


def architecture_of(found: ArchitectureBatch, row: int, latency: Latency) -> Architecture:
    """One of them as an Architecture."""
    choices = latency.blocks.expand(found.picked[row : row + 1])[0]
    return Architecture.from_choices(latency.blocks.space, choices.tolist(), head=int(found.heads[row]))


def project_to_target(picked: Indices, preference: Array, latency: Latency) -> ArchitectureBatch:
    """Make architectures valid and bring them onto the target.

    Args:
        picked: operators of the decisions, [N, G].
        preference: how much operators are wanted, [G, O], or [N, G, O] where each has preferences of its own.
        latency: loads; without targets, architectures are only made valid.

    Returns:
        Valid architectures, N of them; those that cannot reach the target keep a load above 1.
    """
    picked = latency.blocks.repaired(picked, preference)
    found = ArchitectureBatch(picked, np.full(len(picked), latency.default_head))
    if latency.targets_ms is None:
        return found
    wanted = np.broadcast_to(preference, (len(picked), *preference.shape[-2:]))
    _lower(found, wanted, latency)
    _restart(found, latency)
    _raise(found, wanted, latency)
    return _settle(_land(found, wanted, latency), wanted, latency)


def _lower(found: ArchitectureBatch, preference: Array, latency: Latency) -> None:
    """Swap, in place, until no load is above 1, or nothing lowers it further; then take the narrowest head."""
    active = np.arange(len(found))
    while len(active := active[latency.load(found.picked[active], found.heads[active]) > 1]):
        at = found.take(active)
        saved = latency.load(at.picked, at.heads)[:, None, None] - latency.load_after_swaps(at.picked, at.heads)
        cost = _cost(at.picked, preference[active])
        rate = np.where(saved > TINY, np.where(cost > 0, cost / np.maximum(saved, TINY), cost * saved), np.inf)
        swapped = _swap(found.picked, active, _valid_only(rate, at.picked, latency))
        stuck = active[~swapped]
        cheapest = int(latency.head_ms.sum(axis=0).argmin())
        found.heads[stuck] = cheapest
        active = np.concatenate([active[swapped], stuck[found.heads[stuck] != at.heads[~swapped]]])


def _restart(found: ArchitectureBatch, latency: Latency) -> None:
    """Let those that single swaps do not bring below the target, in place, start anew from the fastest architecture."""
    load = latency.load(found.picked, found.heads)
    if (load > 1).any():
        picked, heads = latency.fastest
        stuck = load > max(1.0, float(latency.load(picked, heads)[0]))
        found.picked[stuck], found.heads[stuck] = picked, heads


def _raise(found: ArchitectureBatch, preference: Array, latency: Latency) -> None:
    """Swap, in place, to dearer operators until loads are within `ROOM` below 1."""
    active = np.arange(len(found))
    while len(active):
        load = latency.load(found.picked[active], found.heads[active])
        active = active[load < 1 - ROOM]
        at = found.take(active)
        now, after = load[load < 1 - ROOM], latency.load_after_swaps(at.picked, at.heads)
        added = after - now[:, None, None]
        cost = _cost(at.picked, preference[active])
        fits = (added > TINY) & (after <= 1)
        rate = np.where(fits, np.where(cost > 0, cost / np.maximum(added, TINY), cost * added), np.inf)
        active = active[_swap(found.picked, active, _valid_only(rate, at.picked, latency))]


def _land(found: ArchitectureBatch, preference: Array, latency: Latency) -> ArchitectureBatch:
    """The last step: the head's width, and a swap where one pays, of least cost within `ROOM` below 1.

    Where nothing lands there, what lands nearest below 1.
    """
    cost = _cost(found.picked, preference)
    best = np.full(len(found), np.inf)
    result = ArchitectureBatch(found.picked.copy(), found.heads.copy())
    for head in range(latency.head_ms.shape[1]):
        heads = np.full(len(found), head)
        after = latency.load_after_swaps(found.picked, heads)
        miss = 1 - after
        price = np.maximum(cost, 0) + HEAD_COST * abs(head - latency.default_head)
        price += MISS_COST * np.maximum(miss - LANDING, 0)
        # What misses by more than `ROOM` pays more than anything that does not.
        price = np.where(miss > ROOM, 1e6 * (1 + miss), price)
        price = _valid_only(np.where(miss < 0, np.inf, price), found.picked, latency)
        flat = price.reshape(len(found), cost.shape[1] * cost.shape[2])
        at = flat.argmin(axis=1)
        better = flat[np.arange(len(found)), at] < best
        best = np.where(better, flat[np.arange(len(found)), at], best)
        rows = np.flatnonzero(better)
        decision, operator = np.divmod(at[rows], cost.shape[2])
        result.picked[rows] = found.picked[rows]
        result.picked[rows, decision] = operator
        result.heads[rows] = head
    return result


def _settle(found: ArchitectureBatch, preference: Array, latency: Latency) -> ArchitectureBatch:
    """Take the last step again where it did not land within `ROOM`, for as long as that brings something nearer."""
    while True:
        load = latency.load(found.picked, found.heads)
        short = np.flatnonzero(load < 1 - ROOM)
        again = _land(found.take(short), preference[short], latency)
        nearer = latency.load(again.picked, again.heads) > load[short] + TINY
        if not nearer.any():
            return found
        found.picked[short[nearer]], found.heads[short[nearer]] = again.picked[nearer], again.heads[nearer]


def _cost(picked: Indices, preference: Array) -> Array:
    """Preference that each swap loses, [N, G, O]."""
    now = np.take_along_axis(preference, picked[:, :, None], axis=2)
    cost: Array = now - preference
    return cost


def _valid_only(rate: Array, picked: Indices, latency: Latency) -> Array:
    """The rates with those of swaps infinite that would leave a node or an input of a cell dead."""
    zero = latency.blocks.zero
    if zero is not None:
        rate[..., zero] = np.where(latency.blocks.needed(picked), np.inf, rate[..., zero])
    return rate


def _swap(picked: Indices, rows: Indices, rate: Array) -> Flags:
    """Make the swap of least finite rate in each row, in place; which rows had one."""
    flat = rate.reshape(len(rows), rate.shape[1] * rate.shape[2])
    at = flat.argmin(axis=1)
    possible: Flags = np.isfinite(flat[np.arange(len(rows)), at])
    decision, operator = np.divmod(at, rate.shape[2])
    picked[rows[possible], decision[possible]] = operator[possible]
    return possible
