"""Small batches are merged, where a model is seen to treat each input by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.module.batches import Batch
from fxprune.reconstruction.repairing import held_batches
from fxprune.statistics.merging import PARTS, merged


class Network(nn.Module):
    """Two layers; what is in between is the case's."""

    def __init__(self, between: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.one, self.other, self.between = nn.Linear(3, 8), nn.Linear(8, 2), between

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        made: Tensor = self.other(self.between(self.one(x))) * scale
        return made


def data(count: int, size: int = 8) -> list[Any]:
    torch.manual_seed(0)
    return [((torch.randn(size, 3),),) for _ in range(count)]


def lengths(batches: Any) -> list[int]:
    return [len(inputs[0]) for (inputs,) in batches]


def test_all_inputs_stay_in_their_order() -> None:
    given = data(11)
    made = merged(Network(), given)
    assert lengths(made) == [24, 24, 24, 16]
    assert torch.equal(torch.cat([t for ((t,),) in given]), torch.cat([t for ((t,),) in made]))


def test_batches_hold_at_most_so_many_inputs() -> None:
    assert lengths(merged(Network(), data(32), most=20)) == [16] * 16
    assert merged(Network(), given := data(32), most=8) is given


def test_a_few_batches_stay() -> None:
    given = data(PARTS)
    assert merged(Network(), given) is given


def test_the_last_batch_may_be_shorter() -> None:
    assert lengths(merged(Network(), [*data(7), *data(1, size=3)])) == [16, 16, 16, 11]


def test_batches_of_enough_numbers_stay() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 64, 1)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.layer(x)
            return made

    images = [((torch.zeros(4, 3, 64, 64),),) for _ in range(8)]  # 2^20 numbers for a batch
    assert merged(Wide(), images) is images
    assert lengths(merged(Wide(), [((t[:2],),) for ((t,),) in images])) == [4, 4, 4, 4]


@pytest.mark.parametrize(
    "between",
    [
        lambda y: y - y.mean(0),
        lambda y: y.view(8, 8).relu(),
        lambda y: y.view(-1, 2, 8).flip(1).flatten(0, 1),
        lambda y: y.roll(1, 0),
        lambda y: y + torch.rand_like(y),
        lambda y: y * torch.nan,
        lambda y: y.sum(0),
    ],
    ids=["mean", "length", "pairs", "neighbours", "noise", "nan", "one"],
)
def test_a_model_that_mixes_inputs_gets_the_batches_that_it_was_given(between: Callable[[Tensor], Tensor]) -> None:
    given = data(8)
    assert merged(Network(between), given) is given


def test_what_is_not_known_to_be_the_same_stays() -> None:
    tokens = [((torch.zeros(4, length, 3),),) for length in range(1, 9)]
    assert merged(Network(), tokens) is tokens
    mixed: list[Any] = [*data(7), ((torch.zeros(8, 3, dtype=torch.float64),),)]
    assert merged(Network(), mixed) is mixed
    scaled = [({"x": t, "scale": float(i)},) for i, ((t,),) in enumerate(data(8))]
    assert merged(Network(), scaled) is scaled
    two = [((t, torch.ones(2)),) for ((t,),) in data(8)]
    assert merged(Network(), two) is two


def test_numbers_beside_the_tensors_stay() -> None:
    made = merged(Network(), [({"x": t, "scale": 2.0},) for ((t,),) in data(8)])
    assert [(len(b["x"]), b["scale"]) for (b,) in made] == [(16, 2.0)] * 4


def test_images_in_a_list_are_one_batch() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 1)

        def forward(self, images: list[Tensor]) -> list[Tensor]:
            return [self.layer(image[None])[0] for image in images]

    images = [(([torch.zeros(3, 5, 5), torch.zeros(3, 5, 5)],),) for _ in range(8)]
    assert merged(Detector(), images) is images


def test_the_model_is_left_as_it_is() -> None:
    net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2)).train()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    given, state = data(8), torch.get_rng_state()
    assert lengths(merged(net, given)) == [16] * 4
    assert net.training
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_repair_runs_fewer_batches_and_finds_the_same() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 2))
    small_ones = list(torch.randn(512, 3).split(16))
    plan = fxprune.find_groups(fxprune.trace(net, small_ones[0])).plan({"0": range(0, 16, 2)})
    small = fxprune.rewrite(net, plan)
    assert [len(inputs[0]) for (inputs,) in held_batches(small, small_ones)] == [128] * 4

    def error(batches: list[Tensor]) -> float:
        made = fxprune.repair(net, small, plan, batches, progress=False)
        with torch.no_grad():
            return float(torch.cat([net(x) - made(x) for x in batches]).square().mean())

    merged_error, few = error(small_ones), error(list(torch.cat(small_ones).split(128)))
    assert merged_error == pytest.approx(few, rel=1e-6)
    with torch.no_grad():
        bare = float(torch.cat([net(x) - small(x) for x in small_ones]).square().mean())
    assert merged_error < bare / 2


def test_channels_are_chosen_on_merged_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    seen: list[int] = []
    run = Batch.run

    def noted(batch: Batch, model: nn.Module) -> Any:
        seen.append(batch.size)
        return run(batch, model)

    monkeypatch.setattr(Batch, "run", noted)
    fxprune.prune(Network(), torch.randn(2, 3), macs=0.5, data=list(torch.randn(512, 3).split(8)))
    assert seen.count(128) > 8  # of the plans and the repair
    assert seen.count(64) >= 8  # of the choice of channels
    assert not seen.count(8)
