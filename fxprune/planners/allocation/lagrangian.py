"""Lagrangian: the best widths at fixed prices, with prices taken anew around them until nothing improves; exchanges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fxprune.plan.plan import Ints
from fxprune.planners.allocation.knapsack import Ladder
from fxprune.planners.allocation.price import Floats

_LOOKS = 10
"""How often prices are taken anew at most."""
_HALVINGS = 60
"""Of the interval of λ."""


def settled(ladder: Ladder, cost: Callable[[Ints], Any], state: Ints) -> Ints:
    """A state within the budget that is worth at least as much.

    At a state every unit has a price list: the cost of the model with that unit at each of its widths and all others as
    they are. For one λ each unit then chooses by itself, exactly; the smallest λ whose choices together cost at most 1
    gives the next state. The search ends where a state is worth no more than the one before.

    Args:
        ladder: the allowed widths and their worth.
        cost: of widths in parts, of shape (units,) or (units, n), as a part of the budget.
        state: a state that costs at most 1.
    """
    for _ in range(_LOOKS):
        found = _choice(ladder, cost, _price_lists(ladder, cost, state))
        if found is None or float(ladder.value(found)) <= float(ladder.value(state)) + 1e-12:
            break
        state = found
    return state


def exchanged(ladder: Ladder, cost: Callable[[Ints], Any], state: Ints) -> Ints:
    """A state within the budget that no exchange improves, in which one unit grows as another one shrinks."""
    columns = len(_STEPS) * len(state) ** 2
    for _ in range(min(_ROUNDS, _EVALUATIONS // max(columns, 1))):
        states = np.concatenate([_moved(ladder, state, up, down) for up, down in _STEPS], axis=1)
        states = states[:, np.asarray(cost(ladder.parts(states))) <= 1]
        if not states.shape[1]:
            break
        values = ladder.value(states)
        if values.max() <= float(ladder.value(state)) + 1e-12:
            break
        state = states[:, int(np.argmax(values))]
    return state


_STEPS = ((1, 1), (1, 2), (2, 1), (1, 3), (3, 1), (1, 0))
"""Levels that one unit grows, and another one shrinks."""
_ROUNDS = 100
_EVALUATIONS = 200_000
"""Costs that are computed at most."""


def _moved(ladder: Ladder, state: Ints, up: int, down: int) -> Ints:
    """All states in which one unit is `up` levels higher and another one `down` levels lower, of shape (units, n)."""
    grows, shrinks = np.nonzero((state + up <= ladder.top)[:, None] & (state >= down)[None])
    apart = grows != shrinks
    states = np.repeat(state[:, None], int(apart.sum()), axis=1)
    each = np.arange(states.shape[1])
    states[grows[apart], each] += up
    states[shrinks[apart], each] -= down
    return states


def _price_lists(ladder: Ladder, cost: Callable[[Ints], Any], state: Ints) -> list[Floats]:
    """For each unit, the cost at each of its levels while all others stay at the state."""
    parts = ladder.parts(state)
    lists = []
    for unit, widths in enumerate(ladder.widths):
        columns = np.repeat(parts[:, None], len(widths), axis=1)
        columns[unit] = widths
        lists.append(np.asarray(cost(columns)))
    return lists


def _choice(ladder: Ladder, cost: Callable[[Ints], Any], prices: Sequence[Floats]) -> Ints | None:
    """The choices of the smallest λ whose widths cost at most 1; None: those of no λ do."""

    def at(price: float) -> Ints:
        return np.array([np.argmax(v - price * p) for v, p in zip(ladder.values, prices, strict=True)], dtype=np.int64)

    def pays(state: Ints) -> bool:
        return float(cost(ladder.parts(state))) <= 1

    low, high = 1e-12, 1e12
    if not pays(at(high)):
        return None
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if pays(at(middle)) else (middle, high)
    return at(high)


def convex(widths: Ints, values: Floats) -> Floats:
    """The least concave function above the values: what a mixture of widths would be worth.

    >>> convex(np.array([1, 2, 3, 4]), np.array([0.0, 0.0, 4.0, 5.0]))
    array([0., 2., 4., 5.])
    """
    corners = [0]
    while corners[-1] < len(widths) - 1:
        here = corners[-1]
        slopes = (values[here + 1 :] - values[here]) / (widths[here + 1 :] - widths[here])
        corners.append(here + 1 + int(np.argmax(slopes)))
    return np.interp(widths, widths[corners], values[corners])
