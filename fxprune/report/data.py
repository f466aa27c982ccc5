"""What a report tells of groups: rows for tables, and one JSON-able value."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from fxprune.analysis.fit import check_are_groups
from fxprune.analysis.grouping.components import Group
from fxprune.analysis.grouping.reasons import FixedDim
from fxprune.analysis.groups import Groups
from fxprune.costs.macs import CostModel, cost
from fxprune.errors import InputError, check_integer
from fxprune.plan.plan import Plan, Slot, check_plan

ROLES = ("producer", "consumer", "other")
_VERSION = 1
_NAMED = 2  # of the groups that a group is tied to


@dataclass(frozen=True)
class GroupRow:
    """One group in figures.

    Attributes:
        group: the group.
        parameters: parameters that lie in its channels' slices.
        share: part of the model's MACs that its channels take part in, in [0, 1]; the parts overlap between groups.
        notes: what else a pruner should know, one sentence each.
        kept: how many of its channels a plan keeps; None without a plan.
    """

    group: Group
    parameters: int
    share: float
    notes: tuple[str, ...] = ()
    kept: int | None = None

    @property
    def members(self) -> str:
        """How many slots of each role, for instance `1 producer, 3 consumers, 12 other`."""
        count = Counter(s.role for s in self.group.slots)
        plural = {role: "" if role == "other" or count[role] == 1 else "s" for role in ROLES}
        return ", ".join(f"{count[role]} {role}{plural[role]}" for role in ROLES if count[role])


@dataclass(frozen=True)
class FixedRow:
    """The dims that stay whole for one and the same reason.

    Attributes:
        reason: why.
        where: the op and the module that issued it, if an op is the reason.
        dims: the dims.
    """

    reason: str
    where: str
    dims: tuple[FixedDim, ...]

    def examples(self, count: int = 3) -> list[str]:
        """The first dims as `fc.weight[dim 0] (1000)`, the number being how many of its indices are fixed."""
        check_integer("the number of examples", count, 0, "3 is usual")
        return [f"{d.tensor}[dim {d.dim}] ({d.count})" for d in self.dims[:count]]


class Pruned(Protocol):
    """What `fxprune.prune` returns, as far as reports read it."""

    @property
    def plan(self) -> Plan: ...
    @property
    def report(self) -> Any: ...


def parts_of(subject: Groups | Pruned) -> tuple[Groups, Plan | None]:
    """The groups that a report shows, and the plan if it shows the result of a pruning.

    Raises:
        InputError: `subject` is neither groups nor a result.
    """
    if isinstance(subject, Groups):
        return subject, None
    if not isinstance(getattr(subject, "plan", None), Plan) or not hasattr(subject, "report"):
        remedy = "give what fxprune.find_groups or fxprune.prune returns"
        raise InputError("a report needs groups or a result", seen=type(subject).__name__, remedy=remedy)
    return subject.report.groups, subject.plan


def group_rows(groups: Groups, plan: Plan | None = None) -> list[GroupRow]:
    """One row a group, in execution order; with a plan, also the number of channels that stay.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> row = group_rows(fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 4))))[0]
    >>> row.group.name, row.parameters, row.share, row.members
    ('0', 56, 1.0, '1 producer, 1 consumer, 1 other')

    Raises:
        InputError: what is given are no groups.
        PlanError: the plan is none, or for another model.
    """
    check_are_groups(groups)
    if plan is not None:
        check_plan(plan)
    costs = CostModel(groups.analysis)
    costs.counts(plan)  # which refuses a plan for other groups
    shares, kept = costs.shares(), plan.kept_counts() if plan else {}
    return [
        GroupRow(g, _parameters(groups, g), shares[g.name], tuple(_notes(groups, g)), kept.get(g.name)) for g in groups
    ]


def _notes(groups: Groups, group: Group) -> Iterator[str]:
    for tie in groups.ties:
        if group.name in tie:
            others = _in_order(groups, tie - {group.name})
            more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
            yield f"keeps the same part as {', '.join(others[:_NAMED])}{more}"
    if group.mixed_by:
        yield f"{group.mixed_by} runs over all its channels"


def _parameters(groups: Groups, group: Group) -> int:
    """Each element once, also where two dims of one tensor belong to the group."""
    outside: dict[str, dict[int, int]] = {}
    for s in group.slots:
        if isinstance(groups.graph.tensors[s.tensor], nn.Parameter):
            outside.setdefault(s.tensor, {})[s.dim] = s.length - len(s.positions)
    return sum(_inside(tuple(groups.graph.tensors[name].shape), dims) for name, dims in outside.items())


def _inside(shape: tuple[int, ...], outside: dict[int, int]) -> int:
    return math.prod(shape) - math.prod(outside.get(i, n) for i, n in enumerate(shape))


def fixed_rows(groups: Groups) -> list[FixedRow]:
    """What must stay, by reason; those with most dims first, but dims behind a weight's first two (kernels) last."""
    check_are_groups(groups)
    found: dict[tuple[str, str], list[FixedDim]] = {}
    for dim in groups.fixed:
        found.setdefault((dim.reason, dim.where), []).append(dim)
    rows = [FixedRow(reason, where, tuple(dims)) for (reason, where), dims in found.items()]
    total = Counter(d.reason for d in groups.fixed)
    return sorted(
        rows, key=lambda r: (min(d.dim for d in r.dims) > 1, -total[r.reason], r.reason, -len(r.dims), r.where)
    )


def as_dict(groups: Groups) -> dict[str, Any]:
    """All of the above as plain dicts, lists, strings and numbers, ready for `json.dumps`.

    Returns:
        `model` (class name), `macs`, `parameters`; `groups`, each with `name`, `size`, `parameters`, `macs_share`,
        `mixed_by`, `feeds` (names of the groups that read it) and `slots` (`tensor`, `dim`, `length`, `role`,
        `positions_per_channel`); `ties`, lists of groups that must keep the same part of their channels; `fixed`, each
        with `reason`, `where`, `dims` and `members` (`tensor`, `dim`, `count`); `unknown_ops`, counted by name.
    """
    whole = cost(groups)
    return {
        "fxprune_groups": _VERSION,
        "model": type(groups.graph.model).__name__,
        "macs": whole.macs,
        "parameters": whole.parameters,
        "groups": [_group(groups, row) for row in group_rows(groups)],
        "ties": [_in_order(groups, tie) for tie in groups.ties],
        "fixed": [_fixed(row) for row in fixed_rows(groups)],
        "unknown_ops": dict(groups.unknown_ops),
    }


def _group(groups: Groups, row: GroupRow) -> dict[str, Any]:
    group = row.group
    return {
        "name": group.name,
        "size": group.size,
        "parameters": row.parameters,
        "macs_share": round(row.share, 6),
        "mixed_by": group.mixed_by,
        "feeds": _in_order(groups, groups.feeds.successors(group.name)),
        "slots": [_slot(group, s) for s in group.slots],
    }


def _in_order(groups: Groups, names: Iterable[str]) -> list[str]:
    wanted = set(names)
    return [g.name for g in groups if g.name in wanted]


def _slot(group: Group, slot: Slot) -> dict[str, Any]:
    return {
        "tensor": slot.tensor,
        "dim": slot.dim,
        "length": slot.length,
        "role": slot.role,
        "positions_per_channel": len(slot.positions) // group.size,
    }


def _fixed(row: FixedRow) -> dict[str, Any]:
    members = [{"tensor": d.tensor, "dim": d.dim, "count": d.count} for d in row.dims]
    return {"reason": row.reason, "where": row.where, "dims": len(members), "members": members}
