"""A weight that makes outputs in two ways, as a tied autoencoder's, is no layer that could be fitted to one of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune


class Tied(nn.Module):
    """An encoder's convolution and its transpose."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3), nn.Conv2d(16, width, 3), nn.Conv2d(16, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x).relu()).relu()
        return self.c(torch.conv_transpose2d(y, self.b.weight).relu())  # type: ignore[no-any-return]


class TiedLinear(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 16), nn.Linear(16, width), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x).relu()).relu()
        return self.c(F.linear(y, self.b.weight.t()).relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize("width", [16, 24])  # statistics of both uses have one size, or two
@pytest.mark.parametrize(("kind", "shape"), [(Tied, (16, 3, 12, 12)), (TiedLinear, (128, 3))])
def test_it_stays_and_the_others_are_fitted(kind: Any, shape: tuple[int, ...], width: int) -> None:
    torch.manual_seed(0)
    net, data = kind(width).eval(), [torch.randn(shape) for _ in range(4)]
    result = fxprune.prune(net, data[0], 0.5, data=data)
    bare = fxprune.rewrite(net, result.plan)
    assert torch.equal(bare.b.weight, result.model.b.weight)
    with torch.no_grad():
        wanted = torch.cat([net(x) for x in data])
        errors = [float((torch.cat([m(x) for x in data]) - wanted).square().mean()) for m in (bare, result.model)]
    assert errors[1] < 0.8 * errors[0]
    done = fxprune.reconstruct(net, bare, result.plan, data)
    assert done.skipped == ("b.weight",)


def test_scorers_that_ask_what_reads_a_channel_say_that_they_cannot() -> None:
    torch.manual_seed(0)
    net, data = Tied(24).eval(), [torch.randn(16, 3, 12, 12) for _ in range(2)]
    groups = fxprune.find_groups(fxprune.trace(net, data[0]))
    for scorer in (fxprune.scorers.Lasso(), fxprune.scorers.ThiNet(), fxprune.scorers.JointElimination()):
        with pytest.raises(fxprune.FxpruneError, match="no convolution or linear layer reads these channels"):
            scorer(net, groups, data)
