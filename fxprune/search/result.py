"""What a search returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Generic, TypeVar

from torch import nn

from fxprune.costs.macs import Cost
from fxprune.plan.plan import Plan
from fxprune.storage.html import table

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")


@dataclass(frozen=True, repr=False)
class Search(Generic[M, T]):
    """What a search found.

    Attributes:
        plan: of the best model; it keeps everything if none was good enough.
        model: that model, tuned; the original itself if none was good enough.
        baseline: the fitness of the original.
        history: what was tried, in order.
        finished: False if it was interrupted (Ctrl-C); the rest is then the best so far.
    """

    plan: Plan
    model: M
    baseline: float
    history: tuple[T, ...] = ()
    finished: bool = True

    def __repr__(self) -> str:
        state = "" if self.finished else ", interrupted"
        name = type(self.model).__name__
        return f"Search({name}; {self.plan!r}; {len(self.history)} tried, the original at {self.baseline:g}{state})"

    def _repr_html_(self) -> str:
        names = list(dict.fromkeys(f.name for tried in self.history for f in fields(tried)))  # type: ignore[arg-type]
        rows = ([_cell(getattr(tried, name, "")) for name in names] for tried in self.history)
        return table(repr(self), names, rows)


def _cell(value: object) -> object:
    """A value of a search's history in a few characters."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "\n".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, Mapping) else value


@dataclass(frozen=True)
class Trial:
    """One candidate that was tried.

    Attributes:
        counts: kept channels of each group.
        cost: its MACs and parameters.
        fitness: the value of `evaluate`, after tuning.
        seed: of its tuning.
        seconds: wall clock of its tuning and evaluation.
    """

    counts: dict[str, int]
    cost: Cost
    fitness: float
    seed: int
    seconds: float
