"""What a search returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import nn

from fxprune.costs.macs import Cost
from fxprune.plan.plan import Plan

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Trial:
    """One candidate that was tried.

    Attributes:
        counts: kept channels of each group.
        cost: its MACs and parameters.
        fitness: what `evaluate` said of it, after tuning.
        seed: of its tuning.
        seconds: wall clock of its tuning and evaluation.
    """

    counts: dict[str, int]
    cost: Cost
    fitness: float
    seed: int
    seconds: float
