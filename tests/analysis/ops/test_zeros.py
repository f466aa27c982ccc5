"""Sums that tell masked channels from removed ones: a tensor is zero in channels only where it has them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune


class Net(nn.Module):
    """Ten channels `y` of a convolution, whose input `f` has twelve."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.head = (
            nn.Conv2d(3, 12, 3, padding=1),
            nn.Conv2d(12, 10, 3, padding=1),
            nn.Conv2d(10, 4, 1),
        )
        self.b = nn.Conv2d(12, 8, 1)
        self.w1, self.w2 = nn.Parameter(torch.randn(8, 10, 1, 1)), nn.Parameter(torch.randn(10, 8, 1, 1))
        self.gamma, self.beta = nn.Parameter(torch.randn(10, 1, 1)), nn.Parameter(torch.randn(10, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        f = F.relu(self.stem(x))
        return self.head(self.between(f, self.a(f)))  # type: ignore[no-any-return]

    def between(self, f: Tensor, y: Tensor) -> Tensor:
        raise NotImplementedError


def variance_by_hand(self: Net, f: Tensor, y: Tensor) -> Tensor:
    mean = y.sum(1, keepdim=True) / 10
    return (y - mean) / (((y - mean) ** 2).sum(1, keepdim=True) + 1e-5).sqrt()


def a_gate_times_a_sigmoid(self: Net, f: Tensor, y: Tensor) -> Tensor:
    return y * (f.amax(1, keepdim=True) * y.sigmoid()).sum(1, keepdim=True)


def a_softmax_times_a_scalar(self: Net, f: Tensor, y: Tensor) -> Tensor:
    return y * (y.flatten(2).softmax(-1).view_as(y) * f.mean((1, 2, 3), keepdim=True)).sum(1, keepdim=True)


def pairs(self: Net, f: Tensor, y: Tensor) -> Tensor:
    both = y.mean((2, 3)).unsqueeze(2) + self.b(f).mean((2, 3)).unsqueeze(1)
    return y * F.relu(both).sum((1, 2)).view(-1, 1, 1, 1)


def between_a_scalar(self: Net, f: Tensor, y: Tensor) -> Tensor:
    return y * torch.lerp(y, f.mean((1, 2, 3), keepdim=True), 0.5).sum(1, keepdim=True)


def a_scalar_over(self: Net, f: Tensor, y: Tensor) -> Tensor:
    return y * (f.mean((1, 2, 3), keepdim=True) / (1 + y.exp())).sum(1, keepdim=True)


def a_scalar_laid_out(self: Net, f: Tensor, y: Tensor) -> Tensor:
    return y * (y + f.mean((1, 2, 3), keepdim=True).expand_as(y)).sum(1, keepdim=True)


def a_scalar_repeated(self: Net, f: Tensor, y: Tensor) -> Tensor:
    return y * (y + f.mean((1, 2, 3), keepdim=True).repeat(1, 10, *y.shape[2:])).sum(1, keepdim=True)


def positive_weights(self: Net, f: Tensor, y: Tensor) -> Tensor:
    return F.conv2d(F.relu(F.conv2d(y, F.softplus(self.w1))), F.softplus(self.w2))


def positive_weights_transposed(self: Net, f: Tensor, y: Tensor) -> Tensor:
    hidden = F.conv_transpose2d(y, F.softplus(self.w1).transpose(0, 1))
    return F.conv_transpose2d(hidden, F.softplus(self.w2).transpose(0, 1))


def model_of(between: Any) -> Net:
    torch.manual_seed(0)
    return type("Case", (Net,), {"between": between})().eval()  # type: ignore[no-any-return]


def deviation_of_unmixed(model: Net, x: Tensor) -> float:
    """The largest relative difference to the masked model, for half of every group that no sum is said to mix."""
    groups = fxprune.find_groups(fxprune.trace(model, x))
    plan = groups.plan({g.name: range(g.size // 2) for g in groups if not g.mixed_by})
    small, masked = fxprune.rewrite(model, plan).double(), model_of(type(model).between)
    fxprune.mask(masked, plan)
    found, wanted = small(x.double()), masked.double()(x.double())
    return float(((found - wanted).abs().max() / wanted.abs().max()).detach())


def a_sum_filled_in_places(self: Net, f: Tensor, y: Tensor) -> Tensor:
    return y * y.sum(1, keepdim=True).masked_fill(y > 0, 0.0).sum(1, keepdim=True)


def written_through_a_view(self: Net, f: Tensor, y: Tensor) -> Tensor:
    z = y.clone()
    rows = z.flatten(2)
    z[:, :, 0] = 1.0
    return y * rows.sum((1, 2)).view(-1, 1, 1, 1)


CASES = [
    a_sum_filled_in_places,
    written_through_a_view,
    variance_by_hand,
    a_gate_times_a_sigmoid,
    a_softmax_times_a_scalar,
    pairs,
    between_a_scalar,
    a_scalar_over,
    a_scalar_laid_out,
    a_scalar_repeated,
    positive_weights,
    positive_weights_transposed,
]


@pytest.mark.parametrize("between", CASES, ids=lambda f: f.__name__)
def test_what_differs_is_said_to_be_mixed(between: Any) -> None:
    model, x = model_of(between), torch.randn(2, 3, 8, 8)
    assert any(g.mixed_by for g in fxprune.find_groups(fxprune.trace(model, x)))
    assert deviation_of_unmixed(model, x) < 1e-6


def scaled_and_shifted(self: Net, f: Tensor, y: Tensor) -> Tensor:
    return y * (self.gamma * y.sigmoid() + self.beta).sum(1, keepdim=True)


def by_pixels_and_by_channels(self: Net, f: Tensor, y: Tensor) -> Tensor:
    return y * (y * f.amax(1, keepdim=True) * y.sigmoid().mean((2, 3), keepdim=True) / 3).sum(1, keepdim=True)


def behind_a_sigmoid(self: Net, f: Tensor, y: Tensor) -> Tensor:
    return F.conv2d(F.conv2d(y.sigmoid(), self.w1), self.w2.relu())


def zeroed_through_a_view(self: Net, f: Tensor, y: Tensor) -> Tensor:
    z = y.clone()
    z[:, :, 0] = 0.0
    return y * F.pad(z, (1, 1)).sum((1, 2, 3)).view(-1, 1, 1, 1)


@pytest.mark.parametrize(
    "between", [scaled_and_shifted, by_pixels_and_by_channels, behind_a_sigmoid, zeroed_through_a_view]
)
def test_what_is_exact_is_not(between: Any) -> None:
    model, x = model_of(between), torch.randn(2, 3, 8, 8)
    assert all(not g.mixed_by for g in fxprune.find_groups(fxprune.trace(model, x)) if g.name in ("a", "b", "w1"))
    assert deviation_of_unmixed(model, x) < 1e-6


class WritesItsWeight(nn.Module):
    """Adds to a weight through a view of it: what reads masked channels is not what it was."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.out.weight.data[:].add_(0.5)
        return self.out(self.a(x).sigmoid())  # type: ignore[no-any-return]


def test_a_weight_that_is_written_to_is_not_known_at_once() -> None:
    groups = fxprune.find_groups(fxprune.trace(WritesItsWeight().eval(), torch.randn(2, 3, 4, 4)))
    assert groups["a"].mixed_by
