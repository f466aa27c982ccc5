"""Reshapes that lay channels over positions: what is cut must be right for inputs of any size."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxprune


class Attention(nn.Module):
    """Position-wise attention (MAnet) reads (positions, channels) as (channels, height, width)."""

    def __init__(self, like: bool) -> None:
        super().__init__()
        self.first, self.like = nn.Conv2d(3, 32, 3, padding=1), like
        self.top, self.mid, self.bottom = nn.Conv2d(32, 8, 1), nn.Conv2d(32, 8, 1), nn.Conv2d(32, 32, 1)
        self.out, self.head = nn.Conv2d(32, 16, 3, padding=1), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        q, k = self.top(x).flatten(2), self.mid(x).flatten(2).transpose(1, 2)
        found = (k @ q).softmax(-1) @ self.bottom(x).flatten(2).transpose(1, 2)
        read = found.reshape_as(x) if self.like else found.reshape(*x.shape[:2], x.shape[2], x.shape[3])
        return self.head(self.out(x + read))  # type: ignore[no-any-return]


@pytest.mark.parametrize("like", [False, True])
@pytest.mark.parametrize("side", [4, 6, 8])
def test_channels_that_positions_divide_stay(side: int, like: bool) -> None:
    torch.manual_seed(0)
    model = Attention(like).eval().double()
    result = fxprune.prune(model, torch.randn(2, 3, side, side).double(), pruning_ratio=0.5)
    assert {name for name, kept in result.plan.kept_counts().items() if kept < 32} == {"top", "out"}
    fxprune.mask(model, result.plan)
    for other in (3, 4, 6, 8):
        x = torch.randn(1, 3, other, other).double()
        torch.testing.assert_close(result.model(x), model(x), rtol=1e-9, atol=1e-9)


class Heads(nn.Module):
    """The batch goes into a dim with the heads: that divides no channel by the size of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.out = nn.Linear(6, 32), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        y = self.inside(x).transpose(0, 1).reshape(length, n * 4, 8).transpose(0, 1)
        return self.out(y.relu().transpose(0, 1).reshape(length, n, -1))  # type: ignore[no-any-return]


def test_batches_with_heads_shrink() -> None:
    groups = fxprune.find_groups(fxprune.trace(Heads(), torch.randn(4, 5, 6)))
    assert [g.size for g in groups] == [8]


class Read(nn.Module):
    """A convolution whose result is read in one way or another, and read on."""

    def __init__(self, how: Callable[[Tensor, Tensor], Tensor], width: int, read: int) -> None:
        super().__init__()
        self.a, self.out, self.how = nn.Conv2d(3, width, 1), nn.Conv2d(read, 2, 1), how

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.how(x, self.a(x)).relu())  # type: ignore[no-any-return]


def turned(y: Tensor) -> Tensor:
    return y.flatten(2).transpose(1, 2)


DIVIDED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "like": lambda _, y: turned(y).reshape_as(other=y),  # type: ignore[call-arg]
    "keyword": lambda _, y: torch.reshape(turned(y), shape=tuple(y.shape)),
    "unflattened": lambda _, y: turned(y).flatten(1).unflatten(1, (-1, *y.shape[2:])),
    "side of a square": lambda _, y: turned(y).flatten(1).view(y.shape[0], -1, *[math.isqrt(y[0, 0].numel())] * 2),
    "rows": lambda _, y: turned(y).flatten(1).view(y.shape[0], -1, y.shape[2], y.shape[3]),
}


@pytest.mark.parametrize("name", DIVIDED)
def test_however_the_sizes_are_given(name: str) -> None:
    model = Read(DIVIDED[name], 32, 32).eval()
    assert not list(fxprune.find_groups(fxprune.trace(model, torch.randn(2, 3, 4, 4))))


def test_the_number_of_colours_is_no_position() -> None:
    def filters(x: Tensor, y: Tensor) -> Tensor:
        n, colours, height, width = x.shape
        return y.view(n, colours, -1, height, width).sum(2)

    torch.manual_seed(0)
    model = Read(filters, 24, 3).eval().double()
    groups = fxprune.find_groups(fxprune.trace(model, torch.randn(2, 3, 4, 4).double()))
    assert [g.size for g in groups] == [8]
    small = fxprune.rewrite(model, plan := groups.plan({"a": [0, 2, 5]}))
    fxprune.mask(model, plan)
    for side in (3, 4, 8):
        x = torch.randn(1, 3, side, side).double()
        torch.testing.assert_close(small(x), model(x), rtol=1e-9, atol=1e-9)
