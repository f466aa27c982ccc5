"""Positions that reshapes tie to one another, and that no parameter has, are no group."""

from __future__ import annotations

from typing import Any

import torch
from oracle import ROUNDING, random_plan, without_mixed
from torch import Tensor, nn

import fxprune


class SlotAttention(nn.Module):
    """Slots that look at an image, and a decoder that lays each out over all positions."""

    def __init__(self, slots: int = 3, width: int = 24) -> None:
        super().__init__()
        self.slots = slots
        self.encoder, self.position = nn.Conv2d(3, width, 8, 8), nn.Linear(4, width)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.mean = nn.Parameter(torch.randn(1, 1, width))
        self.decoder = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x: Tensor) -> Any:
        seen = self.encoder(x)
        batch, width, h, w = seen.shape
        seen = seen.flatten(2).mT
        slots = self.mean.expand(batch, self.slots, -1)
        k, v = self.k(seen), self.v(seen)
        shares = torch.einsum("bid,bjd->bij", self.q(slots), k).softmax(1) + 1e-8
        slots = torch.einsum("bjd,bij->bid", v, shares / shares.sum(-1, keepdim=True))
        grid = self.position(torch.ones(h, w, 4)).reshape(1, 1, h * w, width)
        return self.decoder(slots[:, :, None] + grid).sum(1)


def test_slot_attention() -> None:
    torch.manual_seed(0)
    model, x = SlotAttention().eval(), torch.randn(2, 3, 32, 32)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert {g.name: g.size for g in groups}["decoder.0"] == 32
    plan = random_plan(model, groups, 0.5)
    assert fxprune.verify(model, without_mixed(groups, plan), x) <= ROUNDING
    assert fxprune.rewrite(model, plan)(torch.randn(5, 3, 32, 32)).shape == (5, 16, 4)
