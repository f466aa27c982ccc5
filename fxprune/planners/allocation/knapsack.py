"""Knapsack: the widths of most worth that a budget can hold, on the exact cost model.

The cost is a sum of products of widths. The problem is not a linear knapsack: the cost of a channel depends on the
other widths. The greedy search runs in rounds. In each, every unit has a price per part: its exact saving from the
present width down to its smallest one, over the parts between them. The steps of smallest worth per saving go
first, until a small part of the cost is saved; then the prices are taken anew. What is left of the budget at the end is
spent on steps that still fit, and where that leaves more than the tolerance, combinations of neighbouring widths and
exchanges between two units are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fxprune.plan.plan import Ints
from fxprune.planners.allocation.units import Unit

Floats = npt.NDArray[np.float64]
CostOf = Callable[[Ints], Floats]
_ROUND = 0.02  # part of the full cost that is saved between two looks at the prices
_NOTHING = 1e-12  # a share of importance that stands for none
_COMBINATIONS = 20_000  # neighbouring widths that are tried together
_ROUNDS = 4  # of trying them, each from the best of the round before
_LESS = 0.05  # part of its share of importance, or of its width, that each layer may lose so that the budget is spent
_BLOCK = 2**20  # levels whose costs are computed at once, 8 MB an array


@dataclass(frozen=True, eq=False)
class Ladder:
    """The allowed widths of all units and what each is worth; a state is one level of each unit, of shape (units,).

    Attributes:
        widths: allowed widths of each unit in parts, ascending.
        values: what a unit is worth at each of them.
        layers: how often a share of importance counts, all units together.
    """

    widths: tuple[Ints, ...]
    values: tuple[Floats, ...]
    layers: float = 0.0

    @classmethod
    def of(cls, units: Sequence[Unit], scores: Sequence[Sequence[Floats]], weights: Sequence[float]) -> Ladder:
        """Worth is the logarithm of the kept share of importance.

        Args:
            units: what is decided.
            scores: of each unit's groups, of shape (channels,), at least zero.
            weights: of each unit: its logarithm counts so often.
        """
        values = []
        for unit, members, weight in zip(units, scores, weights, strict=True):
            shares = [np.concatenate([[0.0], np.cumsum(np.sort(s)[::-1])]) for s in members]
            kept = sum(t[k[unit.allowed]] / t[-1] for t, k in zip(shares, unit.kept, strict=True)) / len(members)
            values.append(weight * np.log(np.maximum(kept, _NOTHING)))
        return cls(tuple(u.allowed for u in units), tuple(values), sum(weights))

    def around(self, state: Ints) -> Ladder:
        """The same widths, worth the less the farther they are from those of a state, as a part of the full ones."""
        here = self.parts(state)
        values = tuple(-np.abs(w - n) / w[-1] for w, n in zip(self.widths, here, strict=True))
        return Ladder(self.widths, values, 3.0 * len(values))

    @property
    def top(self) -> Ints:
        """The state in which everything stays."""
        return np.array([len(w) - 1 for w in self.widths], dtype=np.int64)

    def parts(self, state: Ints) -> Ints:
        """Widths of a state, of shape (units,), or of n states of shape (units, n)."""
        return np.stack([w[level] for w, level in zip(self.widths, state, strict=True)]) if self.widths else state

    def value(self, state: Ints) -> Floats:
        """What a state is worth: the sum over units; one number, or (n,) for n states of shape (units, n)."""
        return np.asarray(sum(v[level] for v, level in zip(self.values, state, strict=True)))


def fill(ladder: Ladder, cost: CostOf, limit: float, tolerance: float, state: Ints | None = None) -> Ints:
    """Widths that cost at most `limit`, and within `tolerance` of it where the widths allow.

    Args:
        ladder: the allowed widths and their worth.
        cost: of widths in parts, of shape (units,) or (units, n).
        limit: at least the cost of the smallest widths.
        tolerance: part of the limit that may stay unused before combinations of neighbouring widths are tried.
        state: where to start from, if it fits, and to stay near to; default is to remove greedily from the full widths.

    Returns:
        A level of each unit, of shape (units,).
    """
    found = _added(ladder, cost, limit, _removed(ladder, cost, limit) if state is None else state)
    if float(cost(ladder.parts(found))) >= (1 - tolerance) * limit:
        return found
    if state is None:
        return _polished(ladder, cost, limit, tolerance, found)
    nearer = _polished(ladder.around(found), cost, limit, tolerance, found)
    return nearer if float(cost(ladder.parts(nearer))) >= (1 - tolerance) * limit else found


def _removed(ladder: Ladder, cost: CostOf, limit: float) -> Ints:
    """Greedy removal from the full widths until the cost is at most the limit."""
    steps = _Steps(ladder)
    state = ladder.top
    full = now = float(cost(ladder.parts(state)))
    while now > limit and state.any():
        order = steps.cheapest_first(state, _savings(ladder, cost, state, now))
        goal = max(limit, now - _ROUND * full)
        fewest, most = 0, len(order)  # steps removed: too few, enough
        while most - fewest > 1:
            middle = (fewest + most) // 2
            enough = float(cost(ladder.parts(steps.without(state, order[:middle])))) <= goal
            fewest, most = (fewest, middle) if enough else (middle, most)
        state = steps.without(state, order[:most])
        now = float(cost(ladder.parts(state)))
    return state


def _savings(ladder: Ladder, cost: CostOf, state: Ints, now: float) -> Floats:
    """Cost saved per part of each unit, on the way from its width down to its smallest, of shape (units,)."""
    parts = ladder.parts(state)
    smallest = np.array([w[0] for w in ladder.widths])
    alone = np.where(np.eye(len(state), dtype=bool), smallest[:, None], parts[:, None])
    return (now - cost(alone)) / np.maximum(parts - smallest, 1)


class _Steps:
    """All steps down of all units in flat arrays: from level j to j - 1 of a unit."""

    def __init__(self, ladder: Ladder) -> None:
        falling = [np.arange(len(w) - 1, 0, -1) for w in ladder.widths]
        self._unit = np.repeat(np.arange(len(falling)), [len(f) for f in falling])
        self._level = np.concatenate(falling) if falling else np.zeros(0, dtype=np.int64)
        pairs = zip(ladder.values, ladder.widths, falling, strict=True)
        density = [(v[f] - v[f - 1]) / (w[f] - w[f - 1]) for v, w, f in pairs]
        self._density = np.concatenate(density) if density else np.zeros(0)

    def cheapest_first(self, state: Ints, savings: Floats) -> Ints:
        """Indices of the steps that a state still has, those of smallest worth per saving first.

        Within a unit the worth of a step rises from the top level down, so that its steps come in their order.
        """
        left = np.flatnonzero(self._level <= state[self._unit])
        saved = savings[self._unit[left]]
        with np.errstate(divide="ignore", invalid="ignore"):
            # What saves nothing stays as long as anything else can go.
            ratio = np.where(saved > 0, self._density[left] / saved, np.inf)
        return left[np.argsort(ratio, kind="stable")]

    def without(self, state: Ints, removed: Ints) -> Ints:
        return state - np.bincount(self._unit[removed], minlength=len(state))


def _added(ladder: Ladder, cost: CostOf, limit: float, state: Ints) -> Ints:
    """Take back, one after another, the step of most worth per cost of those that still fit."""
    while True:
        up = np.flatnonzero(state < ladder.top)
        higher = state[:, None] + (np.arange(len(state))[:, None] == up)
        costs = cost(ladder.parts(higher)) if len(up) else np.zeros(0)
        fits = np.flatnonzero(costs <= limit)
        if not len(fits):
            return state
        gain = ladder.value(higher[:, fits]) - ladder.value(state)
        extra = costs[fits] - float(cost(ladder.parts(state)))
        state = higher[:, fits[np.argmax(gain / np.maximum(extra, 1e-12))]]


def _polished(ladder: Ladder, cost: CostOf, limit: float, tolerance: float, state: Ints) -> Ints:
    """A state within the tolerance of the limit, or else the nearest below it that was found.

    Each round tries, from the best state of the round before, all combinations of neighbouring widths of a few units,
    and all exchanges in which one unit grows as another one shrinks. The last round brings nothing, comes within the
    tolerance of the limit, or is the fourth. To come there a state may be worth less than the given one by `_LESS`, and
    not by more: a part of the budget that is left is better than widths that spend it on the wrong channels.
    """
    least = float(ladder.value(state)) - _LESS * ladder.layers
    for _ in range(_ROUNDS):
        before, state = state, _best_neighbour(ladder, cost, limit, tolerance, state, least)
        if np.array_equal(state, before) or float(cost(ladder.parts(state))) >= (1 - tolerance) * limit:
            break
    return state


def _best_neighbour(ladder: Ladder, cost: CostOf, limit: float, tolerance: float, state: Ints, least: float) -> Ints:
    """Of the combinations that are worth `least`, the one of most worth within the tolerance; if there is none, the one
    of largest cost below the limit.
    """
    order = _finest_first(ladder, cost, limit, state)
    tried = np.concatenate([_combinations(ladder, order, state), _exchanges(ladder, order, state)], axis=1)
    costs = np.concatenate([cost(ladder.parts(part)) for part in _blocks(tried)])
    worth = ladder.value(tried)
    below = np.flatnonzero((costs <= limit) & (worth >= least))
    near = below[costs[below] >= (1 - tolerance) * limit]
    return tried[:, near[np.argmax(worth[near])] if len(near) else below[np.lexsort((worth[below], costs[below]))[-1]]]


def _blocks(states: Ints) -> list[Ints]:
    """The states in parts whose costs take little memory at once."""
    return list(np.array_split(states, max(1, states.size // _BLOCK), axis=1))


def _combinations(ladder: Ladder, order: Ints, state: Ints) -> Ints:
    """Combinations of levels around a state, of shape (units, n); all there are, where there are few."""
    low, high = _bounds(ladder, order, state)
    varied = np.flatnonzero(high > low)  # few, as each of them at least doubles the combinations
    grid = np.meshgrid(*[np.arange(low[u], high[u] + 1) for u in varied], indexing="ij")
    states = np.repeat(state[:, None], grid[0].size if grid else 1, axis=1)
    for unit, axis in zip(varied, grid, strict=True):
        states[unit] = axis.ravel()
    return states


def _exchanges(ladder: Ladder, order: Ints, state: Ints) -> Ints:
    """The states in which one unit is a level higher and another one a level lower, of shape (units, n)."""
    first = order[: int(_COMBINATIONS**0.5)]
    up, down = (first[k] for k in np.nonzero((state < ladder.top)[first, None] & (state > 0)[first]))
    states = np.repeat(state[:, None], len(up), axis=1)
    each = np.arange(len(up))
    states[up, each] += 1
    states[down, each] -= 1
    return states


def _bounds(ladder: Ladder, order: Ints, state: Ints) -> tuple[Ints, Ints]:
    """The lowest and highest level of each unit that `_COMBINATIONS` allows, the finest units first."""
    low, high = state.copy(), state.copy()
    grows = True
    while grows:
        grows = False
        for unit in order:
            for bound, new in ((high, min(high[unit] + 1, ladder.top[unit])), (low, max(low[unit] - 1, 0))):
                before, bound[unit] = bound[unit], new
                if np.prod(high - low + 1.0) > _COMBINATIONS:
                    bound[unit] = before
                grows |= bool(bound[unit] != before)
    return low, high


def _finest_first(ladder: Ladder, cost: CostOf, limit: float, state: Ints) -> Ints:
    """Units by what one step of them costs: those that can close the gap come before those that are too coarse."""
    now = float(cost(ladder.parts(state)))
    steps = np.where(state < ladder.top, 1, -1)
    moved = state[:, None] + np.diag(np.where(ladder.top > 0, steps, 0))
    return np.argsort(np.abs(np.abs(cost(ladder.parts(moved)) - now) - (limit - now)), kind="stable")
