"""Of several plans the one whose repaired model is nearest to the original, on inputs that its repair has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor, nn

from fxprune.analysis.groups import Groups
from fxprune.errors import (
    InputError,
    check_called,
    check_flag,
    check_function,
    check_integer,
    check_model,
    check_option,
    check_several,
    shown,
)
from fxprune.module.data import check_batches
from fxprune.optional import progress_bar
from fxprune.plan.plan import Plan, check_plan
from fxprune.planners.budget import Planner
from fxprune.reconstruction.readers import readers_of
from fxprune.reconstruction.refit import Fitter
from fxprune.reconstruction.repairing import held_batches
from fxprune.rewriting.rewrite import rewrite
from fxprune.scorers.divergence import DIVERGENCES, Divergence, divergence_of, outputs_of
from fxprune.statistics.gram.collect import PerWeight, Sampling

Treat = Callable[[nn.Module, nn.Module, Plan, Sequence[Any]], nn.Module]


def nearest_output(
    model: nn.Module,
    plans: Iterable[Plan],
    data: Iterable[Any],
    *,
    treat: Treat | None = None,
    divergence: Divergence = "auto",
    limit: int = 64,
    progress: bool = False,
) -> Plan:
    """The plan whose model gives outputs nearest to the original's.

    Each plan's model is treated with every other batch and judged on the batches between. With a uniform plan among
    them, what is chosen is never worse than uniform on those inputs. No labels are read; a plan costs a repair.

    Args:
        model: the original; untouched.
        plans: of the same cost, for instance of `Uniform`, `ErrorCurves`, and `ErrorCurves` with other scores.
        data: at least two batches of inputs, or (inputs, targets).
        treat: (original, pruned, plan, batches) to the model that is judged; None: layers are fitted as by
            `fxprune.repair`, with 8 rows for each weight of a kernel in place of 20.
        divergence: what tells two outputs apart, as in `scorers.output_sensitivity`.
        limit: number of batches that are read at most.
        progress: show a progress bar, where the output is a terminal.

    Returns:
        Of equals the first one.

    Raises:
        InputError: no plan, fewer than two batches, unusable data, or no plan with finite outputs.

    >>> import torch, fxprune
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    >>> _ = net[1].weight.data.copy_(torch.tensor([[5.0, 1.0, 0.0, 0.0], [1.0, 4.0, 0.0, 0.0]]))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 3)))
    >>> plans = [groups.plan({"0": [2, 3]}), groups.plan({"0": [0, 1]})]
    >>> chosen = fxprune.planners.nearest_output(net, plans, [torch.randn(20, 3) for _ in range(4)])
    >>> chosen.groups["0"].kept.tolist()
    [0, 1]
    """
    check_model("the model", model)
    check_several("the plans", plans, "give a list of plans")
    check_batches(data)
    _check_treat(treat)
    check_option("divergence", divergence, DIVERGENCES)
    check_integer("limit", limit, 1, "64 is usual")
    check_flag("progress", progress)
    plans, held = list(plans), list(islice(data, limit))
    for plan in plans:
        check_plan(plan)
    if not plans:
        raise InputError("no plan to choose from", remedy="give at least one")
    if len(held) < 2:
        seen, remedy = f"{len(held)} batches", "split the inputs: half repair, the others judge"
        raise InputError("choosing a plan needs two batches of data", seen=seen, remedy=remedy)
    fit, judge = held[::2], held[1::2]
    wanted, treat = outputs_of(model, judge), treat or _fitting(model, plans, fit)
    far = [
        divergence_of(wanted, outputs_of(treat(model, rewrite(model, p), p, fit), judge), divergence)
        for p in _shown(plans, progress)
    ]
    if min(far) == math.inf:
        raise InputError(
            "no plan can be judged: outputs are not finite",
            seen=f"of {len(judge)} batches that judge, for each of {len(plans)} plans",
            remedy="leave out inputs for which the model gives NaN or infinite numbers",
        )
    return plans[far.index(min(far))]


def _check_treat(treat: object) -> None:
    check_function("treat", treat, "give a function (original, pruned, plan, batches) -> model, or None", arguments=4)


def _fitting(model: nn.Module, plans: Iterable[Plan], fit: Sequence[Any]) -> Treat:
    """Fits the pruned models; what the original gives is computed once for all plans."""
    readers = dict.fromkeys(name for plan in plans for name in readers_of(plan))
    fitter = Fitter.of(model, readers, fit, Sampling(_ROWS)) if readers else None

    def treat(_model: nn.Module, small: nn.Module, plan: Plan, _data: Sequence[Any]) -> nn.Module:
        if fitter is not None:
            fitter.fit(small, plan, "sequential", ridge=None)
        return small

    return treat


_ROWS = PerWeight(8)
"""Rows of the fits that only compare."""
_INPUTS = 512
"""That repair and judge plans which are compared."""


@dataclass(frozen=True, eq=False)
class NearestOutput:
    """Of several planners' plans the one that `nearest_output` chooses.

    Attributes:
        planners: what makes the plans; of equals, the first one's counts.
        data: batches of inputs, or (inputs, targets), that can be read again and again; the first that hold 512
            inputs are. One batch of a single tensor is judged by halves; where there is one batch of another form,
            nothing can be held back, and the first planner's plan is taken.
        treat: as in `nearest_output`.
        progress: show a progress bar, where the output is a terminal.

    Raises:
        InputError: no planner; else as the planners and `nearest_output` do.

    >>> import torch, fxprune
    >>> from fxprune.planners import ErrorCurves, NearestOutput, Uniform
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> data = [torch.randn(50, 3) for _ in range(4)]
    >>> groups = fxprune.find_groups(fxprune.trace(net, data[0]))
    >>> scores = fxprune.scorers.JointElimination()(net, groups, data)
    >>> NearestOutput((Uniform(0.5), ErrorCurves(0.5)), data)(groups, scores).kept_counts()
    {'0': 4}
    """

    planners: tuple[Planner, ...]
    data: Iterable[Any]
    treat: Treat | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.planners, tuple | list):
            remedy = "give a tuple: (Uniform(0.5), ErrorCurves(0.5))"
            raise InputError("the planners are no tuple", seen=shown(self.planners), remedy=remedy)
        if not self.planners:
            raise InputError("no planner to choose from", remedy="give at least one")
        for planner in self.planners:
            check_called("what is chosen from", planner, "give planners, such as Uniform(0.5)", arguments=2)
        check_batches(self.data)
        _check_treat(self.treat)
        check_flag("progress", self.progress)

    def __call__(self, groups: Groups, scores: Mapping[str, Tensor]) -> Plan:
        plans: list[Plan] = []
        for planner in self.planners:
            plan = planner(groups, scores)
            plans += [plan] * (plan not in plans)
        model = groups.graph.model
        held = held_batches(model, self.data, inputs=_INPUTS) if len(plans) > 1 else []
        if len(held) < 2:
            return plans[0]
        return nearest_output(model, plans, held, treat=self.treat, limit=len(held), progress=self.progress)


def _shown(plans: Sequence[Plan], progress: bool) -> Iterator[Plan]:
    """The plans, with a progress bar where the output is a terminal."""
    with progress_bar(None if progress else False) as bar:
        yield from bar.track(plans, description="comparing plans")


def unrepaired(_model: nn.Module, small: nn.Module, _plan: Plan, _data: Any) -> nn.Module:
    """The pruned model as it is, for plans that are to be judged without a repair."""
    return small
