"""Repairs of layers that run again on what they have computed themselves."""

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.reconstruction.readers import repeated


class Loop(nn.Module):
    """One block, several times, with or without a shortcut."""

    def __init__(self, times: int, shortcut: bool = True) -> None:
        super().__init__()
        self.times, self.shortcut = times, shortcut
        self.stem, self.up, self.down, self.head = (
            nn.Linear(6, 20),
            nn.Linear(20, 40),
            nn.Linear(40, 20),
            nn.Linear(20, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        for _ in range(self.times):
            y = self.down(torch.relu(self.up(x)))
            x = x + y if self.shortcut else y
        return self.head(x)


class Sides(nn.Module):
    """One block on two inputs, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 40), nn.Linear(40, 6)

    def forward(self, x: Tensor) -> Tensor:
        a, b = (y + self.down(torch.relu(self.up(y))) for y in (x, 2 * x))
        return a - b


@pytest.mark.parametrize("shortcut", [True, False])
@pytest.mark.parametrize("times", [1, 2, 4, 8])
def test_the_repair_helps(times: int, shortcut: bool) -> None:
    """Each call of a block made up for what its own unfitted calls lacked: at 8 of them, the error became 15."""
    torch.manual_seed(0)
    model = Loop(times, shortcut).eval()
    data, held_back = [torch.randn(256, 6) for _ in range(4)], torch.randn(2000, 6)
    groups = fxprune.find_groups(fxprune.trace(model, data[0]))
    plan = fxprune.planners.PerGroup({"up": 0.25})(groups, fxprune.scorers.L2Norm()(model, groups))
    bare = fxprune.rewrite(model, plan)
    repaired = fxprune.repair(model, bare, plan, data, progress=False)
    with torch.no_grad():
        wanted = model(held_back)
        before, after = ((m(held_back) - wanted).square().mean() / wanted.var() for m in (bare, repaired))
    assert after < before / 10
    assert after < 0.05


def test_errors_are_of_the_whole_repair() -> None:
    torch.manual_seed(0)
    model, data = Loop(4).eval(), [torch.randn(256, 6) for _ in range(4)]
    groups = fxprune.find_groups(fxprune.trace(model, data[0]))
    plan = fxprune.planners.PerGroup({"up": 0.25})(groups, fxprune.scorers.L2Norm()(model, groups))
    small = fxprune.rewrite(model, plan)
    done = fxprune.reconstruct(model, small, plan, data)
    assert [r.name for r in done.layers] == ["down.weight"]
    again = fxprune.reconstruct(model, small, plan, data)
    assert again.layers[0].before < done.layers[0].before / 4


def test_which_layers_run_again() -> None:
    names = ["stem.weight", "up.weight", "down.weight", "head.weight"]
    x = torch.randn(2, 6)
    assert repeated(fxprune.trace(Loop(1), x), names) == set()
    assert repeated(fxprune.trace(Loop(3), x), names) == {"up.weight", "down.weight"}
    assert repeated(fxprune.trace(Loop(3, shortcut=False), x), names) == {"up.weight", "down.weight"}
    assert repeated(fxprune.trace(Sides(), x), names) == set()
