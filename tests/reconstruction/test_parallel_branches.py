"""Repairs of branches side by side, and of outputs that are read several times: what is lacking counts once."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune
from fxprune.reconstruction.readers import read_twice, readers_of, waves

Joined = Callable[[Tensor, Tensor, Tensor], Tensor]


class Branches(nn.Module):
    """Three branches of one input, added up in some way."""

    def __init__(self, joined: Joined) -> None:
        super().__init__()
        self.joined, self.stem, self.head = joined, nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 10, 1)
        self.up = nn.ModuleList(nn.Conv2d(16, 24, 3, padding=1) for _ in range(2))
        self.down = nn.ModuleList(nn.Conv2d(24, 16, 3, padding=1) for _ in range(2))
        with torch.no_grad():
            self.down[0].weight.mul_(6)
            self.down[1].weight.mul_(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        f, g = (down(up(x).relu()) for up, down in zip(self.up, self.down, strict=True))
        return self.head(self.joined(x, f, g).relu()).flatten(1)  # type: ignore[no-any-return]


def images(count: int) -> Tensor:
    return F.interpolate(torch.randn(count, 3, 3, 3), (8, 8), mode="bilinear") + 0.2 * torch.randn(count, 3, 8, 8)


def errors(joined: Joined) -> tuple[float, float, fxprune.Plan, nn.Module]:
    """What is left of the outputs' variance after cutting both branches to a half, and after the repair."""
    torch.manual_seed(1)
    net = Branches(joined).eval()
    plan = fxprune.find_groups(fxprune.trace(net, images(2))).plan({"up.0": range(12), "up.1": range(12)})
    small, data, test = fxprune.rewrite(net, plan).eval(), list(images(256).split(64)), images(128)
    repaired = fxprune.repair(net, small, plan, data, progress=False)
    with torch.no_grad():
        y = net(test)
        bare, after = (float((m(test) - y).square().mean() / y.var(0).mean()) for m in (small, repaired))
    return bare, after, plan, net


JOINED: dict[str, Joined] = {
    "(x+f)+g": lambda x, f, g: (x + f) + g,
    "x+(f+g)": lambda x, f, g: x + (f + g),
    "f+g": lambda x, f, g: f + g,
    "g+(x+f)": lambda x, f, g: g + (x + f),
}


@pytest.mark.parametrize("joined", JOINED.values(), ids=JOINED)
def test_one_branch_makes_up_for_the_other_and_not_both_for_both(joined: Joined) -> None:
    bare, after, plan, net = errors(joined)
    assert after < 0.35 * bare  # 0.75 where what f lacks is counted twice
    assert len(waves(fxprune.trace(net, images(2)), readers_of(plan))) == 2


def test_an_output_that_is_added_twice_makes_up_for_nothing() -> None:
    (_, once, *_), (_, twice, plan, net) = errors(lambda x, f, g: x + 2 * f), errors(lambda x, f, g: x + f + f)
    assert twice < 1.1 * once
    assert read_twice(fxprune.trace(net, images(2)), readers_of(plan)) == {"down.0.weight"}
