"""Two plans in a row are one plan for the original."""

import pytest
import torch
from nets import CASES, Case
from torch import nn

import fxprune


def prune_twice(case: Case) -> tuple[nn.Module, fxprune.Plan, fxprune.Plan, nn.Module]:
    model, x = case.build(), case.inputs()
    first = plan_of(model, case.analysed())
    small = fxprune.rewrite(model, first)
    second = plan_of(small, fxprune.find_groups(fxprune.trace(small, x)))
    return model, first, second, fxprune.rewrite(small, second)


def plan_of(model: nn.Module, groups: fxprune.Groups) -> fxprune.Plan:
    return fxprune.planners.Uniform(0.3)(groups, fxprune.scorers.Random(seed=1)(model, groups))


@pytest.mark.parametrize("name", sorted(CASES))
def test_one_plan_does_what_two_do_in_a_row(name: str) -> None:
    """Every tensor, bit for bit: scales that two plans apply one after the other are products of powers."""
    model, first, second, expected = prune_twice(CASES[name])
    both = first.then(second)
    found = fxprune.rewrite(model, both).state_dict()
    for key, tensor in expected.state_dict().items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-6, atol=0)
    assert fxprune.Plan.from_json(both.to_json()) == both


def test_outputs_are_equal() -> None:
    model, first, second, expected = prune_twice(CASES["residual"])
    x = CASES["residual"].inputs()
    call = x if isinstance(x, tuple) else (x,)
    torch.testing.assert_close(fxprune.rewrite(model, first.then(second)).eval()(*call), expected.eval()(*call))


def test_a_plan_for_another_model_is_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 4)))
    plan = groups.plan({"0": [0, 1, 2]})
    with pytest.raises(fxprune.PlanError, match=r"0.weight is \(3, 4\) after the first plan, the second expects"):
        plan.then(plan)
    with pytest.raises(fxprune.PlanError, match="not a plan"):
        plan.then(0.5)  # type: ignore[arg-type]


def test_a_plan_is_told_in_a_line() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 4)))
    assert repr(groups.plan({"0": [0, 1, 2]})) == "Plan(1 groups: 3 of 8 channels stay)"
