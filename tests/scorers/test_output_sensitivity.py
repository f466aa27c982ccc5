"""How far outputs move, against errors that are really put there."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.scorers import JointElimination, output_sensitivity


class Net(nn.Module):
    """A convolution, a transposed one and a linear layer, whose outputs can be disturbed."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.ConvTranspose2d(8, 6, 2, groups=2)
        self.last = nn.Linear(6, 5)
        self.noise: dict[str, Tensor] = {}

    def disturbed(self, name: str, y: Tensor) -> Tensor:
        return y + self.noise[name] if name in self.noise else y

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.disturbed("first", self.first(x)))
        y = torch.tanh(self.disturbed("second", self.second(y)))
        return self.disturbed("last", self.last(y.mean((2, 3))))


def moved(net: Net, x: Tensor, name: str, channel: int, kind: str, size: float = 1e-3) -> float:
    """The mean divergence of outputs for noise of this size in one channel, as a part of its variance."""
    with torch.no_grad():
        net.noise = {}
        before = net(x)
        shape = {"first": (8, 6, 6), "second": (6, 7, 7), "last": (5,)}[name]
        noise = torch.zeros(len(x), *shape, dtype=x.dtype)
        noise[:, channel] = size * torch.randn(noise[:, channel].shape, dtype=x.dtype)
        net.noise = {name: noise}
        after, net.noise = net(x), {}
        if kind == "kl":
            before, after = before.log_softmax(1), after.log_softmax(1)
            far = (before.exp() * (before - after)).sum(1).mean()
        else:
            far = (after - before).square().sum(1).mean() / before.var(0, correction=0).sum()
    return float(far) / size**2


@pytest.mark.parametrize("kind", ["kl", pytest.param("squared", marks=pytest.mark.slow)])
def test_sensitivities_are_how_far_outputs_move(kind: Any) -> None:
    torch.manual_seed(0)
    net = Net().double().eval()
    x = torch.randn(4000, 3, 8, 8, dtype=torch.float64)
    names = ("first", "second", "last")
    found = output_sensitivity(net, [x], [f"{n}.weight" for n in names], kind)
    for name in names:
        assert len(found[f"{name}.weight"]) == {"first": 8, "second": 6, "last": 5}[name]
        for channel in (0, 4):
            wanted = moved(net, x, name, channel, kind)
            assert float(found[f"{name}.weight"][channel, channel]) == pytest.approx(wanted, rel=0.2)


def test_the_kind_follows_the_outputs() -> None:
    net = Net().double().eval()
    data = [torch.randn(20, 3, 8, 8, dtype=torch.float64)]
    auto, kl = (output_sensitivity(net, data, ["first.weight"], kind) for kind in ("auto", "kl"))
    assert torch.equal(auto["first.weight"], kl["first.weight"])
    dense = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)).double()
    auto, squared = (output_sensitivity(dense, data, ["0.weight"], kind) for kind in ("auto", "squared"))
    assert torch.equal(auto["0.weight"], squared["0.weight"])
    with pytest.raises(fxprune.InputError, match="divergence"):
        output_sensitivity(net, data, ["first.weight"], "cosine")  # type: ignore[arg-type]


def test_channels_that_the_outputs_do_not_heed_go_first() -> None:
    """Both channels are read as strongly; what the second one is read for never reaches the output."""
    net = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2, bias=False), nn.Linear(2, 3, bias=False)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 5.0]]))
        net[2].weight[:, 1] = 1e-3 * net[2].weight[:, 1]
    groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 4, dtype=torch.float64)))
    data = [torch.randn(40, 4, dtype=torch.float64)]
    plain, aware = (JointElimination(errors=e).curves(net, groups, data)["0"] for e in ("relative", "auto"))  # type: ignore[arg-type]
    assert plain.order.tolist() == [0, 1]
    assert aware.order.tolist() == [1, 0]


def test_errors_of_groups_compare_by_what_they_do_to_the_output() -> None:
    """The curve's end is the divergence of outputs when a layer gives its mean alone, where that is small."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)).double()
    with torch.no_grad():
        net[2].weight.mul_(0.1)
    x = torch.randn(2000, 4, dtype=torch.float64)
    groups = fxprune.find_groups(fxprune.trace(net, x[:1]))
    curves = JointElimination(None, ridge=1e-9, errors="kl").curves(net, groups, [x])
    with torch.no_grad():
        for name, layer, after in (("0", 1, 2), ("1", 2, 3)):
            y = net[: layer + 1](x)
            out, flat = net[after:](y).log_softmax(1), net[after:](y.mean(0).expand_as(y)).log_softmax(1)
            kl = float((out.exp() * (out - flat)).sum(1).mean())
            assert curves[name].errors[-1] == pytest.approx(kl, rel=0.35)


def test_batches_do_not_matter() -> None:
    """A last batch of a single input has no spread of its own. (Labels are drawn anew for other batches.)"""
    net, x = Net().double().eval(), torch.randn(17, 3, 8, 8, dtype=torch.float64)
    whole, halves, last, single = (
        output_sensitivity(net, x.split(size), ["first.weight"], "squared")["first.weight"] for size in (17, 9, 16, 1)
    )
    for other in (halves, last, single):
        torch.testing.assert_close(other, whole)


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.near, self.far = nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(self.first(x))
        return self.near(y), 100 * self.far(y)


def test_outputs_count_alike_whatever_their_unit() -> None:
    torch.manual_seed(0)
    net, x = TwoOutputs().double(), torch.randn(8000, 4, dtype=torch.float64)
    both = output_sensitivity(net, x.split(4000), ["first.weight"])["first.weight"]
    alone = [
        output_sensitivity(nn.Sequential(net.first, nn.Tanh(), last), [x], ["0.weight"], "squared")["0.weight"]
        for last in (net.near, net.far)
    ]
    torch.testing.assert_close(both, sum(alone), rtol=0.1, atol=0.02)
