"""Repair in one call: nearer to the original than the pruned model, whatever form the data have."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.reconstruction import repairing as room


def net() -> nn.Sequential:
    """Convolutions with BatchNorm whose statistics are those of data."""
    made = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 10, 3, padding=1, bias=False),
        nn.BatchNorm2d(10),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(10, 4),
    )
    fxprune.recalibrate_batchnorm(made, [images(64)])
    return made.eval()


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 8, 8) + torch.randn(count, 3, 1, 1)


def pruned() -> tuple[nn.Module, nn.Module, fxprune.Plan]:
    model = net()
    groups = fxprune.find_groups(fxprune.trace(model, images(1)))
    plan = fxprune.planners.Uniform(0.3)(groups, fxprune.scorers.L2Norm()(model, groups))
    return model, fxprune.rewrite(model, plan), plan


def error(model: nn.Module, other: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((model(x) - other(x)).square().mean())


def values(model: nn.Module) -> list[Tensor]:
    return [t.clone() for t in model.state_dict().values()]


def test_a_repaired_copy_is_nearer_to_the_original_on_new_inputs() -> None:
    model, small, plan = pruned()
    before = values(model), values(small)
    data = [images(32) for _ in range(4)]
    repaired = fxprune.repair(model, small, plan, data)
    x = images(200)
    assert error(model, repaired, x) < 0.3 * error(model, small, x)
    for was, now in zip(before, (values(model), values(small)), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(was, now, strict=True))


def test_batchnorm_statistics_are_those_of_the_data_afterwards() -> None:
    model, small, plan = pruned()
    x = images(64)
    repaired = fxprune.repair(model, small, plan, [x])
    with torch.no_grad():
        assert torch.allclose(repaired.eval()(x), repaired.train()(x), atol=1e-3)


def test_generators_and_labelled_batches_do_as_well() -> None:
    model, small, plan = pruned()
    data = [images(16) for _ in range(3)]
    wanted = values(fxprune.repair(model, small, plan, data))
    for given in ((x for x in data), [(x, torch.zeros(16)) for x in data], ((x, 0) for x in data)):
        found = values(fxprune.repair(model, small, plan, given))
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize(("batches", "count"), [(2, 2), (None, 3)])
def test_no_more_batches_are_read_than_wanted(monkeypatch: pytest.MonkeyPatch, batches: int | None, count: int) -> None:
    """By default as many as hold so many inputs; here 40, in batches of 16."""
    monkeypatch.setattr(room, "IMAGES", 40)
    read: list[int] = []

    def endless() -> Iterator[Any]:
        while True:
            read.append(1)
            yield images(16)

    model, small, plan = pruned()
    fxprune.repair(model, small, plan, endless(), batches=batches)
    assert len(read) == count


@pytest.mark.parametrize("batches", [0, -1, 1.5, "3"])
def test_a_bad_number_of_batches_is_refused(batches: Any) -> None:
    model, small, plan = pruned()
    with pytest.raises(fxprune.InputError, match=r"batches must be a positive integer; seen: .*; remedy: None takes"):
        fxprune.repair(model, small, plan, [images(4)], batches=batches)


def test_the_ridge_suits_the_rows() -> None:
    """Hardly any rows: stay near the weights as they are. Many rows: fit them."""
    model, _, plan = pruned()
    ridges = []
    for count in (2, 200):
        copy = fxprune.rewrite(model, plan)
        data = [images(count) for _ in range(2)]
        done = fxprune.reconstruct(model, copy, plan, data, ridge=None, positions=None if count > 2 else 3)
        ridges.append(max(r.ridge for r in done.layers))
    assert ridges[0] > ridges[1]
    copy = fxprune.rewrite(model, plan)
    assert {r.ridge for r in fxprune.reconstruct(model, copy, plan, [images(8)], ridge=None).layers} == {0.01}


def test_one_batch_is_judged_by_halves() -> None:
    """With a single batch, ridges are chosen as with its halves: on inputs that a fit has not seen."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.ReLU(), torch.nn.Linear(12, 3))
    x = torch.randn(16, 6)
    plan = fxprune.find_groups(fxprune.trace(net, x)).plan({"0": range(5)})
    small = fxprune.rewrite(net, plan)
    whole, halves = (fxprune.repair(net, small, plan, data) for data in ([x], [x[:8], x[8:]]))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), halves.parameters(), strict=True))
    dicts = fxprune.repair(net, small, plan, [{"input": x}])  # what is not a single tensor stays as it is given
    assert not torch.equal(dicts[2].weight, whole[2].weight)


def test_what_is_repaired_in_inference_mode_can_be_trained() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    data = [torch.rand(8, 3, 8, 8) for _ in range(2)]
    with torch.inference_mode():
        small = fxprune.prune(net, data[0][:1], macs=0.5, data=data).model
    assert not any(t.is_inference() for t in (*small.parameters(), *small.buffers()))
    small(data[0]).sum().backward()
