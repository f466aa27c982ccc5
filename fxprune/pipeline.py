"""The whole way in one call: trace, group, score, plan, rewrite, verify."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from fxprune.analysis.groups import Groups, find_groups
from fxprune.costs.macs import Cost, cost
from fxprune.errors import InputError
from fxprune.plan.plan import Plan
from fxprune.planners.uniform import Uniform, check_ratio
from fxprune.rewriting.rewrite import rewrite
from fxprune.scorers.base import Scorer
from fxprune.scorers.norms import L2Norm
from fxprune.tracing.trace import trace
from fxprune.verification.verify import verify as verify_plan

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Report:
    """What was done to a model.

    Attributes:
        before: cost of the original.
        after: cost of the pruned model.
        groups: the groups, with the reason for every dim that is fixed.
        kept: channels kept of each group.
        deviation: pruned against masked (see `fxprune.verify`); None if it was not measured.
    """

    before: Cost
    after: Cost
    groups: Groups
    kept: Mapping[str, int]
    deviation: float | None

    def __str__(self) -> str:
        cut = sum(self.kept[g.name] < g.size for g in self.groups)
        lines = [
            f"{cut} of {len(self.groups)} groups pruned",
            _change("MACs", self.before.macs, self.after.macs),
            _change("parameters", self.before.parameters, self.after.parameters),
        ]
        if self.deviation is not None:
            lines.append(f"pruned against masked: largest relative deviation {self.deviation:.1e}")
        if self.groups.unknown_ops:
            lines.append(f"ops without a rule: {dict(self.groups.unknown_ops)}")
        return "\n".join(lines)


def _change(what: str, before: int, after: int) -> str:
    return f"{what:10} {before / 1e6:10,.2f} M -> {after / 1e6:10,.2f} M  ({100 * after / max(before, 1):.1f} %)"


@dataclass(frozen=True)
class Result(Generic[M]):
    """What `prune` returns: the smaller model, the plan that made it, and the report."""

    model: M
    plan: Plan
    report: Report


def prune(
    model: M,
    example_inputs: Any,
    ratio: float = 0.5,
    *,
    scorer: Scorer | None = None,
    data: Iterable[Any] | None = None,
    planner: Callable[[Groups, Mapping[str, Tensor]], Plan] | None = None,
    protect: str | Iterable[str] = (),
    verify: bool = True,
) -> Result[M]:
    """Make a model smaller.

    Args:
        model: the model; untouched.
        example_inputs: as for `fxprune.trace`.
        ratio: part of every group's channels to remove, in [0, 1); ignored if a planner is given.
        scorer: which channels matter; default `scorers.L2Norm()`.
        data: batches, for scorers that need them.
        planner: how many channels stay; default `planners.Uniform(ratio)`.
        protect: names or patterns of modules, parameters and groups that keep all channels.
        verify: also measure that the pruned model equals the masked one (three forwards in float64).

    Returns:
        The smaller model, the plan that made it, and a report that can be printed.

    Raises:
        InputError: ratio out of range, bad inputs, unusable scores, or no prunable group.
        TraceError: the model cannot be run.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    >>> result = fxprune.prune(net, torch.zeros(1, 3, 8, 8), 0.5)
    >>> result.model[0]
    Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))
    """
    check_ratio(ratio)
    graph = trace(model, example_inputs)
    groups = find_groups(graph, protect)
    if not len(groups):
        reasons = "; ".join(dict.fromkeys(f.reason for f in groups.fixed))
        raise InputError("no channel of the model can be pruned", where=type(model).__name__, seen=reasons[:300])
    scores = (scorer or L2Norm())(model, groups, data)
    plan = (planner or Uniform(ratio))(groups, scores)
    small = rewrite(model, plan)
    deviation = verify_plan(model, plan, example_inputs) if verify else None
    report = Report(cost(graph), cost(graph, plan), groups, plan.kept_counts(), deviation)
    return Result(small, plan, report)
