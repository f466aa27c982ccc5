"""Zeros: rules that say a masked channel stays zero, where the numbers in the call say that it does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxprune

BETWEEN = {
    "clamped_from_above_zero": lambda y: y.clamp(1.0, 6.0),
    "clamped_below_zero": lambda y: y.clamp(-6.0, -1.0),
    "at_least_one": lambda y: y.clamp_min(1.0),
    "hardtanh": lambda y: F.hardtanh(y, 1.0, 2.0),
    "plus_one": lambda y: y + 1,
    "minus_one": lambda y: y - 1.0,
    "power_of_zero": lambda y: y**0,
    "power_below_zero": lambda y: (y.abs() + 0.0) ** 0.0,
    "padded_with_one": lambda y: F.pad(y, (1, 1), value=1.0),
    "filled_with_one": lambda y: y.masked_fill(y > 0.5, 1.0).masked_fill(y == 0, 1.0),
    "filled_in_rows": lambda y: y.index_fill(2, torch.tensor([0]), 1.0),
    "scattered_into_rows": lambda y: y.scatter(2, torch.zeros(*y.shape[:2], 1, y.shape[3], dtype=torch.long), 1.0),
}


class Net(nn.Module):
    def __init__(self, between: Any) -> None:
        super().__init__()
        self.a, self.head, self.between = nn.Conv2d(3, 10, 3, padding=1), nn.Conv2d(10, 4, 1), between

    def forward(self, x: Any) -> Any:
        y = self.a(x)
        return self.head(y * self.between(y).sum((1, 2, 3)).view(-1, 1, 1, 1))


@pytest.mark.parametrize("name", BETWEEN)
def test_sums_of_what_is_not_zero_are_said_to_mix(name: Any) -> None:
    torch.manual_seed(0)
    groups = fxprune.find_groups(fxprune.trace(Net(BETWEEN[name]), torch.randn(2, 3, 8, 8)))
    assert "a" not in groups or groups["a"].mixed_by


class Products(nn.Module):
    """The bias of a product, zero in masked channels, is added to other dims as well."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 10), nn.Linear(6, 10), nn.Linear(10, 4)
        self.shift = nn.Parameter(torch.randn(10))

    def forward(self, x: Any) -> Any:
        rows, columns = F.relu(self.a(x)).sum(0), F.relu(self.b(x))
        both = torch.addmm(self.shift, columns.T, columns)  # (channels, channels)
        return self.head(columns * both.relu().sum() + rows)


def test_a_bias_is_not_zero_along_other_dims() -> None:
    torch.manual_seed(0)
    model, x = Products().double(), torch.randn(5, 6).double()
    groups = fxprune.find_groups(fxprune.trace(model, x))
    plan = groups.plan({g.name: range(g.size // 2) for g in groups if not g.mixed_by})
    small = fxprune.rewrite(model, plan)
    fxprune.mask(model, plan)
    assert torch.allclose(small(x), model(x), atol=1e-9)
