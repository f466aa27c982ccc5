"""Scales that the code makes a tensor of, or computes with NumPy, are taken up by weights as plain numbers are."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from oracle import ROUNDING, deviation, random_plan, without_mixed
from torch import Tensor, nn

import fxprune

WIDTH = 32


class Scaled(nn.Module):
    """Attention of one head, whose scores a function scales."""

    def __init__(self, scale: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.scale = scale
        self.inp, self.q, self.k = nn.Linear(12, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        q, k = self.q(x), self.k(x)
        return self.out(self.scale(q @ k.mT, q).softmax(-1) @ x)  # type: ignore[no-any-return]


SCALES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "root of a tensor": lambda s, q: s / torch.sqrt(torch.tensor(q.shape[-1], dtype=q.dtype, device=q.device)),
    "power of an int": lambda s, q: s / torch.tensor(q.shape[-1], device=q.device) ** 0.5,
    "without a device": lambda s, q: s / torch.sqrt(torch.tensor(q.shape[-1]).float()),
    "reciprocal root": lambda s, q: s * torch.rsqrt(torch.tensor(q.size(-1), dtype=q.dtype)),
    "computed before": lambda s, q: s * torch.tensor(1 / math.sqrt(q.size(-1)), device=q.device),
    "numpy": lambda s, q: s / np.sqrt(q.shape[-1]),
}


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_weights_take_up_the_scale(scale: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model, x = Scaled(scale).double().eval(), torch.randn(2, 7, 12).double()
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert [(g.name, g.size) for g in groups] == [("inp", WIDTH), ("q", WIDTH)]
    plan = random_plan(model, groups, 0.7)
    assert {s.factor for s in plan.scales} == {(10 / 32) ** 0.5}
    assert deviation(model, without_mixed(groups, plan), (x,)) <= 1e-6  # the scale is a tensor of single precision
    assert fxprune.verify(model, plan, x) <= 1e-6


def test_a_number_that_is_added_is_not_taken_up() -> None:
    def added(scores: Tensor, q: Tensor) -> Tensor:
        return scores + torch.tensor(q.shape[-1], device=q.device)

    groups = fxprune.find_groups(fxprune.trace(Scaled(added).eval(), torch.randn(2, 7, 12)))
    assert [g.name for g in groups] == ["inp"]
    assert any(f.tensor == "q.weight" and "in tensor" in f.reason for f in groups.fixed)
    assert fxprune.verify(Scaled(added), groups.plan({"inp": range(9)}), torch.randn(2, 7, 12)) <= ROUNDING
