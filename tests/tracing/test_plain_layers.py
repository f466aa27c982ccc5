"""Layers that are recorded without being run, against what PyTorch issues for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import fxprune
from fxprune.tracing import plain_layers

LAYERS = [
    *(nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2), nn.Conv2d(4, 8, 3, groups=4, bias=False)),
    *(nn.Conv2d(4, 6, 3, padding="same"), nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular")),
    *(nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, momentum=None)),
    *(nn.BatchNorm2d(4, track_running_stats=False), nn.BatchNorm2d(4, eps=0.5)),
    *(nn.AdaptiveAvgPool2d(size) for size in (1, (1, 1), (1, None), 3)),
    *(kind(inplace) for kind in (nn.ReLU, nn.SiLU, nn.Hardswish, nn.Hardsigmoid) for inplace in (False, True)),
]


def recorded(model: nn.Module, x: Tensor) -> list[Any]:
    nodes = fxprune.trace(model, x).fx.nodes
    return [(n.op, str(n.target), str(n.args), str(n.kwargs), n.meta) for n in nodes]


def by_pytorch(monkeypatch: pytest.MonkeyPatch, model: nn.Module, x: Tensor) -> list[Any]:
    with monkeypatch.context() as m:
        m.setattr(plain_layers, "_CALLS", {})
        return recorded(model, x)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_layer_is_recorded_as_pytorch_calls_it(
    layer: nn.Module, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.rand(2, 4, 9, 8)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    net = nn.Sequential(nn.Conv2d(4, 4, 1), layer, nn.Flatten())
    assert recorded(net, x) == by_pytorch(monkeypatch, net, x)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "googlenet", "resnet18", "shufflenet_v2_x0_5"])
def test_a_network_is_recorded_as_pytorch_calls_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"init_weights": False} if name == "googlenet" else {}
    net, x = torchvision.models.get_model(name, **options).eval(), torch.zeros(1, 3, 64, 64)
    assert recorded(net, x) == by_pytorch(monkeypatch, net, x)


class WithGradients(nn.Module):
    """Its forward needs the gradient of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.requires_grad_()
            (slope,) = torch.autograd.grad(self.layer(x).relu().sum(), x)
        return self.last(slope)  # type: ignore[no-any-return]


def test_gradients_within_a_forward() -> None:
    assert len(recorded(WithGradients(), torch.rand(1, 4, 5, 5))) > 6


def test_unbatched_images(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU()), torch.rand(4, 8, 8)
    assert recorded(net, x) == by_pytorch(monkeypatch, net, x)


def test_a_layer_that_does_not_fit_fails_as_in_pytorch() -> None:
    with pytest.raises(fxprune.TraceError, match="expected input"):
        fxprune.trace(nn.Sequential(nn.Conv2d(4, 6, 3), nn.Conv2d(5, 2, 3)), torch.rand(1, 4, 8, 8))
