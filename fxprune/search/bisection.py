"""Bisection: the smallest model that loses at most a given part of its accuracy, found automatically."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fxprune.costs.macs import Cost
from fxprune.errors import check_flag, check_kind, check_number, check_seed
from fxprune.plan.plan import Plan
from fxprune.planners.allocation.constraints import UNCONSTRAINED, Constraints, check_constraints
from fxprune.planners.allocation.price import Measure, check_measure
from fxprune.planners.budget import Budget, Planner, check_family
from fxprune.planners.contribution import CumulativeContribution
from fxprune.search.acceptance import PLAIN, ROBUST, Acceptance, Decision, confirm, decide
from fxprune.search.driver import Driver, Progressed
from fxprune.search.evaluator import Evaluator
from fxprune.search.result import Search


@dataclass(frozen=True)
class Probe:
    """One model that the search decided on.

    Attributes:
        rate: the family's number; for the default family the cumulative contribution rate.
        score: the value of `evaluate` after tuning; the mean over repeats.
        accepted: whether it was good enough.
        cost: its MACs and parameters.
        error: standard error of its loss, if known.
        repeats: how often it was tuned and evaluated.
    """

    rate: float
    score: float
    accepted: bool
    cost: Cost
    error: float | None = None
    repeats: int = 1


@dataclass(frozen=True)
class Bisection(Driver[Probe]):
    """Bisect a family of planners to the smallest model that is good enough.

    The interval (0, 1] is halved until it is no longer than `precision`; each probe prunes the original at the middle,
    tunes it, and goes on below if `evaluate(probe) + tolerance >= evaluate(original)`, else above. Rates that lead to
    an architecture already tried are decided without trying it again.
    Source: Huang (master's thesis, USTB 2023), with the tuning inside the loop that the thesis describes in words.

    Noise near the tolerance flips decisions, and the smallest accepted model is the one that was luckiest. With
    `acceptance=ROBUST`, near decisions are repeated under other seeds, and the winner is verified, which takes several
    times as many tunings.

    Attributes:
        tolerance: how much of the original's value may be lost, in the unit of `evaluate`.
        precision: where to stop; 0.01 takes 7 probes at most, 0.1 takes 4.
        progress: show a progress bar.
        family: a number in (0, 1) to a planner; a smaller number must give a smaller model.
        acceptance: how carefully to decide.
        seed: of the tunings.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 20), torch.nn.ReLU(), torch.nn.Linear(20, 2))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 4)))
    >>> quality = lambda model: 1.0 if model[0].out_features >= 9 else 0.5  # stands for an accuracy
    >>> found = fxprune.search.Bisection(progress=False)(net, groups, quality)
    >>> found.model[0].out_features, len(found.history) <= 7
    (9, True)
    """

    tolerance: float = 0.01
    precision: float = 0.01
    progress: bool = True
    family: Callable[[float], Planner] = CumulativeContribution
    acceptance: Acceptance = PLAIN
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("the tolerance", self.tolerance, "[0, inf)", "give how much may be lost, such as 0.01")
        check_number("the precision", self.precision, "[1e-12, 1)", "0.01 takes 7 probes at most, 0.1 takes 4")
        check_flag("progress", self.progress)
        check_family(self.family)
        check_kind("acceptance", self.acceptance, Acceptance, "give search.PLAIN, search.ROBUST or an Acceptance(...)")
        check_seed(self.seed, least=0)

    def steps(self, evaluator: Evaluator[Any]) -> Iterator[Progressed[Probe]]:
        task = evaluator.task
        scores, most = task.scores(), self.probes_at_most()
        for n, probe in enumerate(self.probes(evaluator, lambda rate: self.family(rate)(task.groups, scores)), 1):
            yield Progressed(probe, min(1.0, n / most), f"rate {probe.rate:.3f}: {probe.score:.4f}")

    def probes_at_most(self) -> int:
        """Number of probes, at most; verifications come on top."""
        width, n = 1.0, 0
        while width > self.precision:
            width, n = width / 2, n + 1
        return n

    def probes(self, evaluator: Evaluator[Any], plan_at: Callable[[float], Plan]) -> Iterator[Probe]:
        """The search itself: asks `evaluator` for candidates, notes its best one there, and yields each probe.

        Args:
            evaluator: makes and judges candidates.
            plan_at: the plan for a rate.
        """
        evaluator.baseline()
        low, high = 0.0, 1.0
        tried: dict[tuple[int, ...], Decision] = {}
        accepted: dict[float, Decision] = {}
        while high - low > self.precision:
            rate = (low + high) / 2
            plan = plan_at(rate)
            widths = tuple(plan.kept_counts().values())
            if widths not in tried:
                decision = tried[widths] = decide(evaluator, plan, self.tolerance, self.acceptance)
                if decision.accepted:
                    accepted[rate] = decision
                _keep(evaluator, accepted)
                yield self._probe(evaluator, rate, decision)
            low, high = (low, rate) if tried[widths].accepted else (rate, high)
        yield from self._verified(evaluator, accepted)

    def _verified(self, evaluator: Evaluator[Any], accepted: dict[float, Decision]) -> Iterator[Probe]:
        """Verify the winner; if it fails, verify the next larger model that was accepted."""
        if not self.acceptance.verify or evaluator.deterministic:
            return
        for rate in sorted(accepted):
            decision = confirm(evaluator, accepted[rate].candidates[0].plan, self.tolerance, self.acceptance)
            if decision.accepted:
                accepted[rate] = decision
            else:
                del accepted[rate]
            _keep(evaluator, accepted)
            yield self._probe(evaluator, rate, decision)
            if decision.accepted:
                return

    @staticmethod
    def _probe(evaluator: Evaluator[Any], rate: float, decision: Decision) -> Probe:
        cost = evaluator.cost(decision.candidates[0].plan)
        return Probe(rate, decision.score, decision.accepted, cost, decision.error, len(decision.candidates))


def _keep(evaluator: Evaluator[Any], accepted: Mapping[float, Decision]) -> None:
    """The fittest repeat of each accepted model can still win; that of the smallest is the best so far."""
    fittest = {rate: decision.candidates[0] for rate, decision in accepted.items()}
    evaluator.keep((c.key for c in fittest.values()), fittest[min(fittest)] if fittest else evaluator.original)


def fastest(
    measure: Measure,
    tolerance: float = 0.01,
    *,
    constraints: Constraints = UNCONSTRAINED,
    precision: float = 0.01,
    acceptance: Acceptance = ROBUST,
    seed: int = 0,
    progress: bool = True,
) -> Bisection:
    """The search for the fastest model that loses at most `tolerance`: `Budget` is bisected on its part.

    Args:
        measure: what is minimised: "macs", "parameters", or a latency as a function of {group: kept channels}.
        tolerance: how much of the original's value may be lost, in the unit of `evaluate`.
        constraints: which widths are allowed.
        precision: in parts of the original's cost.
        acceptance: how carefully to decide.
        seed: of the tunings.
        progress: show a progress bar.

    >>> import fxprune
    >>> search = fxprune.search.fastest("macs", 0.01)
    >>> search.family(0.25).keep
    0.25
    """
    check_measure(measure)
    check_constraints(constraints)
    family = partial(Budget, measure=measure, constraints=constraints, tolerance=1 - 1e-9, strict=False)
    return Bisection(tolerance, precision, progress, family=family, acceptance=acceptance, seed=seed)


def surprises(found: Search[Any, Probe], tolerance: float) -> str:
    """What a caller should hear of a search: that nothing was good enough, or that nothing could have been too bad.

    Args:
        found: what the search has found.
        tolerance: how much of the original's value was to be lost at most.
    """
    nan = sum(math.isnan(probe.score) for probe in found.history)
    if nan:
        return f"evaluate gave NaN for {nan} of {len(found.history)} candidates, which counts as too low"
    if not found.plan.cuts():
        return f"nothing was removed: no candidate was smaller and lost at most {tolerance:g} of {found.baseline:g}"
    if 0 <= found.baseline <= tolerance and all(probe.score >= 0 for probe in found.history):
        allowed = f"a loss of {tolerance:g} also allows for a value of 0"
        return f"{allowed}, since the original's value is {found.baseline:g}: max_drop= is in evaluate's unit"
    return ""
