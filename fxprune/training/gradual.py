"""Gradual: a model that shrinks in place while it trains, with the optimizers and averages that follow it."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Generic, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

from fxprune.analysis.groups import Groups
from fxprune.costs.macs import Cost, cost
from fxprune.errors import InputError, check_kind
from fxprune.module.batches import device_of, dtype_of
from fxprune.module.data import Batches
from fxprune.module.names import by_name
from fxprune.module.random_inputs import named_data
from fxprune.module.tensors import tensors_of
from fxprune.module.undo import whole_or_not
from fxprune.module.wrappers import check_unwrapped
from fxprune.pipeline import Job, job_of
from fxprune.plan.plan import Plan
from fxprune.planners.budget import Planner
from fxprune.planners.goals import GOAL_NAMES, Goals, Measures
from fxprune.planners.nearest import NearestOutput
from fxprune.reconstruction import repair
from fxprune.result import Report, Result
from fxprune.rewriting.feature_info import mend_feature_info
from fxprune.rewriting.rewrite import rewrite
from fxprune.training.averages import copies_of, in_type_of, take_values
from fxprune.training.optimizers import all_in, follow, warn_of_hooks
from fxprune.training.ranks import decided, in_all, spread
from fxprune.verification.proof import of_both

M = TypeVar("M", bound=nn.Module)
_SAMPLES = 1024
_OPTIONS = ("ignored", "only", "heads", "data", "unpack", "repair", "scorer", "verify")


class Gradual(Generic[M]):
    """Prunes a model in place while it trains.

    Before each of the given epochs the same part of what is left goes, as with `steps=` of `fxprune.prune`, so that the
    goal is met at the last of them. Parameters that are cut become new ones; the optimizer gets them, with its state
    cut along, and averages of the weights are cut (and repaired) as the model is. Nothing else may hold parameters:

    - `DistributedDataParallel`: give the model in it, in every process, and wrap the model again where `step` returned
      True. Rank 0 decides; all get its plan and weights.
    - `torch.compile`: give the model in it; the compiled one compiles again by itself.

    Args:
        model: changed in place.
        example_inputs: as for `fxprune.trace`.
        epochs: before which a part goes, such as `range(4)` or `[0, 5, 10]`.
        optimizer: one or several optimizers of the model's parameters; None for none.
        ema: one or several averages of the model's weights: copies of the model, or wrappers that hold one as
            `.module`, as `torch.optim.swa_utils.AveragedModel` does.
        goals: the goal (`macs`, `parameters`, `latency`, `engine`, `pruning_ratio`, `round_to`), and `ignored`,
            `only`, `heads`, `data`, `unpack`, `repair`, `scorer` and `verify`, as for `fxprune.prune`. `data` are read
            at each cut, the first 1,024 samples.

    Attributes:
        optimizers: what follows the model; the list may be set anew between two steps.
        averages: likewise, as given by `ema`.
        plan: what was cut of the original so far; None before the first cut.

    Raises:
        InputError: no goal, unknown options, no epochs, a wrapped model, or an optimizer or average of another model.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))
    >>> optimizer = torch.optim.Adam(net.parameters())
    >>> x = torch.rand(16, 8)
    >>> pruner = fxprune.Gradual(net, x, epochs=[0, 2], optimizer=optimizer, macs=0.25)
    >>> for epoch in range(4):
    ...     cut = pruner.step(epoch)
    ...     net(x).square().sum().backward()
    ...     optimizer.step()
    ...     print(epoch, cut, net[0].out_features)
    0 True 32
    1 False 32
    2 True 16
    3 False 16
    """

    def __init__(
        self,
        model: M,
        example_inputs: Any,
        epochs: Iterable[int],
        *,
        optimizer: Optimizer | Iterable[Optimizer] | None = None,
        ema: nn.Module | Iterable[nn.Module] | None = None,
        **goals: Any,
    ) -> None:
        check_kind("the model", model, nn.Module, "give a torch.nn.Module")
        check_unwrapped(model)
        self.model, self._inputs, self.epochs = model, example_inputs, _epochs(epochs)
        goals["pruning_ratio"] = by_name(model, goals.get("pruning_ratio"))
        given, self._options = _parted(goals)
        self._goals = given.measured(device_of(model), dtype_of(model))
        self.optimizers: list[Optimizer] = _several(optimizer, Optimizer)
        self.averages: list[nn.Module] = _several(ema, nn.Module)
        copies_of(self.averages, model)
        for one in self.optimizers:
            _check_optimizer(one, model)
        self.plan: Plan | None = None
        self._done = 0
        self._groups: Groups | None = None  # of the original
        self._before: Cost | None = None
        self._whole: dict[str, float] = {}
        self._report: Report | None = None

    def __repr__(self) -> str:
        told = "" if self._report is None else f"; {self._report!r}"
        return f"Gradual({type(self.model).__name__}; {self._done} of {len(self.epochs)} cuts made{told})"

    def step(self, epoch: int) -> bool:
        """Make the cuts that are due before an epoch; epochs that were left out are caught up on.

        Call it between two optimizer steps: gradients of what is cut are dropped.

        Args:
            epoch: the number of the epoch that begins.

        Returns:
            Whether the model was cut.

        Raises:
            InputError, ProofError, TraceError: as `fxprune.prune`; nothing was changed by this cut.
        """
        check_kind("the epoch", epoch, numbers.Integral, "give the number of the epoch that begins")
        self.optimizers = _several(self.optimizers, Optimizer)
        self.averages = _several(self.averages, nn.Module)
        due = sum(e <= epoch for e in self.epochs)
        cut = due > self._done
        while self._done < due:
            self._cut(self._done + 1)
        if cut and self._done == len(self.epochs):
            self._tell_if_untouched()
        return cut

    @property
    def cuts(self) -> int:
        """How many of the cuts were made."""
        return self._done

    @property
    def result(self) -> Result[M]:
        """The model as it is now, the plan that makes it of the original, and the report; `result.save(path)` keeps it.

        Raises:
            InputError: nothing was cut yet.
        """
        if self.plan is None or self._report is None:
            raise InputError("nothing was cut yet", remedy=f"call step(epoch) with epoch >= {self.epochs[0]}")
        return Result(self.model, self.plan, self._report)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold beside the model and the optimizer: the plan, and how far the steps are."""
        text = "" if self.plan is None else self.plan.to_json()
        return {"plan": text, "done": self._done, "of": len(self.epochs), "whole": dict(self._whole)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Cut the full-size model, its optimizers and averages as a checkpoint says; then load their own states.

        Args:
            state: from `state_dict`.

        Raises:
            InputError: the model was cut already, the state is none, or no epoch is left for the cuts that it lacks.
            PlanError: the plan is damaged, or for another model.
        """
        if self._done:
            raise InputError("the model was cut already", remedy="load the state before the first step")
        self._check_state(state)
        with self._whole_or_not():
            if state["plan"]:
                self._groups = self._job().groups(self.model)
                self._before, self._whole = cost(self._groups), self._goals.completed(state["whole"], self._groups)
                self._apply(plan := Plan.from_json(state["plan"], "the state of fxprune.Gradual"), None)
                report = replace(self._plain_report(self._groups, self._before), after=cost(self._groups, plan))
                self._tell(plan, report)
            self._done = state["done"]

    def _check_state(self, state: Any) -> None:
        if not _is_state(state):
            raise InputError("this is no state of a pruner", seen=repr(state)[:60], remedy="give one of state_dict()")
        done, of = state["done"], state.get("of", len(self.epochs))
        if len(self.epochs) <= done < of:  # the goal would never be reached
            seen, remedy = f"{done} of {of} cuts made, {len(self.epochs)} epochs", f"give at least {done + 1} epochs"
            raise InputError("no epoch is left for the cuts that the state lacks", seen=seen, remedy=remedy)

    def _cut(self, number: int) -> None:
        made, text = decided(partial(self._pruned, number), _plan_as_text)
        plan = Plan.from_json(text)
        result = self._as_planned_elsewhere(plan) if made is None else made
        if self._groups is None:
            self._groups, self._before = result.report.groups, result.report.before
        whole = plan if self.plan is None else self.plan.then(plan)
        with self._whole_or_not():
            self._apply(plan, result.model)
            mend_feature_info(result.report.groups.graph, self.model)
            self._tell(whole, result.report)
            self._done = number

    @contextmanager
    def _whole_or_not(self) -> Iterator[None]:
        """Model, averages, optimizers and what is noted of them are as before, unless the block ends well."""
        before, optimizers = dict(vars(self)), [inner for one in self.optimizers for inner in all_in(one)]
        try:
            with whole_or_not([self.model, *self.averages], optimizers):
                yield
        except BaseException:
            vars(self).update(before)
            raise

    def _as_planned_elsewhere(self, plan: Plan) -> Result[M]:
        """What rank 0 has decided; its values come later."""
        groups = self._job().groups(self.model)
        report = replace(self._plain_report(groups, cost(groups)), after=cost(groups, plan))
        return Result(rewrite(self.model, plan), plan, report)

    def _pruned(self, number: int) -> Result[M]:
        """A smaller copy."""
        return self._job().in_steps(self.model, Goals(), partial(self._planned, number), 1)

    def _before_now(self) -> tuple[Groups, Plan] | None:
        return None if self._groups is None or self.plan is None else (self._groups, self.plan)

    def _planned(self, number: int, groups: Groups, scores: Mapping[str, Tensor]) -> Plan:
        measures = Measures(groups, self._goals.engine)
        if not self._whole:
            self._whole = self._goals.original(measures)
        planner = self._goals.step(self._planner(measures), number, len(self.epochs), self._groups or groups)
        return planner(groups, scores)

    def _planner(self, measures: Measures) -> Planner:
        """What reaches the goal at once."""
        data, repaired = self._options.get("data"), self._options.get("repair", True)
        reach = self._goals.one_ratio if (random := isinstance(data, str)) else self._goals.planner
        plain = partial(reach, *(given := (measures, self._whole)))
        if data is None or random or not repaired or self._options.get("scorer") is not None:
            return self._goals.confirmed(measures, plain)
        return self._goals.confirmed(measures, plain, lambda: NearestOutput(self._goals.candidates(*given), data))

    def _apply(self, plan: Plan, small: M | None) -> None:
        """Cut all that holds the weights."""
        warn_of_hooks(self.model, plan)
        averages = [(average, self._average(average, plan)) for average in copies_of(self.averages, self.model)]
        old = tensors_of(self.model)
        rewrite(self.model, plan, inplace=True)
        new = tensors_of(self.model)
        renewed = {old[name]: (name, new[name]) for name in old if new[name] is not old[name]}
        kept = follow(self.optimizers, renewed, plan)
        if small is not None:
            take_values(self.model, small)
        spread(new.values())
        for held in kept:
            held.follow()
        of_all = in_all(len(averages))
        for place, (average, cut) in enumerate(averages):
            rewrite(average, plan, inplace=True)
            take_values(average, cut)
            if place < of_all:
                spread(tensors_of(average).values())

    def _average(self, average: nn.Module, plan: Plan) -> nn.Module:
        small, data = rewrite(average, plan), self._options.get("data")
        data = named_data(data, self._inputs, None) if isinstance(data, str) else data
        fits = data is not None and self._options.get("repair", True)
        return repair(average, small, plan, in_type_of(average, data, self.model)) if fits else small

    def _plain_report(self, groups: Groups, before: Cost) -> Report:
        repaired = None if self._options.get("data") is None else bool(self._options.get("repair", True))
        return Report(before, before, groups, groups.plan({}), None, repaired=repaired)

    def _tell(self, plan: Plan, report: Report) -> None:
        assert self._groups is not None
        assert self._before is not None
        self.plan = plan
        proof = of_both(None if self._report is None else self._report.proof, report.proof, plan)
        self._report = replace(report, before=self._before, groups=self._groups, plan=plan, proof=proof)

    def _tell_if_untouched(self) -> None:
        if self._report is not None and (told := self._goals.untouched(self._report.groups, self._report.plan)):
            self._report = replace(self._report, untouched=told)
            warnings.warn(told, stacklevel=3)

    def _job(self) -> Job:
        return replace(job_of(self.model, self._inputs, **self._options), before=self._before_now())


def _is_state(state: Any) -> bool:
    if not isinstance(state, Mapping) or not {"plan", "done", "whole"} <= state.keys():
        return False
    whole, done, of = state["whole"], state["done"], state.get("of", state["done"])
    numbered = isinstance(whole, Mapping) and all(isinstance(v, int | float) for v in whole.values())
    return numbered and isinstance(state["plan"], str) and type(done) is type(of) is int and 0 <= done <= of


def _plan_as_text(made: Result[Any]) -> str:
    return made.plan.to_json()


def _epochs(given: Iterable[int]) -> tuple[int, ...]:
    found = tuple(given) if isinstance(given, Iterable) else ()
    if not found or not all(isinstance(e, numbers.Integral) and type(e) is not bool and int(e) >= 0 for e in found):
        remedy = "give the epochs before which a part goes: range(4), or [0, 5, 10]"
        raise InputError("epochs are none", seen=repr(given)[:60], remedy=remedy)
    return tuple(sorted(map(int, found)))


def _parted(given: Mapping[str, Any]) -> tuple[Goals, dict[str, Any]]:
    """Goals, and options of `prune`."""
    unknown = [name for name in given if name not in (*GOAL_NAMES, *_OPTIONS)]
    if unknown:
        known = ", ".join((*GOAL_NAMES, *_OPTIONS))
        raise InputError("unknown option", seen=unknown[0], remedy=f"one of {known}")
    goals = Goals(**{name: value for name, value in given.items() if name in GOAL_NAMES})
    if not goals.given():
        raise InputError("no goal is given", remedy="give macs=0.5 (what stays) or pruning_ratio=0.5 (what goes)")
    options = {name: value for name, value in given.items() if name in _OPTIONS}
    data, unpack = options.get("data"), options.pop("unpack", None)
    if data is not None and not isinstance(data, Batches | str):  # which can be read at every cut
        options["data"] = Batches(data, unpack, samples=_SAMPLES, progress=True)
    return goals, options


def _several(given: Any, kind: type) -> list[Any]:
    found = [] if given is None else list(given) if isinstance(given, list | tuple) else [given]
    for one in found:
        if not isinstance(one, kind):
            raise InputError(
                f"what is given is not of type {kind.__name__}", seen=type(one).__name__, remedy="give one, or a list"
            )
    return found


def _check_optimizer(optimizer: Optimizer, model: nn.Module) -> None:
    own = {id(p) for p in model.parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        remedy = "make the optimizer of model.parameters()"
        raise InputError("the optimizer holds no parameter of the model", seen=type(optimizer).__name__, remedy=remedy)
