"""Widths from error curves: the smallest sum of errors that one or several budgets allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from fxprune.analysis.groups import Groups
from fxprune.errors import InputError, check_called, check_kind, check_number
from fxprune.plan.plan import Ints, Plan
from fxprune.planners.allocation.choose import keep_best
from fxprune.planners.allocation.constraints import UNCONSTRAINED, Constraints, check_constraints
from fxprune.planners.allocation.knapsack import Ladder, fill
from fxprune.planners.allocation.lagrangian import convex, exchanged, settled
from fxprune.planners.allocation.price import Floats, Measure, Price, check_measure
from fxprune.planners.allocation.units import Unit
from fxprune.planners.budget import check_budget
from fxprune.scorers.base import check_scores
from fxprune.scorers.joint_elimination import ErrorCurve


@dataclass(frozen=True)
class Limit:
    """What a pruned model may cost.

    Attributes:
        keep: part of the original's cost, in (0, 1]; or
        at_most: the cost itself, in the units of the measure.
        measure: as in `Budget`.

    Raises:
        InputError: neither or both are given, or one is out of range.

    >>> from fxprune.planners import Limit
    >>> Limit(0.25), Limit(at_most=1e6, measure="parameters")
    (Limit(keep=0.25, at_most=None, measure='macs'), Limit(keep=None, at_most=1000000.0, measure='parameters'))
    """

    keep: float | None = None
    at_most: float | None = None
    measure: Measure = "macs"

    def __post_init__(self) -> None:
        if (self.keep is None) == (self.at_most is None):
            seen = f"keep={self.keep}, at_most={self.at_most}"
            raise InputError("a limit is either a part or an amount", seen=seen, remedy="give keep or at_most")
        if self.keep is not None:
            check_budget(self.keep, 0)
        if self.at_most is not None:
            check_number("at_most", self.at_most, "(0, inf)", "give it in the units of the measure")
        check_measure(self.measure)

    def amount(self, full: float) -> float:
        """The most that may be spent where the original costs `full`."""
        most = self.keep * full if self.keep is not None else self.at_most
        assert most is not None, "one of them is given"
        return most * (1 + 1e-12)  # absorbs the rounding of the product


@dataclass(frozen=True)
class ErrorCurves:
    """The widths of smallest Σ_g a_g · e_g(w_g) within one or several budgets.

    e_g(w) is the error that the readers of group g make when w of its channels stay, and a_g says how much such an
    error counts. Widths are found greedily, at prices from the exact cost model that are taken anew as the widths
    shrink; then, at the prices around the widths found, the exact optimum of Σ a_g·e_g + λ·cost is taken, again and
    again, as long as the sum of errors falls; last, channels are exchanged between two groups while that helps. With
    several budgets the cost is that of the one that is used up most.
    Sources: ZipLM (Kurtic et al., NeurIPS 2023) and SPDY (Frantar and Alistarh, ICML 2022) for widths from layer-wise
    errors under a budget; groups, products of widths and several budgets are fxprune's own.

    Attributes:
        limits: part of the original's MACs that may stay; or a `Limit`; or several, which all hold.
        weights: a_g by group; 1 where none is given. See `output_sensitivity`.
        curve: scores of a group, of shape (channels,), to its error curve. `ErrorCurve.of_errors` is for scores that
            are errors already, as those of `scorers.JointElimination` and `scorers.ThiNet` are; `ErrorCurve.of_scores`
            adds up the scores of others.
        constraints: which widths are allowed.

    Raises:
        InputError: a value out of range, unusable scores, a weight for no group, or a budget below the smallest
            allowed widths.

    >>> import torch, fxprune
    >>> from fxprune.planners import ErrorCurves, Limit
    >>> net = torch.nn.Sequential(*[torch.nn.Linear(10, 10, bias=False) for _ in range(3)])
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 10)))
    >>> cheap = torch.cat([torch.full((5,), 1e-6), torch.ones(5)])  # five channels that nobody misses
    >>> ErrorCurves(0.5)(groups, {"0": cheap, "1": torch.ones(10)}).kept_counts()
    {'0': 5, '1': 6}
    """

    limits: float | Limit | tuple[Limit, ...] = 0.5
    weights: Mapping[str, float] = field(default_factory=dict)
    curve: Callable[[Tensor], ErrorCurve] = ErrorCurve.of_errors
    constraints: Constraints = UNCONSTRAINED

    def __post_init__(self) -> None:
        if not self._limits():
            raise InputError("no budget", seen="()", remedy="give a part of the MACs, or Limit(...)")
        check_kind("the weights", self.weights, Mapping, "give {group: how much its errors count}")
        for name, weight in self.weights.items():
            check_number(f"the weight of {name}", weight, "[0, inf)", "give how much its errors count; 1 is usual")
        check_called("curve", self.curve, "give a function of scores, such as ErrorCurve.of_errors", arguments=1)
        check_constraints(self.constraints)

    def _limits(self) -> tuple[Limit, ...]:
        limits: Any = self.limits
        if isinstance(limits, Limit):
            return (limits,)
        several = tuple(limits) if isinstance(limits, tuple | list) else (Limit(limits),)  # which refuses other kinds
        for limit in several:
            check_kind("a limit", limit, Limit, "give a part of the MACs, or Limit(...)")
        return several

    def __call__(self, groups: Groups, scores: Mapping[str, Tensor]) -> Plan:
        check_scores(scores, groups)
        names = {g.name for g in groups}
        for name in self.weights:
            if name not in names:
                raise InputError("a weight for no prunable group", seen=name, remedy="weights={group name: weight}")
        units = self.constraints.units(groups)
        errors = [sum(self._errors(scores[name], name, unit) for name in unit.names) for unit in units]
        widths = tuple(u.allowed for u in units)
        exact = Ladder(widths, tuple(-np.asarray(e) for e in errors))
        hulls = Ladder(widths, tuple(convex(w, v) for w, v in zip(widths, exact.values, strict=True)))
        cost = _spent(groups, units, self._limits(), hulls.parts(hulls.top))
        _check_reachable(cost, units)
        state = settled(exact, cost, fill(hulls, cost, 1.0, tolerance=1.0))
        parts = exact.parts(exchanged(exact, cost, fill(exact, cost, 1.0, tolerance=1.0, state=state)))
        counts = {n: c for unit, p in zip(units, parts, strict=True) for n, c in unit.counts(p).items()}
        return keep_best(groups, scores, counts)

    def _errors(self, scores: Tensor, name: str, unit: Unit) -> Floats:
        """a_g · e_g of a group at the allowed widths of its unit."""
        curve = self.curve(scores)
        kept = unit.kept[unit.names.index(name)][unit.allowed]
        return self.weights.get(name, 1.0) * curve.errors[len(curve.order) - kept]


def _spent(groups: Groups, units: Sequence[Unit], limits: Sequence[Limit], full: Ints) -> Callable[[Ints], Any]:
    """The part of its budget that widths spend, of the budget that is used up most."""
    prices = [Price(groups, units, limit.measure) for limit in limits]
    amounts = [limit.amount(float(price(full))) for limit, price in zip(limits, prices, strict=True)]

    def spent(parts: Ints) -> Any:
        return np.max([price(parts) / amount for price, amount in zip(prices, amounts, strict=True)], axis=0)

    return spent


def _check_reachable(cost: Callable[[Ints], Any], units: Sequence[Unit]) -> None:
    least = float(cost(np.array([u.allowed[0] for u in units], dtype=np.int64)))
    if least > 1:
        seen = f"the smallest widths cost {least:.2f} times the budget"
        remedy = "a larger budget, looser constraints, or fewer ignored groups"
        raise InputError("the budget cannot be reached", seen=seen, remedy=remedy)
