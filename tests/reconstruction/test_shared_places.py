"""Intercepts that have no place of their own: several biases for a weight, one for several weights, a shared norm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune


class Branches(nn.Module):
    """Two layers that read the same channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.z, self.a, self.b = nn.Linear(8, 24), nn.Linear(24, 16), nn.Linear(24, 16)
        self.o = nn.Linear(32, 4)
        self.a.bias.data += 1.0
        self.b.bias.data -= 1.0

    def forward(self, x: Tensor) -> Tensor:
        u = F.relu(self.z(x))
        return self.o(F.silu(torch.cat([self.a(u), self.b(u)], 1)))  # type: ignore[no-any-return]


def one_weight() -> nn.Module:
    net = Branches()
    net.b.weight = net.a.weight
    return net


def one_bias() -> nn.Module:
    net = Branches()
    net.b.bias = net.a.bias
    return net


def relative(outputs: Tensor, wanted: Tensor) -> float:
    return float(((outputs - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()).detach())


def without_biases(net: Any, x: Tensor, names: tuple[str, ...]) -> Tensor:
    u = F.relu(net.z(x))
    layers = [net.get_submodule(name) for name in names]
    return torch.cat([layer(u) - layer.bias for layer in layers])


@pytest.mark.parametrize("order", ["sequential", "at_once"])
@pytest.mark.parametrize("make", [one_weight, one_bias])
def test_each_call_keeps_its_bias_and_the_reported_error_is_the_models(make: Any, order: Any) -> None:
    net, x = make().eval(), torch.randn(512, 8)
    plan = fxprune.find_groups(fxprune.trace(net, x[:1])).plan({"z": range(16)})
    bare, small = fxprune.rewrite(net, plan), fxprune.rewrite(net, plan)
    done = fxprune.reconstruct(net, small, plan, [x[:256], x[256:]], order=order, positions=None)
    for name in ("a", "b"):
        torch.testing.assert_close(small.get_submodule(name).bias, net.get_submodule(name).bias)
    for refit in done.layers:
        assert refit.intercept == ""
        names = ("a", "b") if make is one_weight else (refit.name.partition(".")[0],)
        wanted, before, after = (without_biases(m, x, names) for m in (net, bare, small))
        assert refit.after == pytest.approx(relative(after, wanted), rel=1e-3)
        assert refit.before == pytest.approx(relative(before, wanted), rel=1e-3)
        assert refit.after < 0.6 * refit.before
    assert relative(small(x), net(x)) < relative(bare(x), net(x))


class Elsewhere(nn.Module):
    """A bias that a layer has in common with one that reads the input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.z, self.a, self.b, self.o = nn.Linear(8, 24), nn.Linear(24, 16), nn.Linear(8, 16), nn.Linear(16, 4)
        self.b.bias = self.a.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.o(F.silu(self.a(F.relu(self.z(x)))) + F.silu(self.b(x)))  # type: ignore[no-any-return]


def test_a_bias_that_another_layer_has_as_well_stays() -> None:
    net, x = Elsewhere().eval(), torch.randn(256, 8)
    plan = fxprune.find_groups(fxprune.trace(net, x[:1])).plan({"z": range(16)})
    small = fxprune.rewrite(net, plan)
    assert [r.intercept for r in fxprune.reconstruct(net, small, plan, [x]).layers] == [""]
    torch.testing.assert_close(small.b(x), net.b(x))


class Normed(nn.Module):
    """One batch norm behind a layer that is fitted and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.z, self.a = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 16, 3, padding=1, bias=False)
        self.b, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.o = nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.norm(self.a(F.relu(self.z(x)))), self.norm(self.b(x))], 1)
        return self.o(F.silu(y))  # type: ignore[no-any-return]


def test_a_norm_that_others_use_takes_no_intercept() -> None:
    net, x = Normed(), torch.randn(128, 3, 8, 8) + 1
    net.train()(x)
    net.eval()
    plan = fxprune.find_groups(fxprune.trace(net, x[:1])).plan({"z": range(16)})
    small = fxprune.rewrite(net, plan)
    done = fxprune.reconstruct(net, small, plan, [x[:64], x[64:]])
    assert [r.intercept for r in done.layers] == [""]
    torch.testing.assert_close(small.norm(small.b(x)), net.norm(net.b(x)))
    assert done.layers[0].after < 0.6 * done.layers[0].before
