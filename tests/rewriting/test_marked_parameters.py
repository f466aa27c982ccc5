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
