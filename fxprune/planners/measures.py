"""Measures: what a model costs as a function of its widths, and plans that an engine confirms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from fxprune.analysis.groups import Groups
from fxprune.costs.latency import Latency, measure
from fxprune.costs.latency.engines import Engine
from fxprune.costs.latency.grid import Floats
from fxprune.costs.latency.served import part_in_engine
from fxprune.costs.macs import Cost, CostModel
from fxprune.errors import InputError
from fxprune.module.isolation import random_states
from fxprune.optional import progress_bar
from fxprune.plan.plan import Plan
from fxprune.planners.budget import Planner

_MILLI = 1e-3
_CLOSE = 0.05  # of the measured latency; engines' times differ by some percent from run to run
_ROUNDS = 6  # of planning, each with a model that is made ready for the engine
_LAST = 2  # likewise, where a plan takes the repair of several models


class Measures:
    """What a model costs as a function of its widths, measured when it is asked for.

    Args:
        groups: of the model.
        engine: where latency is measured; None for PyTorch.
        progress: whether measuring latencies shows a progress bar.

    Attributes:
        engine: its name; empty for PyTorch.
    """

    def __init__(self, groups: Groups, engine: Engine | None = None, progress: bool = True) -> None:
        self._groups, self._engine, self._progress = groups, engine, progress
        self._latency: Latency | None = None
        self._times: dict[frozenset[tuple[str, int]], float] = {}
        self._ran = [(1.0, 1.0)]  # parts of the model's latency, predicted and measured
        self.engine: str = "" if engine is None else getattr(engine, "__name__", type(engine).__name__)
        self._model = CostModel(groups.analysis)

    def cost(self, plan: Plan | None = None) -> Cost:
        """MACs and parameters of the model after `plan`, or as it is."""
        return self._model(self._model.counts(plan))

    def of(self, name: str) -> Any:
        """A measure as `Budget` takes it."""
        return self._seconds() if name == "latency" else name

    def whole(self, name: str) -> float:
        """The cost of the model as it is; latency in milliseconds."""
        return self.at(name, {})

    def part(self, name: str, cost: float) -> float:
        """What part of the model's own cost a cost is, as the measure for planners counts it."""
        if not (whole := self.whole(name)):
            raise InputError(f"the model costs no {name}", seen="0", remedy="give example inputs of at least a sample")
        part = cost / whole
        return part if name != "latency" or part >= 1 else _between(part, *np.transpose(self._rising())[::-1])

    def timed(self, counts: Mapping[str, int]) -> float:
        """Milliseconds of a forward when `counts` channels stay: as it ran in the engine, or as predicted."""
        return self._times.get(frozenset(counts.items())) or self.at("latency", counts)

    def ran_in(self, counts: Mapping[str, int]) -> str:
        """The engine's name if a model of these widths ran there; else nothing: its time is predicted."""
        return self.engine if frozenset(counts.items()) in self._times else ""

    def confirm(self, counts: Mapping[str, int]) -> bool:
        """Run a smaller model where it is served, once; whether it takes what was predicted. The next is corrected."""
        key = frozenset(counts.items())
        if key in self._times or all(counts.get(g.name, g.size) == g.size for g in self._groups):
            return True
        assert self._engine is not None
        whole = self.whole("latency")
        part = self.at("latency", counts) / whole
        predicted = _between(part, *np.transpose(self._rising()))
        with random_states(), progress_bar(self._progress) as bar:
            bar.add_task(f"the plan in {self.engine}", total=None)
            ran = part_in_engine(self._groups, counts, self._engine)
        self._times[key] = whole * ran
        self._ran.append((part, ran))
        return abs(predicted / ran - 1) <= _CLOSE

    def _rising(self) -> list[tuple[float, float]]:
        """Predicted and measured parts of what ran, where neither falls."""
        parts, ran = np.transpose(sorted(self._ran))
        return list(zip(parts, np.maximum.accumulate(ran), strict=True))

    def at(self, name: str, counts: Mapping[str, int]) -> float:
        """The cost when `counts` channels of the groups stay."""
        if name == "latency":
            return self._seconds()(counts) / _MILLI
        sizes = dict(zip(self._model.groups, self._model.sizes, strict=True))
        vector = self._model.counts(None)
        vector[:] = [counts.get(group, size) for group, size in sizes.items()]
        return float(getattr(self._model, name)(vector))

    def narrowest(self) -> dict[str, int]:
        """One channel of each group."""
        return dict.fromkeys(self._model.groups, 1)

    def tightest(self, limits: Mapping[str, float]) -> Callable[[Mapping[str, int]], float]:
        """A measure that is within its budget where all costs are within theirs: the largest of cost / limit.

        Args:
            limits: {name: part of the model's cost that may stay}.
        """
        whole = {name: self.whole(name) * limit for name, limit in limits.items()}

        def cost(counts: Mapping[str, int]) -> float:
            return max(self.at(name, counts) / limit for name, limit in whole.items())

        return cost

    def _seconds(self) -> Latency:
        if self._latency is None:
            self._latency = measure(self._groups, progress=self._progress, engine=self._engine)
        return self._latency


@dataclass(frozen=True)
class Confirmed:
    """Plans within a latency that their engine confirms: planned models run there until the prediction holds for them.

    What is predicted from other models is least right where a planner has looked for what seems cheap. So the model of
    each plan runs in the engine, the budget is corrected by what it took there, and the plan is made again.

    Attributes:
        measures: of the model.
        plain: makes a planner of what is known so far, which takes no time.
        last: makes the planner whose plan is wanted, of what is known then; None for `plain`.
    """

    measures: Measures
    plain: Callable[[], Planner]
    last: Callable[[], Planner] | None = None

    def __call__(self, groups: Groups, scores: Mapping[str, Tensor]) -> Plan:
        plan = self._settled(self.plain, _ROUNDS, groups, scores)
        return plan if self.last is None else self._settled(self.last, _LAST, groups, scores)

    def _settled(self, make: Callable[[], Planner], rounds: int, groups: Groups, scores: Mapping[str, Tensor]) -> Plan:
        """The last plan that has run, which the engine confirms unless it took all rounds or nothing is left to cut."""
        plan = make()(groups, scores)
        for left in reversed(range(rounds)):
            if self.measures.confirm(plan.kept_counts()) or not left:
                break
            try:
                plan = make()(groups, scores)
            except InputError:  # the budget as it is corrected lies below the smallest widths
                break
        return plan


def _between(x: float, xs: Floats, ys: Floats) -> float:
    """On the lines between points that rise from the origin."""
    return float(np.interp(x, [0.0, *xs], [0.0, *ys]))
