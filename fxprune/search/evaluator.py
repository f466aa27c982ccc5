"""The bench: where a search has its candidates judged, each only once, and where the good ones are kept."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from torch import nn

from fxprune.analysis.groups import Groups
from fxprune.costs.macs import Cost, CostModel
from fxprune.errors import InputError
from fxprune.plan.plan import Plan
from fxprune.rewriting.rewrite import rewrite
from fxprune.search.checkpoint import plan_of, restore
from fxprune.search.describe import describe, fingerprint
from fxprune.search.folder import Folder
from fxprune.search.result import Search, Trial
from fxprune.search.trial import Candidate, Evaluate, Job, Outcome, Tune, attempt
from fxprune.search.workers import Runner, in_process

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")
Made: TypeAlias = tuple[M, Tune | None, Evaluate]


class Evaluator(Generic[M]):
    """Judges candidates of a model; use it in a `with` block.

    Args:
        model: the original; untouched.
        groups: its groups.
        evaluate: the quality of a model, higher is better: a number, or one number per sample.
        tune: trains a cut model in place; None for none.
        search: the search's settings, a dataclass; what differs makes another search (`progress` and `cache` do not).
        seed: of everything random.
        folder: a directory that remembers; what it knows is not tried again.
        workers: where candidates run; None is this process.
        make: a candidate to a model, its tuning and its judge; default is the original cut by the plan, `tune` unless
            the candidate is not to be tuned, and `evaluate`.

    Raises:
        InputError: the directory is of another search, in use, or damaged.
    """

    def __init__(
        self,
        model: M,
        groups: Groups,
        evaluate: Evaluate,
        tune: Tune | None,
        search: Any,
        seed: int,
        folder: str | os.PathLike[str] | None,
        workers: Runner | None,
        make: Callable[[Candidate], Made[M]] | None = None,
    ) -> None:
        self.model, self.groups, self.seed = model, groups, seed
        self.original = Candidate(groups.plan({}), tuned=False)
        self._evaluate, self._tune = evaluate, tune
        self._runner = workers or in_process
        self._make = make or self._cut
        self._costs = CostModel(groups.analysis)
        self._folder = None if folder is None else Folder(folder, self._settings(search))
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
        return self._tune is None

    def baseline(self) -> Outcome:
        """What is known of the original.

        Raises:
            InputError: its quality is no finite number.
        """
        (known,) = self.run([self.original])
        if not math.isfinite(known.fitness):
            raise InputError(
                "the original's quality is no finite number",
                seen=str(known.fitness),
                remedy="let evaluate(model) return a number, higher for better models",
            )
        return known

    def run(self, candidates: Sequence[Candidate]) -> list[Outcome]:
        """Judge candidates, several at a time if there are workers; those that are known are not tried again."""
        fresh = {c.key: c for c in candidates if c.key not in self._known}
        self._asked |= {c.key for c in candidates}
        for outcome, model in self._runner(attempt, self._jobs(fresh.values())):
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

    def keep(self, candidates: Iterable[Candidate], best: Candidate | None = None) -> None:
        """Of what was judged so far, only these can still win; drop the models of the others.

        Args:
            candidates: what can still win.
            best: the best so far, if it is a new one.
        """
        kept = {c.key for c in candidates} | {(best or self._best).key}
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
        """What a candidate that was judged looks like to the user."""
        known = self._known[candidate.key]
        plan = candidate.plan
        return Trial(plan.kept_counts(), self.cost(plan), known.fitness, known.seed, known.seconds)

    def result(self, history: Sequence[T], finished: bool) -> Search[M, T]:
        """The best so far, as the search's result; also written to the directory.

        If a resumed search is interrupted while it is still replaying the journal, that is the best of the earlier run.
        """
        before = self._folder.best() if self._folder is not None and self._replaying and not finished else None
        if before is not None:
            plan, model = plan_of(before), restore(self.model, before)
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
            return self.model
        if candidate.key in self._models:
            return self._models[candidate.key]
        if self._folder is not None and (path := self._folder.checkpoint(candidate.key)).exists():
            return restore(self.model, path)
        (_, model), *_ = self._runner(attempt, self._jobs([candidate]))
        return model

    def _jobs(self, candidates: Iterable[Candidate]) -> Iterator[Job[M]]:
        for c in candidates:
            model, tune, evaluate = self._make(c)
            yield Job(c.key, model, tune, evaluate, self._seed_of(c))

    def _cut(self, candidate: Candidate) -> Made[M]:
        tune = self._tune if candidate.tuned else None
        return rewrite(self.model, candidate.plan), tune, self._evaluate

    def _seed_of(self, candidate: Candidate) -> int:
        """The same for all candidates of one repeat, so that they differ in nothing else."""
        return int(np.random.SeedSequence([self.seed, candidate.repeat]).generate_state(1)[0])

    def _settings(self, search: Any) -> dict[str, Any]:
        told = describe(search)
        for name in ("progress", "cache"):  # they change no result
            told.pop(name, None)
        return {
            "search": told,
            "seed": self.seed,
            "model": fingerprint(self.model),
            "groups": {g.name: g.size for g in self.groups},
            "evaluate": describe(self._evaluate),
            "tune": describe(self._tune),
        }


def _is_kept(candidate: Candidate) -> bool:
    """The original needs no keeping."""
    return candidate.tuned and candidate.can_win
