"""Banks of filters that every channel gets: the channels shrink, and the filters stay."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxprune

HAAR = torch.tensor([[[1.0, 1], [1, 1]], [[1, -1], [1, -1]], [[1, 1], [-1, -1]], [[1, -1], [-1, 1]]])[:, None] / 2


class Edges(nn.Module):
    """Two gradients of each channel; the filters are learned, or not."""

    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.a, self.out = nn.Conv2d(3, 32, 3), nn.Conv2d(64, 4, 1)
        bank = torch.randn(2, 1, 3, 3)
        self.register_buffer("bank", bank) if not learned else setattr(self, "bank", nn.Parameter(bank))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        y: Tensor = self.out(F.conv2d(x, self.bank.repeat(x.size(1), 1, 1, 1), padding=1, groups=x.size(1)))
        return y


class Wavelets(nn.Module):
    """A Haar transform of each channel, and the inverse one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(128, 96, 3, padding=1), nn.Conv2d(24, 4, 1)
        self.register_buffer("bank", HAAR.clone())

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        y = F.conv2d(x, self.bank.repeat(x.size(1), 1, 1, 1), stride=2, groups=x.size(1))
        y = F.relu(self.b(y))
        channels = y.shape[1] // 4
        bank = self.bank.repeat(channels, 1, 1, 1)
        z: Tensor = self.out(F.conv_transpose2d(y, bank, stride=2, groups=channels))
        return z


@pytest.mark.parametrize("learned", [False, True])
def test_two_filters_for_each_channel(learned: bool) -> None:
    model, x = Edges(learned).eval(), torch.randn(2, 3, 12, 12)
    result = fxprune.prune(model, x, pruning_ratio=0.5)
    assert (result.model.a.out_channels, result.model.out.in_channels, len(result.model.bank)) == (16, 32, 2)
    torch.testing.assert_close(result.model.bank, model.bank)
    fxprune.mask(model, result.plan)
    y = torch.randn(3, 3, 9, 9)
    torch.testing.assert_close(result.model(y), model(y))


def test_wavelets() -> None:
    model, x = Wavelets().eval(), torch.randn(1, 3, 16, 16)
    result = fxprune.prune(model, x, pruning_ratio=0.5)
    assert torch.equal(result.model.bank, HAAR)
    assert (result.model.a.out_channels, result.model.b.in_channels) == (16, 64)
    assert (result.model.b.out_channels, result.model.out.in_channels) == (48, 12)
    fxprune.mask(model, result.plan)
    y = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(result.model(y), model(y))
