"""Parameters keep what others have noted on them, such as marks for an optimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fxprune


@pytest.mark.parametrize("inplace", [False, True])
def test_attributes_of_parameters_stay(inplace: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    model[0].weight.no_weight_decay = True
    plan = fxprune.find_groups(fxprune.trace(model, torch.zeros(1, 4))).plan({"0": [0, 2]})
    small = fxprune.rewrite(model, plan, inplace=inplace)
    assert small[0].weight.shape == (2, 4)
    assert small[0].weight.no_weight_decay is True


@pytest.mark.parametrize("data", [None, [torch.rand(32, 4)]])
def test_they_stay_where_nothing_is_cut_too(data: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    for p in model.parameters():
        p.no_weight_decay, p.options = True, {"lr": 0.1}
    small = fxprune.prune(model, torch.zeros(1, 4), pruning_ratio=0.5, data=data).model
    assert all(p.no_weight_decay and p.options == {"lr": 0.1} for p in small.parameters())


@pytest.mark.parametrize("inplace", [False, True])
def test_tensors_that_are_noted_on_parameters_are_cut_along_or_left_out(inplace: Any) -> None:
    """AdaHessian notes the square of a second derivative, and fails where it is larger than the parameter."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    square, weight = torch.rand(8, 4), model[0].weight
    weight.hess, weight.side, weight.steps = square, torch.rand(8, 8), torch.tensor(3)
    plan = fxprune.find_groups(fxprune.trace(model, torch.zeros(1, 4))).plan({"0": [0, 2]})
    with pytest.warns(UserWarning, match=r"noted on 0\.weight as 'side' cannot be cut and is left out"):
        small = fxprune.rewrite(model, plan, inplace=inplace)
    assert torch.equal(small[0].weight.hess, square[[0, 2]])
    assert not hasattr(small[0].weight, "side")
    assert small[0].weight.steps == 3
    assert torch.equal(weight.hess, square)
