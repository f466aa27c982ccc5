"""Random inputs: pictures with edges and areas, and what they are good for."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.module.batches import batches


def correlation(x: Tensor, y: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1])


def test_pictures_are_standard_normal_with_areas_and_independent_channels() -> None:
    (x,) = fxprune.random_inputs(torch.zeros(400, 3, 20, 24, dtype=torch.float64), 1)
    assert (tuple(x.shape), x.dtype) == ((400, 3, 20, 24), torch.float64)
    assert x.mean((0, 2, 3)).abs().max() < 0.1
    assert (x.std((0, 2, 3)) - 1).abs().max() < 0.05
    assert correlation(x[..., 1:], x[..., :-1]) > 0.8
    assert correlation(x[..., 1:, :], x[..., :-1, :]) > 0.8
    assert abs(correlation(x[..., :2, :2], x[..., -2:, -2:])) < 0.15
    assert abs(correlation(x[:, 0], x[:, 1])) < 0.05
    assert (x[..., 1:] == x[..., :-1]).double().mean() > 0.7
    assert correlation(x[1:, :, 10, 10], x[:-1, :, 10, 10]) < 0.1


def test_each_seed_gives_its_own_batches_that_differ() -> None:
    x = torch.zeros(2, 1, 8, 8)
    one, again, other = (fxprune.random_inputs(x, 2, seed=s) for s in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one[0], other[0])


class Two(nn.Module):
    def forward(self, x: Tensor, numbers: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("named", [False, True])
def test_batches_are_like_the_example_and_only_floating_tensors_are_drawn(named: bool) -> None:
    x, numbers = torch.zeros(2, 3, 4), torch.arange(5)
    example: Any = {"x": x, "numbers": numbers} if named else (x, numbers)
    found = list(batches(Two(), fxprune.random_inputs(example, 3)))
    assert len(found) == 3
    for batch in found:
        args, kwargs = batch.inputs
        drawn, kept = kwargs.values() if named else args
        assert batch.targets is None
        assert torch.equal(kept, numbers)
        assert drawn.shape == x.shape
        assert drawn.unique().numel() == x.numel()


def test_the_default_device_does_not_matter() -> None:
    x = torch.zeros(2, 1, 8, 8)
    with torch.device("meta"):
        (found,) = fxprune.random_inputs(x, 1)
    assert torch.equal(found, fxprune.random_inputs(x, 1)[0])


def test_videos_are_pictures_in_their_last_two_dims() -> None:
    (x,) = fxprune.random_inputs(torch.zeros(50, 2, 5, 16, 16, dtype=torch.float16), 1)
    assert x.dtype == torch.float16
    assert correlation(x[..., 1:].float(), x[..., :-1].float()) > 0.6
    assert abs(correlation(x[:, :, 1:].float(), x[:, :, :-1].float())) < 0.05


def test_a_repair_on_them_mends_channels_that_can_be_made_of_others() -> None:
    """Of 8 linear channels 3 suffice; what a bare cut loses comes back on real inputs of another distribution."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 4, 3))
    x = torch.rand(16, 3, 10, 10)
    plan = fxprune.find_groups(fxprune.trace(net, x)).plan({"0": [0, 1, 2]})
    bare = fxprune.rewrite(net, plan)
    repaired = fxprune.repair(net, bare, plan, fxprune.random_inputs(x, 8), progress=False)
    far = [float((net(x) - small(x)).detach().square().mean()) for small in (bare, repaired)]
    assert far[1] < 1e-3 * far[0]


@pytest.mark.parametrize("count", [0, -1, 1.5])
def test_numbers_of_batches_that_cannot_be_are_refused(count: Any) -> None:
    with pytest.raises(
        fxprune.InputError, match=r"batches must be a positive integer; seen: .*; remedy: give a number"
    ):
        fxprune.random_inputs(torch.zeros(1, 1, 4, 4), count)


class Pair(nn.Module):
    """Takes a picture and numbers that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.table, self.head = nn.Conv2d(3, 8, 3), nn.Embedding(5, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x).relu().mean((2, 3)) + self.table(kind))


@pytest.mark.parametrize("samples", [1, 16])
def test_prune_on_random_data_keeps_what_a_bare_cut_loses(samples: int) -> None:
    torch.manual_seed(0)
    low = torch.randn(3, 12)  # three of twelve channels suffice
    net = nn.Sequential(nn.Conv2d(3, 12, 1), nn.Conv2d(12, 4, 3)).eval()
    with torch.no_grad():
        net[0].weight.copy_((low.T @ torch.randn(3, 3))[:, :, None, None])
    x = torch.rand(16, 3, 10, 10)
    given = torch.zeros(samples, 3, 10, 10)
    bare, repaired, cut = (
        fxprune.prune(net, given, macs=0.5, **kw)
        for kw in ({}, {"data": "random"}, {"data": "random", "repair": False})
    )
    far = [float((net(x) - r.model(x)).detach().square().mean()) for r in (bare, repaired, cut)]
    assert far[1] < 1e-3 * min(far[0], far[2])
    assert repaired.plan.kept_counts() == cut.plan.kept_counts()
    assert "layers repaired on pictures of random shapes" in str(repaired.report)
    assert 'data="random"' in str(bare.report)
    assert "layers not repaired" in str(cut.report)


def test_random_data_take_one_ratio_for_all_groups() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 100, 1), nn.Conv2d(100, 200, 1), nn.Conv2d(200, 100, 1), nn.Conv2d(100, 4, 1)
    ).eval()
    with torch.no_grad():
        net[1].weight[:150] *= 1e-3  # by these norms, three quarters of its channels are worth nothing
    random, bare = (fxprune.prune(net, torch.zeros(1, 3, 6, 6), macs=0.5, **kw) for kw in ({"data": "random"}, {}))
    sizes = {"0": 100, "1": 200, "2": 100}
    parts, others = ([r.plan.kept_counts()[g] / n for g, n in sizes.items()] for r in (random, bare))
    assert max(parts) - min(parts) <= 0.01
    assert max(others) - min(others) > 0.2


def test_random_data_of_several_inputs_are_like_the_example() -> None:
    x = torch.zeros(8, 3, 8, 8), torch.arange(8) % 5
    result = fxprune.prune(Pair().eval(), x, pruning_ratio=0.5, data="random")
    assert result.model.conv.weight.shape[0] == 4


@pytest.mark.parametrize(
    ("model", "x", "options", "told"),
    [
        (nn.Linear(3, 3), torch.zeros(1, 3), {"data": "photos"}, r"the data is a name; seen: 'photos'; remedy: give"),
        (nn.Embedding(5, 8), torch.tensor([[1]]), {"data": "random"}, r'data="random" draws floating tensors; seen:'),
        (
            nn.Conv2d(3, 3, 1),
            torch.zeros(1, 3, 4, 4),
            {"data": "random", "unpack": lambda batch: batch},
            r"unpack= has nothing to unpack; seen: random data",
        ),
    ],
)
def test_names_that_are_no_data_are_refused(model: nn.Module, x: Any, options: Any, told: str) -> None:
    with pytest.raises(fxprune.InputError, match=told):
        fxprune.prune(model, x, pruning_ratio=0.5, **options)
