"""Ops along dims that carry labels, though they seldom do: positions that a linear layer makes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxprune


class Positions(nn.Module):
    """(n, 4, 6) -> ten positions of four channels -> (n, 4, 3)."""

    def __init__(self, between: Any, read: Any = 10) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Linear(6, 10), nn.Linear(read, 3), between
        self.norm = nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, x: Any) -> Any:
        return self.b(self.between(self, self.a(x)))


def groups_of(model: Any, x: Any) -> Any:
    return fxprune.find_groups(fxprune.trace(model.eval(), x))


def test_statistics_of_the_batch_run_over_positions() -> None:
    """Without running statistics a BatchNorm's run over all dims but the channels."""
    groups = groups_of(Positions(lambda m, y: m.norm(y)), torch.randn(2, 4, 6))
    assert groups["a"].mixed_by


@pytest.mark.parametrize("pool", [F.avg_pool1d, F.max_pool1d])
def test_a_pool_with_a_stride_drops_positions(pool: Any) -> None:
    """A window of one position with a stride of two: what is left depends on which positions stay."""
    model, x = Positions(lambda _, y: pool(y, 1, 2), read=5), torch.randn(2, 4, 6)
    assert "a" not in groups_of(model, x)


@pytest.mark.parametrize("order", [-1, -2.0, float("-inf")])
def test_a_norm_of_negative_order_is_no_sum(order: Any) -> None:
    """Of channels that are zero, the norm is zero, whatever the others are."""

    def between(_: Any, y: Any) -> Any:
        return y * torch.linalg.vector_norm(y, order, dim=2, keepdim=True)

    assert groups_of(Positions(between), torch.randn(2, 4, 6))["a"].mixed_by
