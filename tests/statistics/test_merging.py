"""Small batches of images are merged, where a model is seen to treat each image by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

import fxprune
from fxprune.module.batches import Batch
from fxprune.reconstruction.repairing import held_batches
from fxprune.statistics.merging import PARTS, merged


class Network(nn.Module):
    """Two layers; what is in between, or behind them, is the case's."""

    def __init__(
        self,
        between: Callable[[Tensor], Tensor] = torch.relu,
        behind: Callable[[Tensor], Tensor] = torch.nn.Identity(),  # noqa: B008
    ) -> None:
        super().__init__()
        self.one, self.other, self.between, self.behind = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), between, behind

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.behind(self.other(self.between(self.one(x))))
        return made


def data(count: int, size: int = 8, side: int = 5) -> list[Any]:
    torch.manual_seed(0)
    return [((torch.randn(size, 3, side, side),),) for _ in range(count)]


def lengths(batches: Any) -> list[int]:
    return [len(inputs[0]) for (inputs,) in batches]


def stay(model: nn.Module, given: list[Any]) -> bool:
    before = list(given)
    made = merged(model, given)
    return made is given and all(a is b for a, b in zip(made, before, strict=True))


def test_all_images_stay_in_their_order() -> None:
    given = data(11)
    whole = torch.cat([t for ((t,),) in given])
    made = merged(Network(), given)
    assert lengths(made) == [24, 24, 24, 16]
    assert torch.equal(torch.cat([t for ((t,),) in made]), whole)
    assert given == []  # so that its tensors can be let go of


def test_batches_hold_at_most_so_many_images() -> None:
    assert lengths(merged(Network(), data(32), most=20)) == [16] * 16
    given = data(32)
    assert merged(Network(), given, most=8) is given


def test_a_few_batches_stay() -> None:
    assert stay(Network(), data(PARTS))


def test_the_last_batch_may_be_shorter() -> None:
    assert lengths(merged(Network(), [*data(7), *data(1, size=3)])) == [16, 16, 16, 11]


def test_batches_of_enough_numbers_stay() -> None:
    assert stay(nn.Conv2d(3, 64, 1), data(8, size=4, side=64))  # 2^20 numbers for a batch
    assert lengths(merged(nn.Conv2d(3, 64, 1), data(8, size=2, side=64))) == [4, 4, 4, 4]
    assert stay(nn.Conv2d(3, 64, 1), [*data(1, size=1, side=64), *data(8, size=4, side=64)])  # the longest one counts


def test_no_call_gives_too_many_numbers() -> None:
    def attention(y: Tensor) -> Tensor:
        flat = y.flatten(2)
        return (flat @ (flat.mT @ flat).softmax(-1)).view(y.shape)

    pointwise = Network(attention)
    pointwise.one = nn.Conv2d(3, 8, 1)
    assert stay(pointwise, data(8, size=4, side=42))  # 4 * 42^4 of 2^24 numbers


@pytest.mark.parametrize(
    "between",
    [
        lambda y: y - y.mean(0),
        lambda y: y + y.amax(0),
        lambda y: y.view(8, 8, 3, 3).relu(),
        lambda y: y.roll(1, 0),
        lambda y: y + 2 * pad(y, (0, 0, 0, 0, 0, 0, 6, 0))[:-6],
        lambda y: y + torch.rand_like(y),
        lambda y: y * torch.nan,
        lambda y: y.sum(0),
    ],
    ids=["mean", "largest", "length", "neighbours", "lag", "noise", "nan", "one"],
)
@pytest.mark.parametrize(
    "behind", [torch.nn.Identity(), lambda y: (y - 99).relu(), lambda y: y.clamp(max=-99)], ids=["bare", "dead", "same"]
)
def test_a_model_that_mixes_images_gets_the_batches_that_it_was_given(between: Any, behind: Any) -> None:
    same_first = data(8)
    for ((t,),) in same_first:
        t[0] = 0  # what mixes equal images alone does not show
    assert stay(Network(between, behind), data(8))
    assert stay(Network(between, behind), same_first)


def test_a_model_that_refuses_longer_batches() -> None:
    def few(y: Tensor) -> Tensor:
        assert len(y) <= 16
        return y

    assert stay(Network(few), data(128))


def test_what_is_no_batch_of_images_stays() -> None:
    flat = [((torch.randn(8, 3),),) for _ in range(8)]
    assert stay(nn.Linear(3, 2), flat)
    sizes = [((torch.randn(8, 3, 5, side),),) for side in range(5, 13)]
    assert stay(Network(), sizes)
    mixed: list[Any] = [*data(7), ((torch.zeros(8, 3, 5, 5, dtype=torch.float64),),)]
    assert stay(Network(), mixed)
    with_lengths: list[Any] = [({"x": t, "lengths": [5] * 8},) for ((t,),) in data(8)]
    assert stay(Network(), with_lengths)
    two = [((t, torch.ones(8)),) for ((t,),) in data(8)]
    assert stay(Network(), two)


def test_images_by_name() -> None:
    made = merged(Network(), [({"x": t},) for ((t,),) in data(8)])
    assert [len(b["x"]) for (b,) in made] == [16] * 4


def test_the_model_is_left_as_it_is() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(), nn.Conv2d(8, 2, 1)).train()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    given, state = data(8), torch.get_rng_state()
    assert lengths(merged(net, given)) == [16] * 4
    assert net.training
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_repair_runs_fewer_batches_and_finds_the_same() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 2, 1))
    small_ones = list(torch.randn(512, 3, 5, 5).split(16))
    plan = fxprune.find_groups(fxprune.trace(net, small_ones[0])).plan({"0": range(0, 16, 2)})
    small = fxprune.rewrite(net, plan)
    assert lengths(held_batches(small, small_ones)) == [128] * 4

    def error(batches: list[Tensor]) -> float:
        made = fxprune.repair(net, small, plan, batches, progress=False)
        with torch.no_grad():
            return float(torch.cat([net(x) - made(x) for x in batches]).square().mean())

    merged_error, few = error(small_ones), error(list(torch.cat(small_ones).split(128)))
    assert merged_error == pytest.approx(few, rel=1e-6)
    with torch.no_grad():
        bare = float(torch.cat([net(x) - small(x) for x in small_ones]).square().mean())
    assert merged_error < 0.8 * bare


def test_channels_are_chosen_on_merged_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    seen: list[int] = []
    run = Batch.run

    def noted(batch: Batch, model: nn.Module) -> Any:
        seen.append(batch.size)
        return run(batch, model)

    monkeypatch.setattr(Batch, "run", noted)
    images = list(torch.randn(512, 3, 5, 5).split(8))
    fxprune.prune(Network(), torch.randn(2, 3, 5, 5), macs=0.5, data=images)
    assert seen.count(128) > 8  # of the plans and the repair
    assert seen.count(64) >= 8  # of the choice of channels
    merging = seen.count(8)
    seen.clear()
    fxprune.prune(Network(), torch.randn(2, 3, 5, 5), macs=0.5, data=[x.clone() for x in images], repair=False)
    assert seen.count(64) < 8  # what is not held for a repair is not held for this
    assert seen.count(8) > merging
