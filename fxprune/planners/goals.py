"""Goals: what a caller wants to keep, in one place, and the planner that does it."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from fxprune.analysis.groups import Groups
from fxprune.costs.latency import best_multiple
from fxprune.costs.latency.engines import Engine
from fxprune.errors import InputError, check_called, check_function, shown
from fxprune.plan.plan import Plan
from fxprune.planners.allocation.constraints import UNCONSTRAINED, Constraints, first_fit
from fxprune.planners.budget import AtBudget, Budget, Planner
from fxprune.planners.error_curves import ErrorCurves, Limit
from fxprune.planners.measures import Confirmed, Measures
from fxprune.planners.stepwise import Towards, Widths
from fxprune.planners.uniform import PerGroup, Uniform, check_pruning_ratio
from fxprune.scorers.joint_elimination import ErrorCurve

BUDGETS = ("macs", "parameters", "latency")
AUTO = "auto"


@dataclass(frozen=True)
class Goals:
    """What is to be left of a model: budgets, or a part of every group.

    Attributes:
        macs: MACs that may stay: a part of the original's in (0, 1], or a number above 1.
        parameters: parameters that may stay, likewise.
        latency: time of a forward that may stay: a part of the original's in (0, 1], or milliseconds above 1. It is
            predicted from measured ops (`fxprune.latency.measure`).
        pruning_ratio: part of every group's channels to remove, in [0, 1), or {name or pattern: part}.
        round_to: kept channels of each group are multiples of this; "auto" for what `fxprune.latency.best_multiple`
            measures. None becomes "auto" where `latency` is an engine's, and else 1.
        engine: where latency is measured (see `fxprune.latency.measure`); None for PyTorch, op by op.

    Raises:
        InputError: a value out of range, or goals that exclude each other.

    >>> Goals(macs=0.5, pruning_ratio=0.5)
    Traceback (most recent call last):
    fxprune.errors.InputError: two kinds of goals; seen: macs=0.5 and pruning_ratio=0.5; remedy: give budgets (macs=, \
parameters=, latency=), or pruning_ratio=
    """

    macs: float | None = None
    parameters: float | None = None
    latency: float | None = None
    pruning_ratio: float | Mapping[str, float] | None = None
    round_to: int | str | None = None
    engine: Engine | None = None

    def __post_init__(self) -> None:
        for name, value in self.budgets().items():
            _check_budget(name, value)
        if self.pruning_ratio is not None:
            _check_ratio(self.pruning_ratio)
            for name, value in self.budgets().items():
                seen = f"{name}={value} and pruning_ratio={self.pruning_ratio}"
                remedy = f"give budgets ({', '.join(f'{b}=' for b in BUDGETS)}), or pruning_ratio="
                raise InputError("two kinds of goals", seen=seen, remedy=remedy)
        if self.round_to is None:
            object.__setattr__(self, "round_to", AUTO if self.engine is not None and self.latency is not None else 1)
        if not isinstance(self.round_to, str) or self.round_to != AUTO:
            self.constraints()
        remedy = "give fxprune.latency.onnx_runtime, fxprune.latency.compiled, or a function (model, inputs) -> run"
        check_function("the engine", self.engine, remedy)
        if self.engine is not None and self.latency is None and self.round_to != AUTO:
            remedy = 'give it with latency= or round_to="auto", or leave it out'
            raise InputError(
                "engine= has nothing to measure",
                seen=getattr(self.engine, "__name__", repr(self.engine)[:60]),
                remedy=remedy,
            )

    def measured(self, device: torch.device, dtype: torch.dtype) -> Goals:
        """The same goals, with a number in place of `round_to="auto"`.

        Args:
            device: of the model.
            dtype: of its weights.
        """
        if self.round_to != AUTO:
            return self
        left = None if self.latency is None else self.engine
        return replace(self, round_to=best_multiple(self.engine, device=device, dtype=dtype), engine=left)

    def budgets(self) -> dict[str, float]:
        """The budgets that are given."""
        return {name: value for name in BUDGETS if (value := getattr(self, name)) is not None}

    def given(self) -> bool:
        """Whether there is any goal."""
        return self.pruning_ratio is not None or bool(self.budgets())

    def constraints(self) -> Constraints:
        """Which widths are allowed."""
        return replace(UNCONSTRAINED, round_to=self.round_to)  # type: ignore[arg-type]  # which checks it

    def step(self, planner: Planner, number: int, steps: int, first: Groups) -> Planner:
        """The planner of one of several steps: in each, the same part of what is left goes.

        Args:
            planner: what reaches the goals, from `planner` or of `candidates`; the last step's.
            number: of the step, from 1.
            steps: how many there are.
            first: the original's groups, of whose widths ratios are parts.
        """
        if steps == 1:
            return planner
        if self.pruning_ratio is not None:
            # Ratios do not look at scores. What is left of a cut model is no measure for them.
            alike = {g.name: torch.ones(g.size) for g in first}
            planner = Widths(self._of_ratios()(first, alike).kept_counts(), self.constraints())
        return Towards(planner, number / steps, {g.name: g.size for g in first}, self.constraints())

    def completed(self, known: Mapping[str, float], groups: Groups) -> dict[str, float]:
        """The costs of the original: those that are known, and what budgets lack, measured on its groups."""
        lacks = self.budgets().keys() - known.keys()
        return {**(self.original(Measures(groups, self.engine)) if lacks else {}), **known}

    def original(self, measures: Measures) -> dict[str, float]:
        """The costs of the original by name, of which budgets are parts.

        Raises:
            InputError: an absolute budget that no width meets.
        """
        for name, value in self.budgets().items():
            if value > 1:
                _check_reachable(name, value, measures.at(name, measures.narrowest()))
        return {name: measures.whole(name) for name in self.budgets()}

    def planner(self, measures: Measures, original: Mapping[str, float]) -> Planner:
        """The planner that reaches the goals.

        Args:
            measures: of the model that is planned for.
            original: the costs that budgets in (0, 1] are parts of, by name.

        Returns:
            A planner that keeps everything if the model meets all budgets already.
        """
        if self.pruning_ratio is not None:
            return self._of_ratios()
        tight = self._tight(measures, original)
        if not tight:
            return Uniform(0.0, self.constraints())
        return Budget(*self._joint(tight, measures), self.constraints())

    def candidates(self, measures: Measures, original: Mapping[str, float]) -> tuple[Planner, ...]:
        """Where scores are errors: planners that reach the goals and of whose plans the best can be taken.

        These are one ratio for all groups, and widths from error curves: as they are, as parts of what the readers of
        each group give, and half-way between; only `planner`'s where the goals leave no choice. What errors are worth
        to the outputs is measured for each group alone, and says less where many groups are cut deep.

        Args:
            measures: as for `planner`.
            original: likewise.
        """
        tight = {} if self.pruning_ratio is not None else self._tight(measures, original)
        one = self.one_ratio(measures, original)
        if not tight:
            return (one,)
        limits = tuple(Limit(limit, measure=measures.of(name)) for name, limit in tight.items())
        curves = [_Tempered(limits, power, self.constraints()) for power in _POWERS]
        return one, *curves

    def one_ratio(self, measures: Measures, original: Mapping[str, float]) -> Planner:
        """`planner`, but budgets are reached by one ratio for all groups."""
        tight = {} if self.pruning_ratio is not None else self._tight(measures, original)
        if not tight:
            return self.planner(measures, original)
        return AtBudget(Uniform, *self._joint(tight, measures), self.constraints())

    def confirmed(
        self, measures: Measures, plain: Callable[[], Planner], last: Callable[[], Planner] | None = None
    ) -> Planner:
        """A planner whose plans are run where they are served, if a latency there is among the goals.

        Args:
            measures: of the model that is planned for.
            plain: makes a planner, which takes no time, of what `measures` knows.
            last: likewise, the planner whose plan is wanted, if it is another one.
        """
        if self.engine is None or self.latency is None:
            return (last or plain)()
        return Confirmed(measures, plain, last)

    def untouched(self, groups: Groups, plan: Plan) -> str:
        """A sentence where a budget, or a ratio above zero, has removed nothing; else nothing."""
        ratio, kept = self.pruning_ratio, plan.kept_counts()
        if ratio is None:
            met = " and ".join(f"{name}={value:g}" for name, value in self.budgets().items() if value != 1)
            whole = all(kept.get(g.name, g.size) == g.size for g in groups)
            return f"nothing was removed: the model as it is meets {met}" if met and whole else ""
        table = ratio if isinstance(ratio, Mapping) else {"*": ratio or 0.0}
        widths = sorted({g.size for g in groups if first_fit(table, g, 0.0) > 0})
        if not widths or any(kept.get(g.name, g.size) < g.size for g in groups):
            return ""
        seen = ", ".join(map(str, widths[:8])) + (", ..." if len(widths) > 8 else "")
        given, remedy = f"pruning_ratio={ratio}", "give a larger ratio"
        if self.round_to != 1:
            given, remedy = f"{given} with round_to={self.round_to}", f"{remedy} or a smaller round_to"
        return f"nothing was removed: {given} leaves widths of {seen} whole; {remedy}"

    def _of_ratios(self) -> Planner:
        if isinstance(self.pruning_ratio, Mapping):
            return PerGroup(self.pruning_ratio, constraints=self.constraints())
        assert self.pruning_ratio is not None
        return Uniform(self.pruning_ratio, self.constraints())

    def _tight(self, measures: Measures, original: Mapping[str, float]) -> dict[str, float]:
        """The parts of the model's own costs that may stay, of the budgets that it does not meet already."""
        limits = {n: measures.part(n, relative(v, original[n]) * original[n]) for n, v in self.budgets().items()}
        return {n: limit for n, limit in limits.items() if limit < 1}

    def _joint(self, tight: Mapping[str, float], measures: Measures) -> tuple[float, Any]:
        """One budget that stands for all: the part that may stay, and the measure."""
        if len(tight) == 1:
            ((name, limit),) = tight.items()
            return limit, measures.of(name)
        return 1 / max(1 / limit for limit in tight.values()), measures.tightest(tight)


