"""Progressive pruning: a little of a few layers at a time, those that it hurts least, until the budget is met."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from fxprune.analysis.groups import Groups, find_groups
from fxprune.costs.macs import Cost
from fxprune.errors import InputError
from fxprune.plan.plan import Ints
from fxprune.planners.allocation.choose import best
from fxprune.planners.allocation.constraints import UNCONSTRAINED, Constraints
from fxprune.planners.allocation.price import Measure, Price
from fxprune.planners.allocation.units import Unit
from fxprune.planners.budget import check_budget
from fxprune.reconstruction import reconstruct
from fxprune.scorers.base import Scorer, check_scores
from fxprune.scorers.lasso import Lasso
from fxprune.search.driver import Driver, Progressed
from fxprune.search.evaluator import Evaluator
from fxprune.search.progressive.candidates import Cut, Refitter
from fxprune.search.trial import Candidate
from fxprune.tracing.trace import trace

Scores = Mapping[str, Tensor]


@dataclass(frozen=True)
class Step:
    """One iteration.

    Attributes:
        counts: kept channels of each group after it.
        cost: MACs and parameters after it.
        fitness: the value of `evaluate` after it.
        pruned: the groups that lost channels in it, in execution order.
        key: its checkpoint is `checkpoints/KEY.safetensors` in the search's directory.
    """

    counts: dict[str, int]
    cost: Cost
    fitness: float
    pruned: tuple[str, ...]
    key: str


@dataclass(frozen=True)
class Progressive(Driver[Step]):
    """Attempt, select, prune, until a part of the original's cost is left.

    In each iteration a part of every group is removed for trial, its readers are refitted, and the model is evaluated
    (attempt); the groups whose attempts leave the best models (select; of equals those that save most) lose their
    channels for good, all readers are refitted shallow to deep against the original, and the result is saved (prune).
    The last iteration removes only what is needed. Every iteration is a usable model, so that one search yields a
    family; with `fxprune.add_samplers` residual blocks can drop channels that they read.
    Source: PCP, Guo, Zhang, Ouyang and Xu, Progressive Channel Pruning; the selection and refit by He, Zhang and Sun,
    Channel Pruning, 2017. Not published, choices of fxprune: `step`, `top`, and that an iteration's channels are chosen
    from the model before it.

    Attributes:
        keep: part of the original's cost to come down to, in (0, 1].
        measure: what is counted, as in `Budget`.
        step: part of a group's original width that an attempt removes, at least one channel.
        top: part of the groups that an iteration prunes, at least one group.
        constraints: which widths are allowed.
        refit: changes the remaining weights to make up for the removed channels; None for no refit.
        progress: show a progress bar.
        seed: of the tunings.

    Raises:
        InputError: a value out of range.

    >>> import torch, fxprune
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 20), torch.nn.ReLU(), torch.nn.Linear(20, 2))
    >>> x = torch.randn(64, 4)
    >>> groups = fxprune.find_groups(fxprune.trace(net, x))
    >>> quality = lambda model: -float((model(x) - net(x)).square().mean().detach())
    >>> found = fxprune.search.Progressive(0.5, step=0.2, progress=False)(net, groups, quality, data=[x])
    >>> [step.counts["0"] for step in found.history]
    [16, 12, 10]
    """

    keep: float = 0.5
    measure: Measure = "macs"
    step: float = 0.05
    top: float = 0.25
    constraints: Constraints = UNCONSTRAINED
    refit: Refitter | None = reconstruct
    progress: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_budget(self.keep, 0.0)
        for name in ("step", "top"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name} out of range", seen=str(getattr(self, name)), remedy="give a part in (0, 1]")

    def default_scorer(self) -> Scorer:
        return Lasso()

    def steps(self, evaluator: Evaluator[Any]) -> Iterator[Progressed[Step]]:
        if self.refit is not None and evaluator.task.data is None:
            remedy = "search(..., data=batches), or Progressive(refit=None)"
            raise InputError("a progressive search has no data for its refits", remedy=remedy)
        state = _State(self, evaluator)
        for step in state.steps():
            done = (1.0 - state.left) / max(1.0 - self.keep, 1e-9)
            yield Progressed(step, min(1.0, done), f"{state.left:.1%} of the cost left: {step.fitness:.4f}")


class _State:
    """The state of one search: the present model, and which of the original's channels it has."""

    def __init__(self, settings: Progressive, evaluator: Evaluator[Any]) -> None:
        self.settings, self.evaluator, self.task = settings, evaluator, evaluator.task
        self.units = settings.constraints.units(self.task.groups)
        self.parts = np.array([u.parts for u in self.units], dtype=np.int64)
        self.price = Price(self.task.groups, self.units, settings.measure)
        self.full = float(self.price(self.parts))
        self.kept: dict[str, Ints] = {g.name: np.arange(g.size) for g in self.task.groups}
        self.candidate = evaluator.original
        self._check_target()

    @property
    def left(self) -> float:
        """Part of the original's cost."""
        return float(self.price(self.parts)) / self.full

    def steps(self) -> Iterator[Step]:
        """Iterate until the target is met."""
        self.evaluator.baseline()
        done: list[str] = []
        base = self.task.model
        while self.left > self.settings.keep * (1 + 1e-12):
            groups = self._groups_of(base)
            view = groups.subset([g for g in groups if g.name in self.kept])
            scores = self.task.scorer(base, view, self.task.data)
            check_scores(scores, view)
            chosen = self._selected(base, groups, scores)
            widths, step = self._last_cuts(chosen), len(done)
            name = f"step {step} on {self.candidate.key}"
            self.candidate = self._candidate(base, groups, scores, widths, name, last=True)
            done.append(self.candidate.key)
            (outcome,) = self.evaluator.run([self.candidate])
            base = self.evaluator.made(self.candidate)
            self.evaluator.keep(done, self.candidate)
            self.kept |= {n: g.kept for n, g in self.candidate.plan.groups.items()}
            for i, parts in widths.items():
                self.parts[i] = parts
            pruned = tuple(n for i in widths for n in self.units[i].names)
            plan = self.candidate.plan
            yield Step(plan.kept_counts(), self.evaluator.cost(plan), outcome.fitness, pruned, self.candidate.key)

    def _selected(self, base: nn.Module, groups: Groups, scores: Scores) -> list[int]:
        """The units that an iteration prunes, in execution order: attempt all, take those that it hurts least."""
        narrower = {i: width for i in range(len(self.units)) if (width := self._narrower(i, groups)) is not None}
        if not narrower:
            raise InputError("no group can lose channels any more", seen=f"{self.left:.2%} of the cost are left")
        attempts = [
            self._candidate(base, groups, scores, {i: width}, f"attempt on {self.candidate.key}", last=False)
            for i, width in narrower.items()
        ]
        outcomes = self.evaluator.run(attempts)
        fitness = [-math.inf if math.isnan(o.fitness) else o.fitness for o in outcomes]
        if max(fitness) == -math.inf:
            raise InputError("no attempt's quality is a number", seen="nan", remedy="look at what evaluate returns")
        costs = [float(self.price(self._with({i: width}))) for i, width in narrower.items()]
        order = sorted(range(len(attempts)), key=lambda k: (-fitness[k], costs[k]))
        units = list(narrower)
        return sorted(units[k] for k in order[: math.ceil(self.settings.top * len(self.units))])

    def _last_cuts(self, chosen: Sequence[int]) -> dict[int, int]:
        """New widths of the chosen units, in parts; no more goes than the target asks for."""
        limit, widths = self.settings.keep * self.full * (1 + 1e-12), dict[int, int]()
        for i in chosen:
            allowed = self.units[i].allowed
            lowest = self._next_width(self.units[i], int(self.parts[i]))
            for width in allowed[(allowed >= lowest) & (allowed < self.parts[i])][::-1]:
                widths[i] = int(width)
                if float(self.price(self._with(widths))) <= limit:
                    return widths
        return widths

    def _next_width(self, unit: Unit, parts: int) -> int:
        """The width that an attempt goes down to, in parts; the present one if there is no smaller."""
        wished = parts - max(1, round(self.settings.step * unit.parts))
        below = unit.allowed[unit.allowed <= wished]
        return int(below[-1]) if len(below) else min(parts, int(unit.allowed[0]))

    def _narrower(self, i: int, groups: Groups) -> int | None:
        """As `_next_width`; None where there is none, or where the present model has no such group."""
        unit, parts = self.units[i], int(self.parts[i])
        width = self._next_width(unit, parts)
        return width if width < parts and set(unit.names) <= {g.name for g in groups} else None

    def _with(self, widths: dict[int, int]) -> Ints:
        parts = self.parts.copy()
        parts[list(widths)] = list(widths.values())
        return parts

    def _candidate(
        self, base: nn.Module, groups: Groups, scores: Scores, widths: dict[int, int], name: str, *, last: bool
    ) -> Candidate:
        """The present model with other widths; as an attempt, or as the result of an iteration."""
        counts = {n: c for i, parts in widths.items() for n, c in self.units[i].counts(parts).items()}
        inside = {n: best(scores[n], count) for n, count in counts.items()}
        relative = groups.plan(inside)
        plan = self.task.groups.plan(self.kept | {n: self.kept[n][keep] for n, keep in inside.items()})
        # An attempt touches one group; the step repairs all that the original's plan has cut so far.
        reference, between = (self.task.model, plan) if last else (base, relative)
        tune = self.task.tune if last else None
        cut = Cut(relative, self.settings.refit, reference, between, self.task.data, tune)
        return Candidate(plan, base=name, can_win=last, source=base, change=cut)

    def _groups_of(self, base: nn.Module) -> Groups:
        """The groups of the present model; they have the names of the original's."""
        if base is self.task.model:
            return self.task.groups
        arguments, keywords = self.task.groups.graph.inputs
        groups = find_groups(trace(base, arguments or keywords))
        for g in groups:
            if g.name in self.kept and g.size != len(self.kept[g.name]):
                seen = f"{g.size} channels in place of {len(self.kept[g.name])}"
                raise InputError("the pruned model has other groups than its original", where=g.name, seen=seen)
        return groups

    def _check_target(self) -> None:
        least = float(self.price(np.array([u.allowed[0] for u in self.units], dtype=np.int64))) / self.full
        if least > self.settings.keep * (1 + 1e-12):
            seen = f"the smallest widths cost {least:.2%} of the original, the target is {self.settings.keep:.2%}"
            raise InputError("the target cannot be reached", seen=seen, remedy="a larger target or looser constraints")
