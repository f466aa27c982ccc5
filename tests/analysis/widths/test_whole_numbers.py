"""What the code divides must stay whole, and code that cuts widths in halves in several blocks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxprune


class Shuffled(nn.Module):
    """ShuffleNetV2 as its authors published it, which asserts that a width is a multiple of four."""

    def __init__(self, width: int, demanded: int) -> None:
        super().__init__()
        self.demanded, self.branch = demanded, nn.Sequential(nn.Conv2d(width // 2, width // 2, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.shuffled(x)
        return torch.cat((left, self.branch(right)), 1)

    def shuffled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        batch, channels, height, width = x.data.size()
        assert channels % self.demanded == 0
        x = x.reshape(batch * channels // 2, 2, height * width).permute(1, 0, 2)
        x = x.reshape(2, -1, channels // 2, height, width)
        return x[0], x[1]


@pytest.mark.parametrize("demanded", [2, 4, 8])
def test_a_width_stays_a_multiple(demanded: int) -> None:
    torch.manual_seed(0)
    blocks = [Shuffled(32, demanded), Shuffled(32, demanded)]
    model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), *blocks, nn.Conv2d(32, 4, 1)).eval()
    for ratio in (0.5, 0.8):
        result = fxprune.prune(model, torch.randn(1, 3, 8, 8), pruning_ratio=ratio)
        assert len(result.plan.groups) == 3
        assert result.report.proof is not None
        assert not result.report.proof.disproved
        assert result.model[0].out_channels % demanded == 0  # type: ignore[index,union-attr]
        assert result.model[0].out_channels < 32  # type: ignore[index,operator,union-attr]
        assert result.model(torch.randn(2, 3, 5, 5)).shape == (2, 4, 5, 5)


class Halves(nn.Module):
    """Cuts what it computes at half of the width of what it is given (DAT, CRAFT)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, _, width = x.shape
        q, k, v = self.qkv(x).reshape(n, -1, 3, width).permute(2, 0, 1, 3)
        y = torch.sigmoid(q) * torch.sigmoid(k) * v
        both = torch.cat([torch.relu(y[:, :, : width // 2]), torch.sigmoid(y[:, :, width // 2 :])], 2)
        return x + self.proj(both)  # type: ignore[no-any-return]


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_halves_of_several_blocks_shrink(blocks: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 32), *[Halves(32) for _ in range(blocks)], nn.Linear(32, 3)).eval()
    result = fxprune.prune(model, torch.randn(1, 7, 3), pruning_ratio=0.5)
    assert len(result.plan.groups) == 2 * blocks + 1
    assert result.report.deviation < 1e-9
    assert result.model[0].out_features == 16  # type: ignore[index,union-attr]


class Product(nn.Module):
    """A rest of the product of two widths: that each divides alone says nothing of both."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 24, 1), nn.Conv2d(3, 12, 1)
        self.c, self.d = nn.Conv2d(24, 4, 1), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y, z = self.a(x), self.b(x)
        rest = (y.shape[1] * z.shape[1]) % 16
        return self.c(y.relu()) * (1 + rest) + self.d(z.relu())  # type: ignore[no-any-return]


def test_a_rest_of_a_product_keeps_both() -> None:
    assert not list(fxprune.find_groups(fxprune.trace(Product().eval(), torch.randn(2, 3, 4, 4))))


class Rounded(nn.Module):
    """Half of the channels, rounded as `int(x + 0.5)` does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        half = int(y.shape[-1] / 2 + 0.5)
        return self.b(torch.cat([y[..., :half].relu(), y[..., half:].tanh()], -1))  # type: ignore[no-any-return]


def test_a_fraction_that_is_rounded_is_followed() -> None:
    torch.manual_seed(0)
    model, x = Rounded().eval(), torch.randn(4, 5)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert groups.ties == (frozenset({"a", "a#2"}),)
    plan = groups.plan({"a": [0, 3, 4], "a#2": [1, 5, 15]})
    assert fxprune.verify(model, plan, x) <= 1e-6
    assert fxprune.rewrite(model, plan).a.out_features == 6