_POWERS = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class _Tempered:
    """Error curves between their own unit (power 1) and parts of what each reader gives (power 0)."""

    limits: tuple[Limit, ...]
    power: float
    constraints: Constraints

    def __call__(self, groups: Groups, scores: Mapping[str, Tensor]) -> Plan:
        readers = {g.name: max(1, len(g.consumers)) ** (1 - self.power) for g in groups}
        return ErrorCurves(
            self.limits, readers, lambda s: ErrorCurve.of_errors(s).tempered(self.power), self.constraints
        )(groups, scores)


def relative(budget: float, whole: float) -> float:
    """A budget as a part of the original's cost.

    >>> relative(0.5, 4000), relative(1000, 4000)
    (0.5, 0.25)
    """
    return budget if budget <= 1 else min(1.0, budget / whole)


def _check_reachable(name: str, value: float, least: float) -> None:
    if value < least:
        seen = f"{name}={value:g}, where one channel of each group costs {least:,.4g}"
        remedy = f"a larger number; those above 1 are absolute, and {name}=0.5 keeps half"
        raise InputError("the budget cannot be reached", seen=seen, remedy=remedy)


def _check_budget(name: str, value: Any) -> None:
    huge = isinstance(value, int) and value > sys.float_info.max
    if isinstance(value, bool) or not isinstance(value, Real) or huge or not 0 < float(value) < math.inf:
        what = "milliseconds" if name == "latency" else f"a number of {name} above 1"
        remedy = f"give what may stay: a part of the original in (0, 1], or {what}"
        raise InputError(f"{name} out of range", seen=shown(value), remedy=remedy)


