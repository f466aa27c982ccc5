"""How the candidates of a progressive search are made from the model before them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import nn

from fxprune.analysis.continued import groups_left
from fxprune.analysis.groups import Groups
from fxprune.plan.plan import Ints, Plan
from fxprune.planners.allocation.choose import best
from fxprune.rewriting.copying import copied
from fxprune.rewriting.rewrite import rewrite
from fxprune.scorers.base import check_scores
from fxprune.search.progressive.layer_by_layer import Layers
from fxprune.search.trial import Candidate, Cutting, Task, Tune, tuned

Refitter = Callable[[nn.Module, nn.Module, Plan, Iterable[Any]], object]
"""(model before, model after, the plan between them, data): changes weights of the model after, in place."""
Counts = Mapping[str, int]
"""The channels that are to be left in some groups, which shrink together."""


@dataclass(frozen=True)
class Present:
    """The model that an iteration starts from.

    Attributes:
        model: the model.
        groups: its groups; they have the names of the original's.
        original: the groups of the original.
        kept: which of the original's channels each group has.
        key: of the candidate that it is.
    """

    model: nn.Module
    groups: Groups
    original: Groups
    kept: Mapping[str, Ints]
    key: str

    def plan(self, inside: Mapping[str, Ints] | None = None) -> Plan:
        """Of the original, when of some groups only these of their present channels stay."""
        return self.original.plan({**self.kept, **{n: self.kept[n][keep] for n, keep in (inside or {}).items()}})

    def after(self, model: nn.Module, plan: Plan, key: str) -> Present:
        """The same with a model that the plan makes of the original."""
        kept = {**self.kept, **{n: g.kept for n, g in plan.groups.items()}}
        arguments, keywords = self.original.graph.inputs
        groups = groups_left(model, arguments or keywords, self.original, plan)
        return replace(self, model=model, groups=groups, kept=kept, key=key)


class Maker(Protocol):
    """Makes the candidates of one iteration."""

    def attempts(self, wanted: Sequence[Counts]) -> list[Candidate]:
        """The present model with other widths, one set of them at a time."""

    def step(self, wanted: Sequence[Counts], name: str) -> Candidate:
        """The present model with all these widths, tuned; they are in execution order."""


@dataclass(frozen=True)
class Cut(Cutting):
    """Cut the model before, refit it against a reference, and tune it, in place."""

    relative: Plan
    refit: Refitter | None
    reference: nn.Module
    plan: Plan
    data: Iterable[Any] | None
    tune: Tune | None

    def __call__(self, model: nn.Module) -> None:
        rewrite(model, self.relative, inplace=True)
        if self.refit is not None and self.data is not None:
            self.refit(self.reference, model, self.plan, self.data)
        if self.tune is not None:
            tuned(self.tune, model)


class Together:
    """All channels are chosen before the iteration; then all readers are refitted."""

    def __init__(self, task: Task[Any], refit: Refitter | None, present: Present) -> None:
        self._task, self._refit, self._present = task, refit, present
        view = present.groups.subset([g for g in present.groups if g.name in present.kept])
        self._scores = task.scorer(present.model, view, task.data)
        check_scores(self._scores, view)

    def attempts(self, wanted: Sequence[Counts]) -> list[Candidate]:
        return [self._candidate(counts, f"attempt on {self._present.key}", last=False) for counts in wanted]

    def step(self, wanted: Sequence[Counts], name: str) -> Candidate:
        return self._candidate({n: c for counts in wanted for n, c in counts.items()}, name, last=True)

    def _candidate(self, counts: Counts, name: str, *, last: bool) -> Candidate:
        inside = {n: best(self._scores[n], count) for n, count in counts.items()}
        present, task = self._present, self._task
        relative, plan = present.groups.plan(inside), present.plan(inside)
        # An attempt touches one group; the step repairs all that the original's plan has cut so far.
        reference, between = (task.model, plan) if last else (present.model, relative)
        cut = Cut(relative, self._refit, reference, between, task.data, task.tune if last else None)
        return Candidate(plan, base=name, can_win=last, source=present.model, change=cut)


class InTurn:
    """The channels of each group are chosen, and its readers refitted, on the model as the groups before it left it."""

    def __init__(self, layers: Layers, present: Present) -> None:
        self._layers, self._present = layers, present

    def attempts(self, wanted: Sequence[Counts]) -> list[Candidate]:
        now, name = self._present, f"attempt on {self._present.key}"
        return [
            Candidate(now.plan(kept), base=name, can_win=False, source=now.model, change=change)
            for change, kept in self._layers.changes(now.model, now.plan(), now.groups, wanted)
        ]

    def step(self, wanted: Sequence[Counts], name: str) -> Candidate:
        now = replace(self._present, model=copied(self._present.model))
        for counts in wanted:
            ((change, kept),) = self._layers.changes(now.model, now.plan(), now.groups, [counts])
            change(now.model)
            now = now.after(now.model, now.plan(kept), now.key)
        return Candidate(now.plan(), base=name, source=now.model)
