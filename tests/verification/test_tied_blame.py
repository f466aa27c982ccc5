"""Blame: tied groups are judged together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

import fxprune


class Projected(nn.Module):
    """Projects what it adds, if its width is another: both widths are tied."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.skip = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1), nn.Conv2d(8, 16, 1)
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, x: Any) -> Any:
        x = self.a(x).relu()
        y = self.b(x)
        return self.out(y + (self.skip(x) if x.shape[1] != y.shape[1] else x))


def test_a_fault_in_one_of_tied_groups_is_found_in_both() -> None:
    torch.manual_seed(0)
    model, x = Projected().eval(), torch.randn(2, 3, 4, 4)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    plan = groups.plan({"a": range(3), "b": range(0, 12, 2)})
    group = plan.groups["b"]
    wrong = tuple(replace(s, channels=s.channels[::-1].copy()) if s.tensor == "out.weight" else s for s in group.slots)
    faulty = replace(plan, groups={**plan.groups, "b": replace(group, slots=wrong)})
    assert fxprune.find_faulty_groups(model, groups, faulty, x) == ["a", "b"]
