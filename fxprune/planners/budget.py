"""Budgets: the widths that a given part of the MACs, the parameters or the latency can pay for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fxprune.analysis.grouping.components import Group
from fxprune.analysis.groups import Groups
from fxprune.errors import InputError, check_called, check_flag, check_number
from fxprune.plan.plan import Ints, Plan
from fxprune.planners.allocation.choose import as_array, keep_best
from fxprune.planners.allocation.constraints import UNCONSTRAINED, Constraints, check_constraints
from fxprune.planners.allocation.knapsack import Ladder, fill
from fxprune.planners.allocation.price import Floats, Measure, Price, check_measure
from fxprune.scorers.base import check_scores, share

Planner = Callable[[Groups, Mapping[str, Tensor]], Plan]
UNUSED = "the allowed widths leave"


@dataclass(frozen=True)
class Budget:
    """Keep the channels that are worth most for what they cost, until a part of the original's cost is spent.

    With p_g the share of its importance that group g keeps (its cumulative contribution), and L_g the number of layers
    that make or read its channels, the widths shall be those of largest

        Σ_g L_g · log p_g,   that is Π over layers of the shares that they keep on both sides,   within the budget.

    Channels of smallest worth per cost go first, at prices from the exact cost model that are taken anew as the widths
    shrink: a greedy search, which finds the best widths in most cases, and else some of nearly their worth. The result
    costs at most the budget, and within `tolerance` of it where allowed widths of nearly that worth reach it (5 % less
    of each share at most); where they do not, it is the nearest below that was found, with a warning.
    The product is a choice of fxprune's; with a sum of importances in its place, costly groups lose nearly everything.

    Attributes:
        keep: part of the original's cost that may stay, in (0, 1].
        measure: what is counted: "macs", "parameters", or a function of {group: kept channels}, such as a latency. It
            should not fall when a count rises; where it does here and there, the plan still meets the budget but may
            not be the best one. If it is a staircase, give its step as `round_to`.
        constraints: which widths are allowed.
        tolerance: part of the budget that may stay unused without a warning.
        strict: refuse a budget below the smallest allowed widths; else these are taken.

    Raises:
        InputError: a value out of range, unusable scores, or a budget below the smallest allowed widths.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(*[torch.nn.Linear(100, 100) for _ in range(3)])
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 100)))
    >>> plan = fxprune.planners.Budget(0.5)(groups, fxprune.scorers.L2Norm()(net, groups))
    >>> fxprune.cost(groups).macs, 14_850 <= fxprune.cost(groups, plan).macs <= 15_000
    (30000, True)
    """

    keep: float = 0.5
    measure: Measure = "macs"
    constraints: Constraints = UNCONSTRAINED
    tolerance: float = 0.01
    strict: bool = True

    def __post_init__(self) -> None:
        check_budget(self.keep, self.tolerance)
        check_measure(self.measure)
        check_constraints(self.constraints)
        check_flag("strict", self.strict)

    def __call__(self, groups: Groups, scores: Mapping[str, Tensor]) -> Plan:
        problem = _BudgetProblem(groups, scores, self.measure, self.keep, self.constraints, self.strict)
        return problem.plan(problem.filled(self.tolerance), self.tolerance)


@dataclass(frozen=True)
class AtBudget:
    """The member of a family of planners that spends a given part of the original's cost.

    The family's number is bisected to the largest cost within the budget. Where its steps are too coarse to come within
    `tolerance`, what is left is spent on the channels that are worth most for their cost; where none fits any more, on
    widths nearby, up to 15 % of the full ones away on average, that come within `tolerance`.

    Attributes:
        family: a number in (0, 1) to a planner, such as `Uniform`, `GlobalThreshold` or `CumulativeContribution`; its
            plans' cost must rise or fall with the number.
        keep: part of the original's cost that may stay, in (0, 1].
        measure: as in `Budget`.
        constraints: which widths are allowed; the family's plans are raised to them.
        tolerance: part of the budget that may stay unused.

    Raises:
        InputError: as in `Budget`, or a budget below the smallest plan of the family.

    >>> import torch, fxprune
    >>> from fxprune.planners import AtBudget, Uniform
    >>> net = torch.nn.Sequential(*[torch.nn.Linear(100, 100) for _ in range(3)])
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 100)))
    >>> AtBudget(Uniform, 0.5)(groups, fxprune.scorers.L2Norm()(net, groups)).kept_counts()
    {'0': 58, '1': 58}
    """

    family: Callable[[float], Planner]
    keep: float = 0.5
    measure: Measure = "macs"
    constraints: Constraints = UNCONSTRAINED
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        check_family(self.family)
        check_budget(self.keep, self.tolerance)
        check_measure(self.measure)
        check_constraints(self.constraints)

    def __call__(self, groups: Groups, scores: Mapping[str, Tensor]) -> Plan:
        def counts(number: float) -> Mapping[str, int]:
            return self.family(number)(groups, scores).kept_counts()

        problem = _BudgetProblem(groups, scores, self.measure, self.keep, self.constraints)
        return problem.plan(problem.bisected(counts, self.tolerance), self.tolerance)


def scaled_to_budget(
    groups: Groups,
    scores: Mapping[str, Tensor],
    counts: Callable[[float], Mapping[str, int]],
    *,
    keep: float,
    measure: Measure,
    constraints: Constraints,
    tolerance: float,
) -> Plan:
    """What `AtBudget` does, for a family that is known by its counts: a number in (0, 1) to {group: kept channels}.

    The forty members that the bisection looks at take no plan each.
    """
    problem = _BudgetProblem(groups, scores, measure, keep, constraints)
    return problem.plan(problem.bisected(counts, tolerance), tolerance)


_EDGE = 1e-9
_HALVINGS = 40


def check_budget(keep: object, tolerance: object) -> None:
    """Refuse a part outside (0, 1] and a tolerance outside [0, 1).

    Raises:
        InputError: one is.
    """
    check_number("the part of the original's cost that may stay", keep, "(0, 1]", "0.5 keeps half")
    check_number("the tolerance", tolerance, "[0, 1)", "0.01 is usual")


def check_family(family: object) -> None:
    """Refuse what makes no planner of a number.

    Raises:
        InputError: it is no function, or not one of a number.
    """
    check_called("the family", family, "give a number to a planner, such as planners.Uniform", arguments=1)


class _BudgetProblem:
    """What may be spent, and on what: the units of a model, their prices, their worth and the limit."""

    def __init__(
        self,
        groups: Groups,
        scores: Mapping[str, Tensor],
        measure: Measure,
        keep: float,
        constraints: Constraints,
        strict: bool = True,
    ) -> None:
        check_scores(scores, groups)
        self._groups, self._scores = groups, scores
        self.units = constraints.units(groups)
        values = [[_importance(scores[name]) for name in unit.names] for unit in self.units]
        layers = [sum(len(_layers(groups[name])) for name in unit.names) / len(unit.names) for unit in self.units]
        self._ladder = Ladder.of(self.units, values, layers)
        self.cost = Price(groups, self.units, measure)
        self._full = float(self.cost(self._ladder.parts(self._ladder.top)))
        self._limit = keep * self._full * (1 + 1e-12)  # absorbs the rounding of the product
        least = float(self.cost(np.array([u.allowed[0] for u in self.units], dtype=np.int64)))
        if least > self._limit and strict:
            raise self.unreachable(least)
        self._limit = max(self._limit, least)

    def pays(self, parts: Ints) -> bool:
        return float(self.cost(parts)) <= self._limit

    def raised(self, counts: Mapping[str, int]) -> Ints:
        """The allowed widths of the units above the counts of their groups."""
        return np.array([u.raised(counts) for u in self.units], dtype=np.int64)

    def filled(self, tolerance: float) -> Ints:
        """The widths of most worth within the budget."""
        return self._ladder.parts(fill(self._ladder, self.cost, self._limit, tolerance))

    def bisected(self, counts: Callable[[float], Mapping[str, int]], tolerance: float) -> Ints:
        """The widths of largest cost within the budget of a family whose cost rises or falls with its number."""

        def parts(number: float) -> Ints:
            return self.raised(counts(number))

        ends = [parts(_EDGE), parts(1 - _EDGE)]
        cheap, dear = (_EDGE, 1 - _EDGE) if self.cost(ends[0]) <= self.cost(ends[1]) else (1 - _EDGE, _EDGE)
        if not self.pays(parts(cheap)):
            raise self.unreachable(float(self.cost(parts(cheap))))
        if self.pays(parts(dear)):
            return self.topped_up(parts(dear), tolerance)
        for _ in range(_HALVINGS):
            middle = (cheap + dear) / 2
            cheap, dear = (middle, dear) if self.pays(parts(middle)) else (cheap, middle)
        return self.topped_up(parts(cheap), tolerance)

    def topped_up(self, parts: Ints, tolerance: float) -> Ints:
        """The given widths, or, if they leave more than the tolerance, what comes nearer from there."""
        if float(self.cost(parts)) >= (1 - tolerance) * self._limit:
            return parts
        state = np.array([np.searchsorted(u.allowed, p) for u, p in zip(self.units, parts, strict=True)])
        return self._ladder.parts(fill(self._ladder, self.cost, self._limit, tolerance, state))

    def plan(self, parts: Ints, tolerance: float) -> Plan:
        """The plan of the widths, after a last look at their cost."""
        spent = float(self.cost(parts))
        if spent > self._limit:
            seen = f"{spent:.6g} where {self._limit:.6g} was the limit"
            raise InputError("the measure of cost is not a function of the widths", seen=seen, remedy=_STEADY)
        if spent < (1 - tolerance) * self._limit:
            unused = f"{1 - spent / self._limit:.1%}"
            warnings.warn(f"{UNUSED} {unused} of the budget unused", stacklevel=3)
        counts = {n: c for u, p in zip(self.units, parts, strict=True) for n, c in u.counts(p).items()}
        return keep_best(self._groups, self._scores, counts)

    def unreachable(self, least: float) -> InputError:
        least, limit = least / self._full, self._limit / self._full
        seen = f"the smallest widths cost {least:.2%} of the original, the budget is {limit:.2%}"
        return InputError("the budget cannot be reached", seen=seen, remedy=_LOOSER)


def _importance(scores: Tensor) -> Floats:
    """Shares need scores of at least zero; others are shifted."""
    return as_array(share(scores.detach().double() - min(0.0, float(scores.min()))))


def _layers(group: Group) -> set[str]:
    return {s.tensor for s in (*group.producers, *group.consumers)}


_LOOSER = "a larger part, looser constraints, or fewer ignored groups"
_STEADY = "give a function that answers the same each time it is asked, such as a table of measured latencies"
