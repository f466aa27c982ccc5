"""How the candidates of a progressive search are made from the model before them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from fxprune.plan.plan import Plan
from fxprune.rewriting.rewrite import rewrite
from fxprune.search.trial import Tune

Refitter = Callable[[nn.Module, nn.Module, Plan, Iterable[Any]], object]
"""(model before, model after, the plan between them, data): changes weights of the model after, in place."""


@dataclass(frozen=True)
class Cut:
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
            self.tune(model)
