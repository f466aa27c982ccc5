"""Progressive pruning: a little of a few layers at a time, those that it hurts least, until the budget is met."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import Progress
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
from fxprune.reconstruction.shared import sharing
from fxprune.scorers.base import Scorer, check_scores
from fxprune.scorers.lasso import Lasso
from fxprune.search.evaluator import Evaluator
from fxprune.search.progressive.activation_cache import Remembered
from fxprune.search.progressive.candidates import Candidates, Cut, Refit
from fxprune.search.result import Search
from fxprune.search.trial import Candidate, Evaluate, Tune
from fxprune.search.workers import Runner
from fxprune.tracing.trace import trace

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Step:
    """One iteration.

    Attributes:
        counts: kept channels of each group after it.
        cost: MACs and parameters after it.
        fitness: what `evaluate` said after it.
        pruned: the groups that lost channels in it, in execution order.
        key: its checkpoint is `checkpoints/KEY.safetensors` in the search's directory.
    """

    counts: dict[str, int]
    cost: Cost
    fitness: float
    pruned: tuple[str, ...]
    key: str


@dataclass(frozen=True)
class Progressive:
    """Attempt, select, prune, until a part of the original's cost is left.

    In each iteration a part of every group is removed for trial, its readers are refitted, and the model is evaluated
    (attempt); the groups whose attempts leave the best models (select; of equals those that save most) lose their
    channels for good, all readers are refitted shallow to deep against the original, and the result is saved (prune).
    The last iteration removes no more than it takes. Every iteration is a usable model, so that one search yields a
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
        scorer: which channels go; scored anew on the model as it is by then.
        refit: makes up for what was removed; None for nothing. With `fxprune.reconstruct`, attempts in this process
            share what they have in common: statistics of the model before them.
        progress: show a progress bar.
        cache: bytes for what the present model's modules give in `evaluate`. An attempt changes few modules, and what
            comes before them is not computed again; the fitness is that of the full evaluation, bit by bit. It helps
            where `evaluate` runs on the same batches each time, under `torch.no_grad()` or `torch.inference_mode()`.
            Modules in training mode, with hooks, or that draw random numbers run as ever. Attempts in other processes
            are evaluated in full. 0: no cache; needed where a forward leaves something outside of the model's modules,
            or writes into activations through `.data` or NumPy.
        seed: of the tunings.

    Raises:
        InputError: a value out of range.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 20), torch.nn.ReLU(), torch.nn.Linear(20, 2))
    >>> x = torch.randn(64, 4)
    >>> groups = fxprune.find_groups(fxprune.trace(net, x))
    >>> quality = lambda model: -float((model(x) - net(x)).square().mean().detach())
    >>> found = fxprune.search.Progressive(0.5, step=0.2, progress=False)(net, groups, [x], quality)
    >>> [step.counts["0"] for step in found.history]
    [16, 12, 10]
    """

    keep: float = 0.5
    measure: Measure = "macs"
    step: float = 0.05
    top: float = 0.25
    constraints: Constraints = UNCONSTRAINED
    scorer: Scorer = field(default_factory=Lasso)
    refit: Refit | None = reconstruct
    progress: bool = True
    cache: int = 2**30
    seed: int = 0

    def __post_init__(self) -> None:
        check_budget(self.keep, 0.0)
        for name in ("step", "top"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name} out of range", seen=str(getattr(self, name)), remedy="give a part in (0, 1]")
        if self.cache < 0:
            raise InputError("cache out of range", seen=str(self.cache), remedy="give a number of bytes, 0 for none")

    def __call__(
        self,
        model: M,
        groups: Groups,
        data: Iterable[Any],
        evaluate: Evaluate,
        tune: Tune | None = None,
        *,
        folder: str | os.PathLike[str] | None = None,
        workers: Runner | None = None,
    ) -> Search[M, Step]:
        """
        Args:
            model: the original; untouched.
            groups: its groups.
            data: batches of training inputs for scorer and refit, read many times; a few hundred images do.
            evaluate: the quality of a model, higher is better; runs once for each group and iteration, so give it few
                samples that are not the test set's.
            tune: applied to the model of each iteration, not to attempts; some training for instance, which after a
                refit is best begun with `fxprune.absorb_batchnorm`.
            folder: a directory that remembers every attempt and keeps every iteration's checkpoint; a search that was
                killed goes on from it, if it is given the same data, which are not compared.
            workers: where attempts run; default is this process.

        Returns:
            The last iteration's plan and model; the history has one entry for each iteration.

        Raises:
            InputError: a target below the smallest allowed widths, unusable data or scores, or a folder of another
                search.
        """
        history: list[Step] = []
        finished = True
        remembered = Remembered(self.cache)
        candidates = Candidates(model, evaluate, remembered)
        with (
            remembered,
            Evaluator(model, groups, evaluate, tune, self, self.seed, folder, workers, candidates.make) as evaluator,
        ):
            state = _State(self, evaluator, candidates, data, tune)
            try:
                with Progress(console=Console(stderr=True), disable=not self.progress) as bar:
                    task = bar.add_task("progressive", total=max(1.0 - self.keep, 1e-9))
                    for step in state.steps():
                        history.append(step)
                        text = f"{state.left:.1%} of the cost left: {step.fitness:.4f}"
                        bar.update(task, completed=1.0 - state.left, description=text)
            except KeyboardInterrupt:
                finished = False
            return evaluator.result(history, finished)


class _State(Generic[M]):
    """The state of one search: the model as it is by now, and which of the original's channels it has."""

    def __init__(
        self,
        settings: Progressive,
        evaluator: Evaluator[M],
        candidates: Candidates[M],
        data: Iterable[Any],
        tune: Tune | None,
    ) -> None:
        self.settings, self.evaluator, self.candidates, self.data, self.tune = (
            settings,
            evaluator,
            candidates,
            data,
            tune,
        )
        self.units = settings.constraints.units(evaluator.groups)
        self.parts = np.array([u.parts for u in self.units], dtype=np.int64)
        self.price = Price(evaluator.groups, self.units, settings.measure)
        self.full = float(self.price(self.parts))
        self.kept: dict[str, Ints] = {g.name: np.arange(g.size) for g in evaluator.groups}
        self.candidate = evaluator.original
        self._check_target()

    @property
    def left(self) -> float:
        """Part of the original's cost."""
        return float(self.price(self.parts)) / self.full

    def steps(self) -> Iterator[Step]:
        """Iterate until the target is met."""
        self.evaluator.baseline()
        done: list[Candidate] = []
        base = self.evaluator.model
        while self.left > self.settings.keep * (1 + 1e-12):
            self.candidates.forget_all_but(self.candidate)
            groups = self._groups_of(base)
            view = groups.subset([g for g in groups if g.name in self.kept])
            scores = self.settings.scorer(base, view, self.data)
            check_scores(scores, view)
            chosen = self._selected(base, groups, scores)
            widths, step = self._last_cuts(chosen), len(done)
            done.append(self._candidate(base, groups, scores, widths, f"step {step} on {self.candidate.key}", True))
            self.candidate = done[-1]
            (outcome,) = self.evaluator.run([self.candidate])
            base = self.evaluator.made(self.candidate)
            self.evaluator.keep(done, self.candidate)
            self.kept |= {n: g.kept for n, g in self.candidate.plan.groups.items()}
            for i, parts in widths.items():
                self.parts[i] = parts
            pruned = tuple(n for i in widths for n in self.units[i].names)
            plan = self.candidate.plan
            yield Step(plan.kept_counts(), self.evaluator.cost(plan), outcome.fitness, pruned, self.candidate.key)

    def _selected(self, base: M, groups: Groups, scores: dict[str, Tensor]) -> list[int]:
        """The units that an iteration prunes, in execution order: attempt all, take those that it hurts least."""
        narrower = {i: width for i in range(len(self.units)) if (width := self._narrower(i, groups)) is not None}
        if not narrower:
            raise InputError("no group can lose channels any more", seen=f"{self.left:.2%} of the cost are left")
        attempts = [
            self._candidate(base, groups, scores, {i: width}, f"attempt on {self.candidate.key}", False)
            for i, width in narrower.items()
        ]
        with sharing(base, [s.tensor for g in groups for s in g.consumers], self.data):
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
        """As `_next_width`; None where there is none, or the group is no group any more."""
        unit, parts = self.units[i], int(self.parts[i])
        width = self._next_width(unit, parts)
        return width if width < parts and set(unit.names) <= {g.name for g in groups} else None

    def _with(self, widths: dict[int, int]) -> Ints:
        parts = self.parts.copy()
        parts[list(widths)] = list(widths.values())
        return parts

    def _candidate(
        self, base: M, groups: Groups, scores: dict[str, Tensor], widths: dict[int, int], name: str, last: bool
    ) -> Candidate:
        """The present model with other widths; as an attempt, or as what is left after an iteration."""
        counts = {n: c for i, parts in widths.items() for n, c in self.units[i].counts(parts).items()}
        inside = {n: best(scores[n], count) for n, count in counts.items()}
        relative = groups.plan(inside)
        plan = self.evaluator.groups.plan(self.kept | {n: self.kept[n][keep] for n, keep in inside.items()})
        candidate = Candidate(plan, base=name, can_win=last)
        # An attempt touches one group; the step repairs all that the original's plan has cut so far.
        reference, between = (self.evaluator.model, plan) if last else (base, relative)
        tune = self.tune if last else None
        cut = Cut(relative, self.settings.refit, reference, between, self.data, tune)
        self.candidates.add(candidate, base, self.candidate, cut)
        return candidate

    def _groups_of(self, base: M) -> Groups:
        """The groups of the model as it is by now; they have the names of the original's."""
        if base is self.evaluator.model:
            return self.evaluator.groups
        arguments, keywords = self.evaluator.groups.graph.inputs
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
