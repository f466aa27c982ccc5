"""Scalar parameters count, and planners take the last of equals."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import fxprune


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.scale = nn.Linear(4, 8), nn.Linear(8, 2), nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Any) -> Any:
        return self.b(self.a(x).relu() * self.scale)


def test_parameters_without_dims_count() -> None:
    model = Scaled()
    groups = fxprune.find_groups(fxprune.trace(model, torch.zeros(1, 4)))
    assert fxprune.cost(groups).parameters == sum(p.numel() for p in model.parameters()) == 59


def test_of_equal_scores_the_later_channels_go_over_groups() -> None:
    """As inside a group: of all channels one behind another."""
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(3)])
    groups = fxprune.find_groups(fxprune.trace(model, torch.zeros(1, 4)))
    scores = {g.name: torch.ones(4) for g in groups}
    planner = fxprune.planners.GlobalThreshold(0.25, normalise=fxprune.planners.as_they_are)
    assert planner(groups, scores).kept_counts() == {"0": 4, "1": 2}
