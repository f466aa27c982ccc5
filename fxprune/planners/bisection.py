"""Bisection: the smallest model that loses at most a given part of its accuracy, found automatically."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from rich.progress import Progress
from torch import Tensor, nn

from fxprune.cost import Cost, cost_model
from fxprune.errors import InputError
from fxprune.groups import Groups
from fxprune.plan import Plan
from fxprune.planners.contribution import CumulativeContribution
from fxprune.rewrite import rewrite

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Probe:
    """One model that the search tried.

    Attributes:
        rate: cumulative contribution rate.
        score: what `evaluate` said of it after tuning.
        accepted: whether it was good enough.
        cost: its MACs and parameters.
    """

    rate: float
    score: float
    accepted: bool
    cost: Cost


@dataclass(frozen=True)
class Search(Generic[M]):
    """What a search found.

    Attributes:
        plan: of the smallest accepted model; it keeps everything if none was accepted.
        model: that model, tuned.
        baseline: what `evaluate` said of the original.
        history: all probes, in order.
    """

    plan: Plan
    model: M
    baseline: float
    history: tuple[Probe, ...] = field(default=())


@dataclass(frozen=True)
class Bisection:
    """Bisect the cumulative contribution rate.

    The interval (0, 1] is halved until it is no longer than `precision`; each probe prunes the original at the middle,
    tunes it, and goes on below if `evaluate(probe) + tolerance >= evaluate(original)`, else above. Rates that lead to
    an architecture already tried are decided without trying it again.
    Source: Huang (master's thesis, USTB 2023), with the tuning inside the loop that the thesis describes in words.

    Attributes:
        tolerance: how much of the original's value may be lost, in the unit of `evaluate`.
        precision: where to stop; 0.01 takes 7 probes, 0.1 takes 4.
        progress: show a progress bar.
    """

    tolerance: float = 0.01
    precision: float = 0.01
    progress: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.precision < 1:
            raise InputError("precision out of range", seen=str(self.precision), remedy="give a number in (0, 1)")

    def __call__(
        self,
        model: M,
        groups: Groups,
        scores: Mapping[str, Tensor],
        evaluate: Callable[[nn.Module], float],
        tune: Callable[[M], object] | None = None,
    ) -> Search[M]:
        """
        Args:
            model: the original; untouched.
            groups: its groups.
            scores: from any scorer; computed once, on the original.
            evaluate: the quality of a model, higher is better. Use validation data, not the test set.
            tune: trains a pruned model in place (fine-tuning, or re-calibration of BatchNorm).
        """
        baseline = evaluate(model)
        found = Search(groups.plan({}), model, baseline)
        low, high = 0.0, 1.0
        tried: dict[tuple[int, ...], Probe] = {}
        with Progress(disable=not self.progress) as bar:
            task = bar.add_task("bisection", total=self.steps())
            while high - low > self.precision:
                rate = (low + high) / 2
                plan = CumulativeContribution(rate)(groups, scores)
                widths = tuple(plan.kept_counts().values())
                probe = tried.get(widths)
                if probe is None:
                    small = rewrite(model, plan)
                    probe = tried[widths] = self._probe(rate, plan, small, groups, baseline, evaluate, tune)
                    if probe.accepted:
                        found = Search(plan, small, baseline)
                low, high = (low, rate) if probe.accepted else (rate, high)
                bar.update(task, advance=1, description=f"rate {rate:.3f}: {probe.score:.4f}")
        return Search(found.plan, found.model, baseline, tuple(tried.values()))

    def steps(self) -> int:
        """Number of probes."""
        width, n = 1.0, 0
        while width > self.precision:
            width, n = width / 2, n + 1
        return n

    def _probe(
        self,
        rate: float,
        plan: Plan,
        small: M,
        groups: Groups,
        baseline: float,
        evaluate: Callable[[nn.Module], float],
        tune: Callable[[M], object] | None,
    ) -> Probe:
        if tune is not None:
            tune(small)
        score = evaluate(small)
        costs = cost_model(groups.graph, plan.heads)
        return Probe(rate, score, score + self.tolerance >= baseline, costs(costs.counts(plan)))
