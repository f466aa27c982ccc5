"""Channel samplers: layers that read a part of a stream which stays whole."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
import torchvision
from torch import Tensor, nn

import fxprune

X = torch.rand(2, 3, 32, 32)
LAYERS = ["layer?.?.conv1"]


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=10).eval()


class Block(nn.Module):
    """A linear layer, a convolution in one dim and one stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a = nn.Conv1d(3, 12, 1), nn.Conv1d(12, 6, 3, padding=1)
        self.b, self.c, self.head = nn.Conv1d(6, 12, 1), nn.Linear(12, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.c((x + self.b(self.a(x).relu())).transpose(1, 2)))


def plan_of(model: nn.Module, x: Tensor, ratio: float = 0.5) -> tuple[fxprune.Groups, fxprune.Plan]:
    groups = fxprune.find_groups(fxprune.trace(model, x))
    return groups, fxprune.planners.Uniform(ratio)(groups, fxprune.scorers.Random(1)(model, groups))


def test_a_sampler_changes_nothing_by_itself() -> None:
    model = resnet()
    sampled = fxprune.add_samplers(model, LAYERS)
    assert torch.equal(sampled(X), model(X))
    assert list(sampled.state_dict()) == list(model.state_dict())
    assert not hasattr(model.layer1[0].conv1, "sampled_channels")


def test_the_stream_stays_and_its_readers_shrink() -> None:
    model = fxprune.add_samplers(resnet(), LAYERS)
    groups, plan = plan_of(model, X)
    small = fxprune.rewrite(model, plan)
    assert groups["layer2.1.conv1.sampled_channels"].size == 128
    assert small.layer2[1].conv2.out_channels == 128
    assert small.layer2[1].conv1.weight.shape == (64, 64, 3, 3)
    assert small.layer2[1].conv1.in_channels == 64
    reason = next(f for f in groups.fixed if f.tensor == "layer2.1.conv2.weight" and f.dim == 0)
    assert reason.reason == "addressed by an index tensor"
    assert "layer2.1.conv1" in reason.where or "layer2" in reason.where
    assert fxprune.verify(model, plan, X) < 1e-9
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        small(X)
    assert fxprune.cost(groups, plan).macs * 2 == counter.get_total_flops()


def test_layers_of_other_kinds() -> None:
    model, x = fxprune.add_samplers(Block(), ["a", "c"]), torch.rand(2, 3, 5)
    groups, plan = plan_of(model, x)
    assert {g.name: g.size for g in groups} == {"a": 6, "a.sampled_channels": 12, "c.sampled_channels": 12, "c": 8}
    assert fxprune.verify(model, plan, x) < 1e-9


def test_the_pruned_model_is_reloaded_copied_and_exported() -> None:
    model = fxprune.add_samplers(resnet(), LAYERS)
    _, plan = plan_of(model, X)
    small = fxprune.rewrite(model, plan)
    expected = small(X)
    file = io.BytesIO()
    torch.save(small.state_dict(), file)
    file.seek(0)
    fresh = fxprune.rewrite(fxprune.add_samplers(torchvision.models.resnet18(num_classes=10).eval(), LAYERS), plan)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    others = [fresh, copy.deepcopy(small), pickle.loads(pickle.dumps(small)), torch.export.export(small, (X,)).module()]
    assert all(torch.allclose(other(X), expected, atol=1e-6) for other in others)


def test_clear_errors() -> None:
    with pytest.raises(fxprune.InputError, match=r"no layer .* has this name.*bn1"):
        fxprune.add_samplers(resnet(), ["bn1"])
    with pytest.raises(fxprune.InputError, match=r"has a sampler already.*layer1\.0\.conv1"):
        fxprune.add_samplers(resnet(), ["layer1.0.conv1", "layer1.0.*"])
    model = fxprune.add_samplers(resnet(), LAYERS)
    _, plan = plan_of(model, X)
    with pytest.raises(fxprune.PlanError, match=r"no tensor layer1\.0\.conv1\.sampled_channels.*add_samplers first"):
        fxprune.rewrite(resnet(), plan)
