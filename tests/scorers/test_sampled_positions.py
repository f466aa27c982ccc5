"""Sampled labels at many positions: the mean over them, of independent labels."""

from __future__ import annotations

import torch
from torch import nn

import fxprune


def test_positions_that_are_alike_count_as_one() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 1)).double()
    x = torch.randn(8, 3, 1, 1).double()
    groups = fxprune.find_groups(fxprune.trace(model, x))
    scorer = fxprune.scorers.HessianDiagonal(draws=300)
    one = scorer(model, groups, [x])["0"]
    many = scorer(model, groups, [x.expand(-1, -1, 4, 4).contiguous()])["0"]
    assert torch.allclose(one.sum(), many.sum(), rtol=0.25)
