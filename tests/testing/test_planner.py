"""Every planner keeps the contract, and the suite that says so catches one broken planner for each promise."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import fxprune
from fxprune import planners as p
from fxprune.testing import PLANNER_PROMISES, BrokenPromiseError, check_planner

PLANNERS: list[Any] = [
    p.Uniform(0.5),
    p.Uniform(0.3, p.Constraints(round_to=2)),
    p.PerGroup({}, default=0.4),
    p.GlobalThreshold(0.4),
    p.GlobalThreshold(0.4, pool=p.same_pattern),
    p.CumulativeContribution(0.7),
    p.Budget(0.8),
    p.Budget(0.8, "parameters"),
    p.AtBudget(p.Uniform, 0.8),
]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("promise", PLANNER_PROMISES)
@pytest.mark.parametrize("planner", PLANNERS, ids=lambda planner: type(planner).__name__)
def test_planners_keep_the_contract(planner: Any, promise: str) -> None:
    check_planner(planner, promises=[promise])


def halves(groups: fxprune.Groups, scores: Mapping[str, Tensor]) -> fxprune.Plan:
    return p.Uniform(0.5)(groups, scores)


def forgetful(groups: fxprune.Groups, scores: Mapping[str, Tensor]) -> fxprune.Plan:
    """The groups that stay whole are left out."""
    plan = halves(groups, scores)
    return fxprune.Plan(dict(list(plan.groups.items())[:-1]), plan.attributes, plan.shapes)


def drawn(groups: fxprune.Groups, scores: Mapping[str, Tensor]) -> fxprune.Plan:
    return halves(groups, {name: torch.rand(len(s)) for name, s in scores.items()})


def first_come(groups: fxprune.Groups, scores: Mapping[str, Tensor]) -> fxprune.Plan:
    first = next(iter(scores))
    return (
        p.keep_best(groups, scores, {first: max(1, groups[first].size // 2)})
        if not groups.ties
        else halves(groups, scores)
    )


def spoiling(groups: fxprune.Groups, scores: Mapping[str, Tensor]) -> fxprune.Plan:
    plan = halves(groups, scores)
    next(iter(scores.values())).zero_()
    return plan


def trusting(groups: fxprune.Groups, scores: Mapping[str, Tensor]) -> fxprune.Plan:
    complete = {g.name: scores.get(g.name, torch.ones(g.size)).nan_to_num() for g in groups}
    return halves(groups, complete)


BROKEN: list[tuple[str, Callable[..., Any], str]] = [
    ("works", lambda groups, scores: None, "it returns no plan"),
    ("works", lambda groups, scores: 1 / 0, "ZeroDivisionError"),
    ("works", forgetful, "the plan has other groups"),
    ("deterministic", drawn, "the same call gives another plan"),
    ("order-independent", first_come, "scores in another order give another plan"),
    ("untouched", spoiling, "it changes the scores"),
    ("refuses clearly", trusting, "unusable scores .* are taken"),
    ("refuses clearly", lambda groups, scores: halves(groups, {g.name: scores[g.name] for g in groups}), "KeyError"),
]


@pytest.mark.parametrize(("promise", "planner", "text"), BROKEN)
def test_broken_planners_are_caught(promise: str, planner: Any, text: str) -> None:
    with pytest.raises(BrokenPromiseError, match=f"the planner breaks the promise '{promise}'.*{text}") as caught:
        check_planner(planner, promises=[promise])
    assert caught.value.promise == promise


def test_a_plan_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rewriting that makes other outputs stands for it: plans of `groups.plan` always fit."""
    monkeypatch.setattr("fxprune.testing.planner.rewrite", lambda model, plan: lambda x: x)
    with pytest.raises(BrokenPromiseError, match="'fits': the smaller model has outputs of another shape"):
        check_planner(halves, promises=["fits"])


def test_unknown_promises_are_refused() -> None:
    with pytest.raises(fxprune.InputError, match="no such promise; seen: quick; remedy: one of works, fits"):
        check_planner(halves, promises=["quick"])
    assert {promise for promise, *_ in BROKEN} | {"fits"} == set(PLANNER_PROMISES)
