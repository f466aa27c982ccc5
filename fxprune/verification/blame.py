"""Blame: which groups of a plan make the pruned model differ from the masked one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from typing import Any, TypeVar

from torch import nn

from fxprune.analysis.fit import check_groups
from fxprune.analysis.groups import Groups
from fxprune.errors import ProofError
from fxprune.module.garbage import no_collections
from fxprune.plan.plan import Plan, check_plan
from fxprune.verification.judgement import Measured, Question
from fxprune.verification.reach import called, reads_sizes, unreached
from fxprune.verification.verify import measured

T = TypeVar("T")


def find_faulty_groups(model: nn.Module, groups: Groups, plan: Plan, example_inputs: Any) -> list[str]:
    """The groups that must stay whole for the pruned model to equal the masked one.

    They are found by bisection: about 2 log2(n) comparisons for each faulty one of n groups. Of groups that are faulty
    only together, all are named. Groups that a norm, mean or softmax runs over are kept whole; they are not judged.

    Args:
        model: the full-size model; untouched.
        groups: its groups.
        plan: the plan to judge.
        example_inputs: as for `fxprune.trace`.

    Returns:
        Names of groups, in execution order; none if the plan is right.

    Raises:
        InputError: groups of another model, or the model cannot be compared (see `fxprune.verify`).
        PlanError: the plan is none, or for another model.

    >>> import torch, fxprune
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    >>> x = torch.rand(2, 3, 8, 8)
    >>> groups = fxprune.find_groups(fxprune.trace(net, x))
    >>> fxprune.find_faulty_groups(net, groups, groups.plan({"0": [0, 3, 5]}), x)
    []
    """
    check_plan(plan)
    check_groups(groups, model)
    return faulty_groups(question_of(groups, plan), groups, example_inputs)


def question_of(groups: Groups, plan: Plan) -> Question:
    """Whether a plan for groups is right, with what their trace tells of the model."""
    graph = groups.graph
    astray = not graph.on_meta and bool(unreached(graph))
    return Question(graph.model, plan, called=called(graph), sized=reads_sizes(graph), astray=astray)


def faulty_groups(question: Question, groups: Groups, example_inputs: Any) -> list[str]:
    """What `find_faulty_groups` returns, for a question about a plan for groups."""
    plan = question.plan

    def differs(units: Sequence[frozenset[str]]) -> bool:
        chosen = frozenset[str]().union(*units)
        part = replace(question, plan=_part(groups, plan, chosen), small=None)
        return bool(chosen) and answer(part, example_inputs).differs

    left, faulty = _units(groups, plan), set[str]()
    while differs(left):
        found = smallest(differs, left)
        faulty = faulty.union(*found)
        left = [u for u in left if u not in found]
    return [g.name for g in groups if g.name in faulty]


@no_collections()
def answer(question: Question, example_inputs: Any) -> Measured:
    """How far the pruned model is from the masked one; infinitely far if it fails."""
    try:
        return measured(question, example_inputs)
    except ProofError:
        return Measured(inf, 0.0)


def comparable(groups: Groups, plan: Plan) -> Plan:
    """The plan without the groups in which pruned and masked may differ, and without what is tied to those."""
    names = frozenset[str]().union(*_units(groups, plan))
    whole = all(name in names or len(g.kept) == g.size for name, g in plan.groups.items())
    return plan if whole else _part(groups, plan, names)


def _units(groups: Groups, plan: Plan) -> list[frozenset[str]]:
    """What can be pruned and compared, one by one: groups, and ties as a whole, in execution order."""
    units: dict[str, frozenset[str]] = {g.name: frozenset([g.name]) for g in groups}
    for tie in groups.ties:
        whole = frozenset[str]().union(*(units[name] for name in tie))
        units |= dict.fromkeys(whole, whole)
    mixed = {g.name for g in groups if g.mixed_by}
    cut = {name for name, g in plan.groups.items() if len(g.kept) < g.size}
    return [u for u in dict.fromkeys(units.values()) if u & cut and not u & mixed]


def _part(groups: Groups, plan: Plan, names: frozenset[str]) -> Plan:
    part = groups.plan({name: plan.groups[name].kept for name in names})
    return replace(part, groups={n: replace(g, slots=plan.groups[n].slots) for n, g in part.groups.items()})


def smallest(fails: Callable[[Sequence[T]], bool], parts: Sequence[T]) -> list[T]:
    """The parts of a smallest choice that still fails, where all together fail (QuickXplain, Junker 2004)."""

    def explain(taken: list[T], rest: list[T], changed: bool) -> list[T]:
        if changed and fails(taken):
            return []
        if len(rest) == 1:
            return rest
        first, second = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        later = explain(taken + first, second, bool(first))
        return explain(taken + later, first, bool(later)) + later

    return explain([], list(parts), False)
