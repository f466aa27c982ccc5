"""Bee colony: search over the widths of all groups together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from fxprune.analysis.groups import Groups
from fxprune.errors import (
    InputError,
    check_flag,
    check_function,
    check_integer,
    check_kind,
    check_number,
    check_option,
    check_seed,
)
from fxprune.plan.plan import Plan
from fxprune.planners.allocation.choose import keep_best
from fxprune.planners.allocation.constraints import UNCONSTRAINED, Constraints, check_constraints
from fxprune.planners.allocation.price import Measure, check_measure
from fxprune.planners.budget import check_budget, scaled_to_budget
from fxprune.reconstruction import reconstruct
from fxprune.scorers.joint_elimination import ErrorCurve
from fxprune.search.driver import Driver, Progressed
from fxprune.search.evaluator import Evaluator
from fxprune.search.result import Trial
from fxprune.search.trial import Candidate, Tune, tuned

Code = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class CurveFitness:
    """What a plan is worth by error curves: -Σ_g a_g·e_g(kept channels of g). It costs no forward.

    Attributes:
        curves: e_g by group, from `scorers.JointElimination().curves(...)`.
        weights: a_g by group; 1 where none is given. See `scorers.output_sensitivity`.

    >>> import torch, fxprune
    >>> curve = fxprune.scorers.ErrorCurve.of_scores(torch.tensor([3.0, 1.0, 4.0]))
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 2)))
    >>> fxprune.search.CurveFitness({"0": curve})(groups.plan({"0": [0, 2]}))
    -0.125
    """

    curves: Mapping[str, ErrorCurve]
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_kind("the curves", self.curves, Mapping, "give {group: ErrorCurve}")
        for curve in self.curves.values():
            check_kind("a curve", curve, ErrorCurve, "give {group: ErrorCurve}")
        check_kind("the weights", self.weights, Mapping, "give {group: how much its errors count}")

    def __call__(self, plan: Plan) -> float:
        counts = plan.kept_counts()
        if unknown := [name for name in self.curves if name not in counts]:
            remedy = "make the curves of the groups that are searched"
            raise InputError("a curve is of no group", seen=unknown[0], remedy=remedy)
        return -math.fsum(self.weights.get(n, 1.0) * curve.at(counts[n]) for n, curve in self.curves.items())


@dataclass(frozen=True)
class _Repaired:
    """Refit a model that a plan has cut, all layers at once, and tune it, in place."""

    original: nn.Module
    plan: Plan
    data: Iterable[Any]
    tune: Tune | None

    def __call__(self, model: nn.Module) -> None:
        if self.plan.cuts():
            reconstruct(self.original, model, self.plan, self.data, order="at_once")
        if self.tune is not None:
            tuned(self.tune, model)


@dataclass(frozen=True)
class BeeColony(Driver[Trial]):
    """Artificial bee colony over a code h of one number for each group: it keeps ⌊h/levels · channels⌋ channels.

    Food sources are codes, drawn at random; the first one is uniform, with `max_keep` of every group. In each cycle
    every source is moved (employed bees), then sources drawn by their fitness are moved (onlookers), and the source
    that failed most often, if at least `limit` times, is drawn anew (scout). A move takes a partner x_k and changes
    some coordinates: x_i + r·(x_i - x_k), r ~ U(-1, 1). Better codes replace their source.
    Source: ABCPruner (Lin et al., IJCAI 2020). Other than its released code: all channels can be chosen and all groups
    moved; best code and best weights belong together; a code is evaluated once; the best source is never drawn anew.
    Choices of fxprune: the uniform source; the bees of a phase fly at the same time, so that they can be evaluated in
    parallel; onlookers go by 0.1 + 0.9·(fit - worst)/(best - worst), which is the same in any unit; a move that rounds
    to nothing steps one coordinate by one.

    A fitness must rank: codes whose models are near chance before their tuning cannot be ranked. Published is a
    short training of each (`tune`); without any, `repair` fits what is left by least squares, and `fitness` judges a
    code by its plan alone, for instance by `CurveFitness`.

    Attributes:
        sources: number of food sources.
        cycles: number of cycles.
        limit: failures after which a source is given up.
        moves: coordinates that a move changes.
        levels: steps of the code.
        max_keep: the largest part of a group that a code keeps, in (0, 1].
        channels: which channels stay: those of largest "scored" importance, or "random" ones as published.
        keep: if given, codes are shares: each is scaled to this part of the original's cost, so that the colony
            searches over ways to spend it, and `max_keep` has no effect.
        measure: what the budget counts, as in `Budget`.
        tolerance: part of that budget that may stay unused, as in `AtBudget`.
        constraints: which widths are allowed.
        repair: refit each candidate on `data` before `tune`, all layers at once (`fxprune.reconstruct`).
        fitness: what a plan is worth, in place of `evaluate`, which then sees the original and the best model.
        progress: show a progress bar.
        seed: of everything random.

    Raises:
        InputError: a value out of range.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 20), torch.nn.ReLU(), torch.nn.Linear(20, 2))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 4)))
    >>> quality = lambda model: -abs(model[0].out_features - 12)
    >>> found = fxprune.search.BeeColony(sources=3, cycles=3, progress=False)(net, groups, quality)
    >>> found.model[0].out_features
    12
    """

    sources: int = 10
    cycles: int = 10
    limit: int = 5
    moves: int = 2
    levels: int = 10
    max_keep: float = 0.7
    channels: Literal["scored", "random"] = "scored"
    keep: float | None = None
    measure: Measure = "macs"
    tolerance: float = 0.01
    constraints: Constraints = UNCONSTRAINED
    repair: bool = False
    fitness: Callable[[Plan], float] | None = None
    progress: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"sources": 2, "cycles": 0, "limit": 1, "moves": 1, "levels": 1}
        for name, bound in least.items():
            check_integer(name, getattr(self, name), bound, f"{getattr(BeeColony, name)} is usual")
        check_number("max_keep", self.max_keep, f"[{1 / self.levels}, 1]", "give a part of at least 1/levels")
        check_option("choice of channels", self.channels, ("scored", "random"))
        if self.keep is not None:
            check_budget(self.keep, self.tolerance)
        check_measure(self.measure)
        check_constraints(self.constraints)
        check_flag("repair", self.repair)
        check_function("fitness", self.fitness, "give a function of a plan, or None", arguments=1)
        check_flag("progress", self.progress)
        check_seed(self.seed, least=0)

    def steps(self, evaluator: Evaluator[Any]) -> Iterator[Progressed[Trial]]:
        task = evaluator.task
        if self.repair and task.data is None:
            remedy = "search(..., data=batches), or BeeColony(repair=False)"
            raise InputError("a bee colony has no data for its repairs", remedy=remedy)
        scores = task.scores() if self.channels == "scored" or self.keep is not None else {}
        colony = _Colony(self, evaluator, lambda code: self._plan(code, task.groups, scores))
        most = 1 + 3 * self.cycles
        for n, trials in enumerate(colony.phases(), 1):
            for trial in trials:
                yield Progressed(trial, min(1.0, n / most), f"bee colony: {colony.best_fitness:.4f}")

    def _plan(self, code: Code, groups: Groups, scores: Mapping[str, Tensor]) -> Plan:
        counts = self._counts(code, groups, scores)
        if self.channels == "scored":
            return keep_best(groups, scores, counts)
        draw = np.random.default_rng([self.seed, *code.tolist()])
        return groups.plan({name: draw.choice(groups[name].size, n, replace=False) for name, n in counts.items()})

    def _counts(self, code: Code, groups: Groups, scores: Mapping[str, Tensor]) -> dict[str, int]:
        parts = {
            name: h / self.levels
            for unit, h in zip(self.constraints.units(groups), code, strict=True)
            for name in unit.names
        }

        def scaled(scale: float) -> dict[str, int]:
            return {g.name: max(1, math.floor(min(1.0, scale * parts[g.name]) * g.size + 1e-9)) for g in groups}

        if self.keep is None:
            return self.constraints.fit(groups, scaled(1.0))
        # From nothing to everything, as the family's number goes from 0 to 1.
        return scaled_to_budget(
            groups,
            scores,
            lambda number: scaled(number * self.levels),
            keep=self.keep,
            measure=self.measure,
            constraints=self.constraints,
            tolerance=self.tolerance,
        ).kept_counts()


class _Colony:
    """The state of one search."""

    def __init__(self, settings: BeeColony, evaluator: Evaluator[Any], plan: Callable[[Code], Plan]) -> None:
        self.settings, self.evaluator, self.plan = settings, evaluator, plan
        self.random = np.random.default_rng(settings.seed)
        self.length = len(settings.constraints.units(evaluator.task.groups))
        part = settings.max_keep if settings.keep is None else 1.0  # shares are scaled to the budget
        self.top = math.floor(part * settings.levels + 1e-9)
        self.codes: list[Code] = []
        self.fitness = np.zeros(0)
        self.trail = np.zeros(settings.sources, dtype=np.int64)
        self.best, self.best_fitness = evaluator.original, -math.inf
        self.tried: dict[str, Candidate] = {}
        self.reported = 0

    def phases(self) -> Iterator[list[Trial]]:
        """The search; what each phase has tried for the first time."""
        if not self.length:
            return
        self.evaluator.baseline()
        uniform = np.full(self.length, self.top, dtype=np.int64)
        self.codes = [uniform, *(self.drawn() for _ in range(self.settings.sources - 1))]
        self.fitness = self.fitness_of(self.codes)
        yield self.new()
        for _ in range(self.settings.cycles):
            self.fly(range(self.settings.sources))
            yield self.new()
            self.fly(self.onlookers())
            yield self.new()
            self.scout()
            yield self.new()

    def new(self) -> list[Trial]:
        """What was tried since this was last called."""
        fresh = list(self.tried.values())[self.reported :]
        self.reported = len(self.tried)
        return [self._trial(c) for c in fresh]

    def _trial(self, candidate: Candidate) -> Trial:
        plan, fitness = candidate.plan, self.settings.fitness
        if fitness is None:
            return self.evaluator.trial(candidate)
        return Trial(plan.kept_counts(), self.evaluator.cost(plan), fitness(plan), self.settings.seed, 0.0)

    def _values(self, candidates: Sequence[Candidate]) -> list[float]:
        if self.settings.fitness is not None:
            return [self.settings.fitness(c.plan) for c in candidates]
        return [o.fitness for o in self.evaluator.run(candidates)]

    def _candidate(self, code: Code) -> Candidate:
        plan, task = self.plan(code), self.evaluator.task
        if not self.settings.repair:
            return Candidate(plan)
        assert task.data is not None, "checked before"
        return Candidate(plan, change=_Repaired(task.model, plan, task.data, task.tune))

    def drawn(self) -> Code:
        return self.random.integers(1, self.top + 1, self.length)

    def fitness_of(self, codes: Sequence[Code]) -> npt.NDArray[np.float64]:
        """The fitness of codes; NaN counts as the worst. The best of all codes is remembered."""
        candidates = [self._candidate(code) for code in codes]
        values = self._values(candidates)
        self.tried |= {c.key: c for c in candidates}
        fitness = np.array([-math.inf if math.isnan(v) else v for v in values])
        first = int(np.argmax(fitness))
        if fitness[first] > self.best_fitness:
            self.best, self.best_fitness = candidates[first], float(fitness[first])
        self.evaluator.keep([], self.best)
        return fitness

    def fly(self, sources: Sequence[int]) -> None:
        """Move sources; better codes replace them, worse ones lengthen their trail of failures."""
        moved = [self.moved(i) for i in sources]
        for i, code, fitness in zip(sources, moved, self.fitness_of(moved), strict=True):
            better = fitness > self.fitness[i]
            self.trail[i] = 0 if better else self.trail[i] + 1
            if better:
                self.codes[i], self.fitness[i] = code, fitness

    def moved(self, i: int) -> Code:
        """A code near a source, in the direction to or from another one."""
        code = self.codes[i].copy()
        partner = self.codes[(i + self.random.integers(1, len(self.codes))) % len(self.codes)]
        where = self.random.choice(self.length, min(self.settings.moves, self.length), replace=False)
        step = self.random.uniform(-1, 1, len(where)) * (code - partner)[where]
        code[where] = self.inside(np.rint(code[where] + step))
        if np.array_equal(code, self.codes[i]):
            at = where[0]
            ways = [way for way in (-1, 1) if 1 <= code[at] + way <= self.top]
            code[at] += self.random.choice(ways) if ways else 0
        return code

    def inside(self, values: Any) -> Any:
        return np.minimum(np.maximum(values, 1), self.top)

    def onlookers(self) -> list[int]:
        """As many sources as there are bees, the fit ones more often."""
        finite = np.where(np.isfinite(self.fitness), self.fitness, np.nan)
        worst, best = (np.nanmin(finite), np.nanmax(finite)) if np.isfinite(finite).any() else (0.0, 0.0)
        relative = np.nan_to_num((finite - worst) / (best - worst)) if best > worst else np.ones(len(finite))
        chance = 0.1 + 0.9 * relative
        return [int(i) for i in self.random.choice(len(chance), len(chance), p=chance / chance.sum())]

    def scout(self) -> None:
        """Give up the source that failed most, unless it is the best."""
        trail = np.where(np.arange(len(self.codes)) == int(np.argmax(self.fitness)), -1, self.trail)
        worn = int(np.argmax(trail))
        if trail[worn] >= self.settings.limit:
            self.codes[worn], self.trail[worn] = self.drawn(), 0
            self.fitness[worn] = self.fitness_of([self.codes[worn]])[0]
