"""The kitchen: how the candidates of a progressive search are made from the model as it is by then, and judged."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import nn

from fxprune.plan.plan import Plan
from fxprune.rewriting.rewrite import rewrite
from fxprune.search.progressive.activation_cache import Attempt, Recording, Remembered
from fxprune.search.trial import Candidate, Evaluate, Tune

M = TypeVar("M", bound=nn.Module)
Refit = Callable[[nn.Module, nn.Module, Plan, Iterable[Any]], object]
"""(model before, model after, the plan between them, data): changes weights of the model after, in place."""


@dataclass(frozen=True)
class Cut:
    """What makes a candidate of the model before it, as a tuning: cut, refit against a reference, tune."""

    relative: Plan
    refit: Refit | None
    reference: nn.Module
    plan: Plan
    data: Iterable[Any]
    tune: Tune | None

    def __call__(self, model: nn.Module) -> None:
        rewrite(model, self.relative, inplace=True)
        if self.refit is not None:
            self.refit(self.reference, model, self.plan, self.data)
        if self.tune is not None:
            self.tune(model)


class Candidates(Generic[M]):
    """How each candidate of the present iteration is made.

    What the modules of an iteration's model give while it is evaluated is remembered for the attempts that follow.

    Args:
        model: the original.
        evaluate: judges a model.
        remembered: where to.
    """

    def __init__(self, model: M, evaluate: Evaluate, remembered: Remembered) -> None:
        self._model, self._evaluate, self._remembered = model, evaluate, remembered
        self._recipes: dict[str, tuple[M, str, Cut]] = {}

    def add(self, candidate: Candidate, base: M, before: Candidate, cut: Cut) -> None:
        """Learn how a candidate is made: by `cut` from `base`, the model of the candidate `before`."""
        self._recipes[candidate.key] = (base, before.key, cut)

    def forget_all_but(self, candidate: Candidate) -> None:
        """The recipes hold models."""
        self._recipes = {k: v for k, v in self._recipes.items() if k == candidate.key}

    def make(self, candidate: Candidate) -> tuple[M, Tune | None, Evaluate]:
        recording = Recording(self._evaluate, self._remembered, candidate.key)
        if not candidate.tuned:
            return rewrite(self._model, candidate.plan), None, recording
        base, before, cut = self._recipes[candidate.key]
        if candidate.can_win:
            return copy.deepcopy(base), cut, recording
        attempt = Attempt(cut, self._evaluate, self._remembered, before)
        return copy.deepcopy(base), attempt.make, attempt.evaluate
