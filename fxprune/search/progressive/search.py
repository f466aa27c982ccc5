"""Progressive pruning: a little of a few layers at a time, those that it hurts least, until the budget is met."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fxprune.costs.macs import Cost
from fxprune.errors import InputError, check_flag, check_function, check_kind, check_number, check_seed, shown
from fxprune.plan.plan import Ints
from fxprune.planners.allocation.constraints import UNCONSTRAINED, Constraints, check_constraints
from fxprune.planners.allocation.price import Measure, Price, check_measure
from fxprune.planners.allocation.units import Unit
from fxprune.planners.budget import check_budget
from fxprune.reconstruction import reconstruct
from fxprune.scorers.base import Scorer
from fxprune.scorers.lasso import Lasso
from fxprune.search.driver import Driver, Progressed
from fxprune.search.evaluator import Evaluator
from fxprune.search.progressive.candidates import InTurn, Maker, Present, Refitter, Together
from fxprune.search.progressive.layer_by_layer import LayerByLayer, Layers

_NEAR = 0.995
"""Part of the target that the last iteration spends, where the widths of some group allow it."""


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
    channels for good, and the result is saved (prune). The last iteration removes only what is needed, from the groups
    of best rank. Every iteration is a usable model, so that one search yields a family (`on_the_way`); with
    `fxprune.add_samplers` residual blocks can drop channels that they read.

    With `method=LayerByLayer()` the prune step is as published: for each selected group, shallow to deep, LASSO is
    solved anew on the model of that step, and the group's readers are refitted, both towards the original's outputs;
    all other layers stay as they are. `Accuracy` tells models of equal accuracy apart by their cross-entropy.
    Without it, `scorer` chooses an iteration's channels on the model before it, and all readers of what was ever cut
    are refitted together at the end of the iteration, by any scorer and refit.
    Source: PCP, Guo, Zhang, Ouyang and Xu, Progressive Channel Pruning; the selection and refit by He, Zhang and Sun,
    Channel Pruning, 2017. Not published, choices of fxprune: the values of `step` and `top`.

    Attributes:
        keep: part of the original's cost to come down to, in (0, 1].
        on_the_way: further parts, each of which some iteration comes down to as exactly as to `keep`, so that the
            checkpoints of one search meet several budgets.
        measure: what is counted, as in `Budget`.
        step: part of a group's original width that an attempt removes, at least one channel.
        top: part of the groups that an iteration prunes, at least one group.
        constraints: which widths are allowed.
        refit: changes the remaining weights to make up for the removed channels; None for no refit.
        method: how each group is pruned in its turn, in place of `scorer` and `refit`; None for these two.
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
    on_the_way: tuple[float, ...] = ()
    measure: Measure = "macs"
    step: float = 0.05
    top: float = 0.25
    constraints: Constraints = UNCONSTRAINED
    refit: Refitter | None = reconstruct
    method: LayerByLayer | None = None
    progress: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.on_the_way, tuple | list):
            remedy = f"give a tuple, such as ({shown(self.on_the_way)},)"
            raise InputError("on_the_way is not a tuple of parts", seen=shown(self.on_the_way), remedy=remedy)
        for part in (self.keep, *self.on_the_way):
            check_budget(part, 0.0)
        for name in ("step", "top"):
            check_number(name, getattr(self, name), "(0, 1]", f"{getattr(Progressive, name)} is usual")
        check_measure(self.measure)
        check_constraints(self.constraints)
        check_function("refit", self.refit, "give fxprune.reconstruct, a function as it, or None", arguments=4)
        if self.method is not None:
            check_kind("the method", self.method, LayerByLayer, "give search.LayerByLayer(), or None")
        check_flag("progress", self.progress)
        check_seed(self.seed, least=0)

    def default_scorer(self) -> Scorer:
        return Lasso()

    def steps(self, evaluator: Evaluator[Any]) -> Iterator[Progressed[Step]]:
        if (self.refit or self.method) is not None and evaluator.task.data is None:
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
        targets = sorted({settings.keep, *settings.on_the_way}, reverse=True)
        self.limits = [part * self.full * (1 + 1e-12) for part in targets if part >= settings.keep]
        whole = {g.name: np.arange(g.size) for g in self.task.groups}
        self.present = Present(self.task.model, self.task.groups, self.task.groups, whole, evaluator.original.key)
        self.layers: Layers | None = None
        self._check_target()

    @property
    def left(self) -> float:
        """Part of the original's cost."""
        return float(self.price(self.parts)) / self.full

    @property
    def limit(self) -> float:
        """The cost to come down to next."""
        now = float(self.price(self.parts))
        return next((limit for limit in self.limits if limit < now), self.limits[-1])

    def steps(self) -> Iterator[Step]:
        """Iterate until the target is met."""
        self.evaluator.baseline()
        done: list[str] = []
        while self.left > self.settings.keep * (1 + 1e-12):
            maker, before = self._maker(), self.present.key
            widths = self._chosen(maker)
            candidate = maker.step(
                [self.units[i].counts(w) for i, w in widths.items()], f"step {len(done)} on {before}"
            )
            done.append(candidate.key)
            (outcome,) = self.evaluator.run([candidate])
            self.evaluator.keep(done, candidate)
            plan = candidate.plan
            self.present = self.present.after(self.evaluator.made(candidate), plan, candidate.key)
            self.parts[list(widths)] = list(widths.values())
            pruned = tuple(n for i in widths for n in self.units[i].names)
            yield Step(plan.kept_counts(), self.evaluator.cost(plan), outcome.fitness, pruned, candidate.key)

    def _maker(self) -> Maker:
        method, task = self.settings.method, self.task
        if method is None:
            return Together(task, self.settings.refit, self.present)
        assert task.data is not None, "checked before"
        self.layers = self.layers or Layers(method, task.model, task.groups, task.data)
        return InTurn(self.layers, self.present)

    def _chosen(self, maker: Maker) -> dict[int, int]:
        """The units that an iteration prunes, in execution order, and their new widths, in parts.

        All are attempted; those that it hurts least lose channels, of equals those that save most.
        """
        narrower = {i: width for i in range(len(self.units)) if (width := self._narrower(i)) is not None}
        if not narrower:
            raise InputError("no group can lose channels any more", seen=f"{self.left:.2%} of the cost are left")
        outcomes = self.evaluator.run(maker.attempts([self.units[i].counts(w) for i, w in narrower.items()]))
        fitness = [-math.inf if math.isnan(o.fitness) else o.fitness for o in outcomes]
        if max(fitness) == -math.inf:
            raise InputError("no attempt's quality is a number", seen="nan", remedy="look at what evaluate returns")
        costs = [float(self.price(self._with({i: width}))) for i, width in narrower.items()]
        order = sorted(range(len(costs)), key=lambda k: (-fitness[k], costs[k]))
        units = list(narrower)
        return dict(sorted(self._cuts([units[k] for k in order]).items()))

    def _cuts(self, ranked: Sequence[int]) -> dict[int, int]:
        """New widths, in parts, of the units of best rank; no more goes than the target asks for."""
        widths, limit = dict[int, int](), self.limit
        for rank, i in enumerate(ranked[: max(1, math.ceil(self.settings.top * len(self.units) - 1e-9))]):
            lowest = self._next_width(self.units[i], int(self.parts[i]))
            if float(self.price(self._with({**widths, i: lowest}))) <= limit:
                return widths | self._last_cut(widths, ranked[rank:], limit)
            widths[i] = lowest
        return widths

    def _last_cut(self, widths: Mapping[int, int], ranked: Sequence[int], limit: float) -> dict[int, int]:
        """The cut that meets the target: of the first unit whose widths come near to it, else of the first two that
        come near together, else of the first unit.
        """
        tried = list[dict[int, int]]()
        for cut in self._meeting(widths, ranked, limit):
            if float(self.price(self._with({**widths, **cut}))) >= _NEAR * limit:
                return cut
            tried.append(cut)
        return tried[0]

    def _meeting(self, widths: Mapping[int, int], ranked: Sequence[int], limit: float) -> Iterator[dict[int, int]]:
        """Cuts that meet the target, with no more of their last unit than that asks for: of one unit, then of two."""
        for other in [{}, *({i: w} for i in ranked for w in self._between(i)[::-1])]:
            for i in ranked:
                between = [] if i in other else self._between(i)
                costs = [float(self.price(self._with({**widths, **other, i: w}))) for w in between]
                if within := [w for w, cost in zip(between, costs, strict=True) if cost <= limit]:
                    yield {**other, i: within[-1]}

    def _between(self, i: int) -> list[int]:
        """The widths of a unit from that of its attempt up to its present one, in parts."""
        allowed, present = self.units[i].allowed, int(self.parts[i])
        return [int(w) for w in allowed if self._next_width(self.units[i], present) <= w < present]

    def _next_width(self, unit: Unit, parts: int) -> int:
        """The width that an attempt goes down to, in parts; the present one if there is no smaller."""
        wished = parts - max(1, round(self.settings.step * unit.parts))
        below = unit.allowed[unit.allowed <= wished]
        return int(below[-1]) if len(below) else min(parts, int(unit.allowed[0]))

    def _narrower(self, i: int) -> int | None:
        """As `_next_width`; None where there is none, or where the present model has no such group."""
        unit, parts = self.units[i], int(self.parts[i])
        width = self._next_width(unit, parts)
        return width if width < parts and set(unit.names) <= {g.name for g in self.present.groups} else None

    def _with(self, widths: dict[int, int]) -> Ints:
        parts = self.parts.copy()
        parts[list(widths)] = list(widths.values())
        return parts

    def _check_target(self) -> None:
        least = float(self.price(np.array([u.allowed[0] for u in self.units], dtype=np.int64))) / self.full
        if least > self.limits[-1] / self.full:
            seen = f"the smallest widths cost {least:.2%} of the original, the target is {self.settings.keep:.2%}"
            raise InputError("the target cannot be reached", seen=seen, remedy="a larger target or looser constraints")
