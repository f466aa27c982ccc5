"""Widths on the way to a goal."""

import pytest
import torch
from torch import nn

import fxprune
from fxprune.planners import Constraints, Uniform
from fxprune.planners.stepwise import Towards


def test_no_step_cuts_below_the_end_and_roundings_do_not_add_up() -> None:
    net = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 4))
    eights = Constraints(round_to=8)
    widths = []
    model: nn.Module = net
    for number in range(1, 7):
        groups = fxprune.find_groups(fxprune.trace(model, torch.zeros(1, 4)))
        end = Uniform(1 - 24 / groups["0"].size, eights)  # 24 of the first group, whatever is left of it
        scores = fxprune.scorers.L2Norm()(model, groups)
        plan = Towards(end, number / 6, {"0": 64, "2": 20}, eights)(groups, scores)
        widths.append(plan.kept_counts())
        assert all(plan.kept_counts()[n] >= c for n, c in end(groups, scores).kept_counts().items())
        model = fxprune.rewrite(model, plan)
    assert [w["0"] for w in widths] == [56, 48, 40, 40, 32, 24]
    assert all(w["2"] in (8, 16, 20) for w in widths)


def test_the_last_step_alone_tells_of_a_rest() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.warns(UserWarning, match="of the budget unused") as told:
        fxprune.prune(net, torch.zeros(1, 4), macs=0.55, steps=3)
    assert len([w for w in told if "unused" in str(w.message)]) == 1
