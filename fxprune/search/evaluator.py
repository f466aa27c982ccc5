"""The evaluator: gives a search the fitness of its candidates, each evaluated once, and keeps the good ones."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Generic, TypeVar

import numpy as np
from torch import nn

from fxprune.costs.macs import Cost, CostModel
from fxprune.errors import InputError, PlanError
from fxprune.plan.plan import Plan
from fxprune.rewriting.copying import copied
from fxprune.rewriting.rewrite import rewrite
from fxprune.search.checkpoint import plan_of, restore
from fxprune.search.describe import channels_print, describe, fingerprint
from fxprune.search.folder import Folder
from fxprune.search.result import Search, Trial
from fxprune.search.trial import Candidate, Job, Outcome, Task, attempt
from fxprune.search.workers import Runner, in_process

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")


class Evaluator(Generic[M]):
    """The fitness of candidates of a model, each made, tuned and evaluated once; use it in a `with` block.

    Args:
        task: model, groups, quality, scorer, data and tuning.
        search: its settings, a dataclass with a `seed`; other settings make another search, except for `progress`.
        folder: a directory that remembers; what it knows is not tried again.
        workers: where candidates run; None is this process.
        resume: functions may have other names or code than those that the directory was begun with.

    Attributes:
        task: as given.
        original: the candidate that keeps everything.

    Raises:
        InputError: the directory is of another search, in use, or damaged.
    """

    def __init__(
        self,
        task: Task[M],
        search: Any,
        folder: str | os.PathLike[str] | None = None,
        workers: Runner | None = None,
        resume: bool = False,
    ) -> None:
        self.task, self._seed = task, search.seed
        self.original = Candidate(task.groups.plan({}), tuned=False)
        self._runner = workers or in_process
        self._costs = CostModel(task.groups.analysis)
        self._folder = None if folder is None else Folder(folder, self._settings(search), resume)
        self._known: dict[str, Outcome] = dict(self._folder.outcomes) if self._folder else {}
        self._models: dict[str, M] = {}
        self._asked: set[str] = set()
        self._replaying = bool(self._known)
        self._best = self.original

    def __enter__(self) -> Evaluator[M]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._folder is not None:
            self._folder.close()

    @property
    def deterministic(self) -> bool:
        """Whether repeats tell nothing new, since nothing is tuned."""
        return self.task.tune is None

    def baseline(self) -> Outcome:
        """The outcome of the original.

        Raises:
            InputError: its quality is not a finite number.
        """
        (known,) = self.run([self.original])
        if not math.isfinite(known.fitness):
            raise InputError(
                "the original's quality is not a finite number",
                seen=str(known.fitness),
                remedy="let evaluate(model) return a number, higher for better models",
            )
        return known

    def run(self, candidates: Sequence[Candidate]) -> list[Outcome]:
        """Evaluate candidates, several at a time if there are workers; those that are known are not tried again."""
        fresh = {c.key: c for c in candidates if c.key not in self._known}
        self._asked |= {c.key for c in candidates}
        for outcome, model in self._attempted(fresh.values()):
            candidate = fresh[outcome.key]
            self._replaying = False
            if self._folder is not None:
                cost = self.cost(candidate.plan)
                facts = {"macs": cost.macs, "parameters": cost.parameters}
                self._folder.add(candidate, outcome, model if _is_kept(candidate) else None, facts)
            self._known[outcome.key] = outcome
            if _is_kept(candidate):
                self._models[outcome.key] = model
        return [self._known[c.key] for c in candidates]

    def keep(self, keys: Iterable[str], best: Candidate | None = None) -> None:
        """Of what was evaluated so far, only these can still win; drop the models of the others.

        Args:
            keys: of the candidates that can still win.
            best: the best so far, if it is a new one.
        """
        kept = {*keys, (best or self._best).key}
        if best is not None and best.key != self._best.key:
            self._best = best
            # Not while an earlier run is replayed: the directory may know a better one already.
            if self._folder is not None and best.key in self._models:
                self._folder.put_best(self._models[best.key], best.plan)
        in_memory = kept if self._folder is None else {self._best.key}
        self._models = {k: m for k, m in self._models.items() if k in in_memory}
        if self._folder is not None:
            self._folder.drop(self._asked - kept)

    def cost(self, plan: Plan) -> Cost:
        """MACs and parameters of a plan."""
        return self._costs(self._costs.counts(plan))

    def trial(self, candidate: Candidate) -> Trial:
        """A candidate that was evaluated, for the history."""
        known = self._known[candidate.key]
        plan = candidate.plan
        return Trial(plan.kept_counts(), self.cost(plan), known.fitness, known.seed, known.seconds)

    def result(self, history: Sequence[T], finished: bool) -> Search[M, T]:
        """The best so far, as the search's result; also written to the directory.

        If a resumed search is interrupted while it is still replaying the journal, that is the best of the earlier run.
        """
        before = self._folder.best() if self._folder is not None and self._replaying and not finished else None
        if before is not None:
            plan, model = plan_of(before), restore(self.task.model, before)
        else:
            plan, model = self._best.plan, self.made(self._best)
            if self._folder is not None:
                self._folder.put_best(model, plan)
        baseline = self._known.get(self.original.key)
        fitness = baseline.fitness if baseline else float("nan")
        return Search(plan, model, fitness, tuple(history), finished)

    def made(self, candidate: Candidate) -> M:
        """The tuned model of a candidate that was kept: at hand, from its checkpoint, or made once more, same seed."""
        if candidate.key == self.original.key:
            return self.task.model
        if candidate.key in self._models:
            return self._models[candidate.key]
        if self._folder is not None and (path := self._folder.checkpoint(candidate.key)).exists():
            try:
                return restore(self.task.model, path)
            except (InputError, PlanError) as error:
                warnings.warn(f"{error}; the candidate is made once more, with the same seed", stacklevel=2)
        ((_, model),) = self._attempted([candidate])
        return model

    def _attempted(self, candidates: Collection[Candidate]) -> Iterator[tuple[Outcome, M]]:
        """The outcomes of candidates and their models, as they come.

        Raises:
            InputError: the workers return anything else than one outcome for each.
        """
        results, done = self._runner(attempt, self._jobs(candidates)), 0
        remedy = "yield function(job) for each of the jobs, as fxprune.search.Workers does"
        if not isinstance(results, Iterable):
            raise InputError("workers gave no results", seen=type(results).__name__, remedy=remedy)
        for result in results:
            done += 1
            yield result
        if done != len(candidates):
            seen = f"{done} results of {len(candidates)} candidates"
            raise InputError("workers lost candidates, or made some of their own", seen=seen, remedy=remedy)

    def _jobs(self, candidates: Iterable[Candidate]) -> Iterator[Job[M]]:
        for c in candidates:
            model = rewrite(self.task.model, c.plan) if c.source is None else copied(c.source)
            if self.task.repair is not None and c.source is None and c.tuned:
                model = self.task.repair(model, c.plan)  # type: ignore[arg-type]
            tune = c.change or (self.task.tune if c.tuned else None)
            yield Job(c.key, model, tune, self.task.evaluate, self._seed_of(c))  # type: ignore[arg-type]

    def _seed_of(self, candidate: Candidate) -> int:
        """The same for all candidates of one repeat, so that they differ in nothing else."""
        return int(np.random.SeedSequence([self._seed, candidate.repeat]).generate_state(1)[0])

    def _settings(self, search: Any) -> dict[str, Any]:
        settings = describe(search)
        if isinstance(settings, dict):
            settings.pop("progress", None)  # it changes no result
        return {
            "search": settings,
            "model": fingerprint(self.task.model),
            "groups": {g.name: g.size for g in self.task.groups},
            "channels": channels_print(self.task.groups),
            "evaluate": describe(self.task.evaluate),
            "scorer": describe(self.task.scorer),
            "tune": describe(self.task.tune),
            "repair": self.task.repair is not None,
        }


def _is_kept(candidate: Candidate) -> bool:
    """The original needs no keeping."""
    return candidate.tuned and candidate.can_win
