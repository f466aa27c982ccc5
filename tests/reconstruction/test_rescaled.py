"""What does not change a network's function changes neither the choice of channels nor the repair."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.scorers import JointElimination, RefitLoss


def network(last: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 12, 3), nn.ReLU(), nn.Conv2d(12, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    return nn.Sequential(*(layers if last is None else (*layers[:2], last))).eval()


def images(count: int = 200) -> Tensor:
    return torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(1))


def rescaled(net: nn.Sequential) -> nn.Sequential:
    """The same function, with the first layer's channels in units from a thousandth to a thousand."""
    other = deepcopy(net)
    units = torch.logspace(-3, 3, 12)[torch.randperm(12, generator=torch.Generator().manual_seed(2))]
    with torch.no_grad():
        other[0].weight *= units[:, None, None, None]
        other[0].bias *= units
        other[2].weight /= units[None, :, None, None] if other[2].weight.shape[1] == 12 else units[:, None, None, None]
    return other


def scored(net: nn.Module, scorer: fxprune.scorers.Scorer, data: list[Tensor]) -> tuple[fxprune.Groups, Tensor]:
    groups = fxprune.find_groups(fxprune.trace(net, data[0]))
    return groups, scorer(net, groups, data)["0"]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("scorer", [JointElimination(), JointElimination(errors="measured"), RefitLoss(ridge=1e-2)])
@pytest.mark.parametrize("transposed", [False, True])
def test_channels_in_other_units_are_scored_and_repaired_alike(
    scorer: fxprune.scorers.Scorer, transposed: bool
) -> None:
    net = network(nn.ConvTranspose2d(12, 4, 3) if transposed else nn.Conv2d(12, 4, 3))
    other, data = rescaled(net), list(images().chunk(4))
    torch.testing.assert_close(net(data[0]), other(data[0]), rtol=1e-4, atol=1e-5)
    (groups, scores), (_, again) = scored(net, scorer, data), scored(other, scorer, data)
    assert scores.argsort().tolist() == again.argsort().tolist()
    torch.testing.assert_close(scores, again, rtol=1e-3, atol=1e-6)
    plan = groups.plan({"0": scores.argsort().tolist()[6:]})
    one, two = (fxprune.repair(m, fxprune.rewrite(m, plan), plan, data) for m in (net, other))
    torch.testing.assert_close(one(data[0]), two(data[0]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_channels_that_never_vary_go_first_whatever_reads_them(value: float) -> None:
    """Their constant goes into the bias, so that the repaired network computes what it did."""
    net, data, still = network(), list(images().chunk(4)), [1, 4, 5, 9, 10]
    with torch.no_grad():
        net[0].weight[still], net[0].bias[still] = 0, value
        net[2].weight[:, still] *= 30
    for scorer in (JointElimination(), JointElimination(errors="measured"), RefitLoss()):
        assert sorted(scored(net, scorer, data)[1].argsort().tolist()[:5]) == still
    plan = fxprune.find_groups(fxprune.trace(net, data[0])).plan({"0": [i for i in range(12) if i not in still]})
    small = fxprune.repair(net, fxprune.rewrite(net, plan), plan, data)
    torch.testing.assert_close(small(data[0]), net(data[0]), rtol=1e-3, atol=1e-3)
