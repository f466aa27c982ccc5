"""A pruner that goes on from a checkpoint does not make its cuts again."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import fxprune


def test_cuts_that_were_made_are_not_due_again() -> None:
    def net() -> Any:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2))

    x, model = torch.rand(16, 8), net()
    first = fxprune.Gradual(model, x, epochs=[0, 2], macs=0.25)
    first.step(0)
    fresh = net()
    rest = fxprune.Gradual(fresh, x, epochs=[0, 2], macs=0.25)
    rest.load_state_dict(first.state_dict())
    assert rest.cuts == first.cuts == 1
    assert fresh[0].out_features == model[0].out_features
    assert not rest.step(1)
    assert rest.step(2)
    assert rest.cuts == 2


@pytest.mark.parametrize("first", [{"pruning_ratio": 0.5}, {"macs": 0.3}])
@pytest.mark.parametrize("goal", ["macs", "parameters"])
def test_another_goal_is_a_part_of_the_original_all_the_same(first: dict[str, float], goal: str) -> None:
    """A state knows the original's costs for its own goal alone."""

    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))

    x = torch.randn(8, 16)
    before = fxprune.Gradual(net(), x, [0, 1], **first)
    before.step(0)
    after = fxprune.Gradual(net(), x, [0, 1], **{goal: 0.3})
    after.load_state_dict(before.state_dict())
    after.step(1)
    report = after.result.report
    assert 0.28 < getattr(report.after, goal) / getattr(report.before, goal) <= 0.3


def test_an_average_in_another_type_is_repaired_on_the_models_data() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).bfloat16()
    average, x = copy.deepcopy(model).float(), torch.randn(64, 8).bfloat16()
    fxprune.Gradual(model, x[:1], [0], ema=average, macs=0.5, data=[x]).step(0)
    assert average[0].weight.shape == model[0].weight.shape
    assert average[0].weight.dtype is torch.float32
    assert average(x.float()).isfinite().all()
