"""The whole way in one call: trace, group, score, plan, prove, rewrite, repair, tune; in steps, or to the smallest."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, Literal, TypeVar

from torch import Tensor, nn

from fxprune import planners, scorers
from fxprune.analysis.continued import groups_left
from fxprune.analysis.grouping.reasons import decisive_first
from fxprune.analysis.groups import Groups, find_groups
from fxprune.costs.latency.engines import Engine
from fxprune.costs.macs import Cost, cost
from fxprune.errors import InputError, check_flag, check_kind
from fxprune.interrupts import interrupts_kept
from fxprune.module.batches import device_of, dtype_of
from fxprune.module.data import Batches, read_batches
from fxprune.module.isolation import same_modes
from fxprune.module.names import by_name, names_of
from fxprune.module.random_inputs import named_data
from fxprune.plan.plan import Plan
from fxprune.planners.allocation.constraints import check_patterns, stands_for
from fxprune.planners.budget import Budget, Planner
from fxprune.planners.goals import Goals, Measures, check_callable
from fxprune.planners.nearest import NearestOutput, unrepaired
from fxprune.prune_arguments import check_goals, check_model, check_steps, told_of_step
from fxprune.reconstruction.repairing import all_batches, choosing_batches, repaired_on
from fxprune.result import Report, Result
from fxprune.rewriting.feature_info import mend_feature_info
from fxprune.rewriting.rewrite import rewrite
from fxprune.scorers.base import Scorer
from fxprune.scorers.output_errors import JUDGES
from fxprune.search.bisection import Bisection, surprises
from fxprune.search.trial import Evaluate, Task, Tune, tuned
from fxprune.statistics.different import FEW, different_inputs
from fxprune.statistics.shift import large_shift
from fxprune.tracing.trace import trace
from fxprune.verification.compare import refuse_nan_in
from fxprune.verification.proof import Proof, of_both, proven
from fxprune.verification.reach import unreached

M = TypeVar("M", bound=nn.Module)


def prune(
    model: M,
    example_inputs: Any,
    pruning_ratio: float | Mapping[Any, float] | None = None,
    *,
    macs: float | None = None,
    parameters: float | None = None,
    latency: float | None = None,
    engine: Engine | None = None,
    round_to: int | Literal["auto"] | None = None,
    ignored: Any = (),
    only: Any = None,
    heads: str | Mapping[str, str] = "",
    data: Iterable[Any] | Literal["random"] | None = None,
    unpack: Callable[[Any], Any] | None = None,
    repair: bool = True,
    steps: int = 1,
    tune: Tune | None = None,
    evaluate: Callable[[Any], Any] | None = None,
    max_drop: float | None = None,
    folder: str | os.PathLike[str] | None = None,
    resume: bool = False,
    scorer: Scorer | None = None,
    planner: Planner | None = None,
    verify: bool = True,
) -> Result[M]:
    """Make a model smaller.

    Give one kind of goal: what may stay (`macs`, `parameters`, `latency`, one or several), what goes from every group
    (`pruning_ratio`), what quality may be lost (`max_drop`), or a planner.

    Args:
        model: the model; untouched.
        example_inputs: as for `fxprune.trace`.
        pruning_ratio: part of every group's channels to remove, in [0, 1); or {name or pattern of groups or modules,
            or one of these objects: part}, where all others stay whole.
        macs: MACs that may stay: at most 1 is a part of the original's, more is a number of MACs.
        parameters: parameters that may stay, likewise.
        latency: time of a forward that may stay: at most 1 is a part of the original's, more is milliseconds. It is
            predicted from ops that are measured on the present device, minutes the first time.
        engine: where that time counts: `fxprune.latency.onnx_runtime`, `fxprune.latency.compiled`, or a function as
            `fxprune.latency.measure` takes; plans run there until the prediction holds. None for PyTorch, op by op.
        round_to: kept channels of each group are multiples of this; 8 or 16 suit most hardware, and "auto" measures
            which multiple is free (`fxprune.latency.best_multiple`). Default: 1, or "auto" for a latency in an engine.
        ignored: what keeps all its channels: names or patterns of modules, parameters and groups, or these objects.
        only: likewise, the modules or groups whose own channels may go, and no others; None for all.
        heads: as for `fxprune.find_groups`.
        data: batches of inputs, or (inputs, targets); labels are read by the scorers that need them. Channels are
            chosen and layers repaired on the first 1,024 samples, read once and held; `fxprune.Batches` sets other
            limits, and without `repair` each stage reads anew. "random": layers are repaired on 256 pictures of random
            shapes (`fxprune.random_inputs`), and one ratio for all groups reaches budgets.
        unpack: makes inputs, or (inputs, targets), of a batch as `data` gives it.
        repair: with data, fit the layers that read what is gone by least squares (see `fxprune.repair`).
        steps: cut in so many steps; in each, the same part of what is left goes, and `tune` follows.
        tune: trains a pruned model in place, after each step; then its modules train or not as those of `model` do.
        evaluate: the quality of a model, higher is better; for `max_drop`.
        max_drop: how much of `evaluate(model)` may be lost, in its unit: the smallest model that loses no more is
            searched for, in MACs, by bisection; each candidate is repaired and tuned.
        folder: a directory that remembers each candidate of `max_drop`: the same call goes on from there after Ctrl-C
            or a crash, if it is given the same data.
        resume: go on from there also if `evaluate` or `tune` has another name, or other code, than before.
        scorer: which channels matter; by default `JointElimination(errors="measured")` with real data, else `L2Norm()`.
        planner: how many channels stay, in place of the goals. With data and neither scorer nor planner, budgets are
            reached by widths from error curves or by one ratio for all groups, whichever leaves the repaired model
            nearer to the original on every other batch, which its repair has then not seen (`planners.NearestOutput`).
        verify: prove that the pruned model equals the masked one (see `fxprune.verify`). Groups that are to blame if it
            does not are kept whole, with a warning, and the others are planned again.

    Returns:
        The smaller model, the plan that made it of the original, and a report that can be printed. With `max_drop`, the
        original itself if nothing smaller was good enough.

    Raises:
        InputError: goals that are missing, out of range or exclude each other, bad inputs, unusable data or scores, or
            no prunable group.
        TraceError: the model cannot be run.
        ProofError: the pruned model fails or differs from the masked one, whatever is kept whole.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    >>> result = fxprune.prune(net, torch.zeros(1, 3, 8, 8), macs=0.5)
    >>> result.model[0]
    Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))
    """
    check_model(model, example_inputs)
    check_callable("planner", planner, planners, "fxprune.planners.Uniform(0.5)")
    goals = Goals(macs, parameters, latency, by_name(model, pruning_ratio), round_to, engine)
    check_goals(goals, planner, evaluate, max_drop, folder)
    check_steps(steps, tune, planner, max_drop)
    check_flag("resume", resume)
    job = job_of(model, example_inputs, ignored, only, heads, data, unpack, repair, tune, scorer, verify)
    goals = goals.measured(device_of(model), dtype_of(model))
    with interrupts_kept():
        if max_drop is not None and evaluate is not None:
            return job.smallest(model, goals, evaluate, max_drop, folder, resume)
        return job.in_steps(model, goals, planner, steps)


def job_of(
    model: nn.Module,
    example_inputs: Any,
    ignored: Any = (),
    only: Any = None,
    heads: str | Mapping[str, str] = "",
    data: Iterable[Any] | str | None = None,
    unpack: Callable[[Any], Any] | None = None,
    repair: bool = True,
    tune: Tune | None = None,
    scorer: Scorer | None = None,
    verify: bool = True,
) -> Job:
    """What these arguments of `prune` ask of every cut."""
    check_callable("scorer", scorer, scorers, "fxprune.scorers.L2Norm()")
    check_flag("repair", repair)
    check_flag("verify", verify)
    batches = read_batches(named_data(data, example_inputs, unpack) if isinstance(data, str) else data, unpack)
    parts = names_of(model, ignored), None if only is None else names_of(model, only), heads
    held = batches.held() if batches is not None and repair else batches  # a repair keeps them all in any case
    return Job(example_inputs, parts, scorer, held, repair, tune, verify, isinstance(data, str))


@dataclass(frozen=True)
class _Cut(Generic[M]):
    """One cut of a model: the groups, the plan with its proof, and the smaller model, repaired but not tuned."""

    groups: Groups
    plan: Plan
    proof: Proof | None
    model: M


@dataclass(frozen=True)
class Job:
    """What is asked of every cut.

    Attributes:
        inputs: the example inputs.
        parts: names that are ignored, the only names that may shrink (None for all), and the choice of heads.
        scorer: None for the default.
        data: None if there are none.
        repair: whether layers are repaired on the data.
        tune: None for none.
        verify: whether plans are proven.
        random: whether the data are pictures of random shapes.
        before: of a model that was cut already: the original's groups, and the plan that was cut.
    """

    inputs: Any
    parts: tuple[tuple[str, ...], tuple[str, ...] | None, str | Mapping[str, str]]
    scorer: Scorer | None
    data: Batches | None
    repair: bool
    tune: Tune | None
    verify: bool
    random: bool
    before: tuple[Groups, Plan] | None = None

    def in_steps(self, model: M, goals: Goals, planner: Planner | None, steps: int) -> Result[M]:
        """Cut, repair and tune, `steps` times; the plans compose into one for the original."""
        groups = self.groups(model)
        now, measures = groups, Measures(groups, goals.engine)
        whole, before = goals.original(measures), measures.cost()
        made: _Cut[M] | None = None
        plan: Plan | None = None
        proof: Proof | None = None
        for step in range(1, steps + 1):
            with told_of_step(step, steps):
                if made is not None and plan is not None:
                    now = replace(self, before=(groups, plan)).groups(made.model)
                    measures = Measures(now, goals.engine)
                made = self.cut(now, planner or goals.step(self.planner(goals, measures, whole), step, steps, groups))
            plan = made.plan if plan is None else plan.then(made.plan)
            proof = of_both(proof, made.proof, plan)
            if self.tune is not None:
                with same_modes(made.model):
                    tuned(self.tune, made.model)
                refuse_nan_in(made.model)
        assert made is not None
        assert plan is not None
        report = self.report(groups if steps > 1 else made.groups, plan, proof, (before, measures.cost(made.plan)))
        kept, told = made.plan.kept_counts(), goals.untouched(report.groups, plan)
        timed = (whole["latency"], measures.timed(kept)) if "latency" in whole else None
        report = replace(report, untouched=told, latency=timed, engine=measures.ran_in(kept))
        return _warned(Result(made.model, plan, report))

    def smallest(
        self,
        model: M,
        goals: Goals,
        evaluate: Evaluate,
        max_drop: float,
        folder: str | os.PathLike[str] | None,
        resume: bool,
    ) -> Result[M]:
        """Bisect the part of the MACs that stays; each candidate is cut from the original, repaired and tuned."""
        groups = self.groups(model)
        scores = self.scores(groups)
        family = partial(Budget, constraints=goals.constraints(), tolerance=1 - 1e-9, strict=False)
        groups = proven(groups, _Choice(family(0.5), scores), self.inputs)[0] if self.verify else groups
        repair = partial(self.repaired, model) if self.repair and self.data is not None else None
        task = Task(model, groups, evaluate, self.scorer_used(), self.data, self.tune, repair, scores)
        found = Bisection(max_drop, family=family).run(task, folder, resume=resume)
        proof = proven(groups, lambda _: found.plan, self.inputs)[2] if self.verify else None
        if found.model is not model:
            mend_feature_info(groups.graph, found.model)
        costs = cost(groups), cost(groups, found.plan)
        told = surprises(found, max_drop)
        report = replace(self.report(groups, found.plan, proof, costs), history=found.history, untouched=told)
        return _warned(Result(found.model, found.plan, report))

    def groups(self, model: nn.Module) -> Groups:
        """The groups that may shrink.

        Raises:
            InputError: there is none.
        """
        ignored, only, heads = self.parts
        if self.before is not None:
            groups = groups_left(model, self.inputs, *self.before, ignored)
        else:
            groups = find_groups(trace(model, self.inputs), ignored, heads=heads)
        if only is not None:
            check_patterns(only, groups)
            others = [g.name for g in groups if not any(stands_for(p, g) for p in only)]
            groups = groups.holding(dict.fromkeys(others, "not among what only= names"))
        if not len(groups):
            seen = "; ".join(decisive_first(groups.fixed))[:300]
            raise InputError("no channel of the model can be pruned", where=type(model).__name__, seen=seen)
        return groups

    def cut(self, groups: Groups, planner: Planner) -> _Cut[Any]:
        """Score, plan, prove, rewrite and repair."""
        model = groups.graph.model
        choose = _Choice(planner, self.scores(groups))
        if self.verify:
            groups, plan, proof, small = proven(groups, choose, self.inputs)
        else:
            plan, proof = choose(groups), None
            small = rewrite(model, plan)
        small = self.repaired(model, small, plan)
        mend_feature_info(groups.graph, small)
        return _Cut(groups, plan, proof, small)

    def planner(self, goals: Goals, measures: Measures, whole: Mapping[str, float]) -> Planner:
        """What reaches the goals; where scores are errors on data, the better of two plans on inputs held back."""
        plain = partial(goals.one_ratio if self.random else goals.planner, measures, whole)
        if self.data is None or self.scorer is not None or self.random:
            return goals.confirmed(measures, plain)
        held = self.data.described("reading the data"), None if self.repair else unrepaired, True
        return goals.confirmed(measures, plain, lambda: NearestOutput(goals.candidates(measures, whole), *held))

    def scorer_used(self) -> Scorer:
        """The scorer, or the default: on data if there are any."""
        return self.scorer or (scorers.L2Norm() if self.data is None or self.random else _JOINT)

    def scores(self, groups: Groups) -> Mapping[str, Tensor]:
        """Of every channel."""
        model, scorer = groups.graph.model, self.scorer_used()
        data: Any = None if self.data is None else self.data.described("choosing channels")
        data = choosing_batches(model, data, JUDGES, hold=self.repair) if data and scorer is _JOINT else data
        found = scorer(model, groups, data)
        check_kind("what the scorer returns", found, Mapping, "return {name of a group: a score for each channel}")
        return found

    def repaired(self, model: nn.Module, small: M, plan: Plan) -> M:
        if self.data is None or not self.repair or not plan.cuts():
            return small
        return repaired_on(all_batches(small, self.data.described("reading the data")), model, small, plan)

    def report(self, groups: Groups, plan: Plan, proof: Proof | None, costs: tuple[Cost, Cost]) -> Report:
        """Costs: before and after."""
        repaired = None if self.data is None else self.repair
        read = None if self.random else self.data
        few = 0 if read is None or (seen := different_inputs(read)) >= FEW else seen
        far = None if read is None else large_shift(groups.graph.model, read)
        return Report(*costs, groups, plan, proof, unreached(groups.graph), repaired, self.random, few=few, shift=far)


_JOINT = scorers.Fallback(scorers.JointElimination(errors="measured"), scorers.L2Norm())


@dataclass(frozen=True)
class _Choice:
    """What plans, again where some groups must stay after all."""

    planner: Planner
    scores: Mapping[str, Tensor]

    def __call__(self, groups: Groups) -> Plan:
        return self.planner(groups, {g.name: self.scores[g.name] for g in groups if g.name in self.scores})


def _warned(result: Result[M]) -> Result[M]:
    """What a caller should hear of who does not print the report."""
    for line in result.report.warnings():
        warnings.warn(line, stacklevel=4)
    return result