def _check_ratio(ratio: Any) -> None:
    if isinstance(ratio, Mapping) and not ratio:
        remedy = 'give {name or pattern of groups or modules: part}, such as {"*": 0.5}, or one number for all'
        raise InputError("pruning_ratio names nothing", seen="{}", remedy=remedy)
    for value in ratio.values() if isinstance(ratio, Mapping) else [ratio]:
        check_pruning_ratio(value)


_CALLED_WITH = {"scorer": ("model", "groups", "data"), "planner": ("groups", "scores")}


def check_callable(what: str, value: Any, room: Any, example: str) -> None:
    """Refuse a scorer or planner that is a name, a class or a number, or the other of the two.

    Args:
        what: "scorer" or "planner".
        value: what was given; None is fine.
        room: the module that holds those of fxprune.
        example: how one is given.

    Raises:
        InputError: it cannot be called with what a pruning gives it.
    """
    if value is None:
        return
    if isinstance(value, type):
        raise InputError(f"the {what} is a class", seen=value.__name__, remedy=f"give an instance: {value.__name__}()")
    if isinstance(value, str):
        lower = {n.lower(): n for n in room.__all__ if n[0].isupper()}
        near = difflib.get_close_matches(value.lower(), lower, 1) or [n for n in lower if value.lower() in n][:1]
        example = f"fxprune.{room.__name__.rpartition('.')[2]}.{lower[near[0]]}()" if near else example
    arguments = len(_CALLED_WITH[what])
    check_called(f"the {what}", value, f"give an object such as {example}", arguments)


GOAL_NAMES = tuple(f.name for f in fields(Goals))
