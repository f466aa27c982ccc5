"""What the runs of other widths find alone: numbers of calls that no equation speaks of, as in exported programs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune

aten = torch.ops.aten
X = torch.rand(1, 3, 4, 4)


def names(model: nn.Module) -> list[str]:
    return [g.name for g in fxprune.find_groups(fxprune.trace(model.eval(), X))]


class Cut(nn.Module):
    """Two channels of the fourth layer's are treated otherwise; of 16, the first run keeps 11."""

    def __init__(self, start: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 1), *(nn.Conv2d(16, 16, 1) for _ in range(3)))
        self.c, self.start = nn.Conv2d(16, 4, 1), start

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x).sigmoid()
        aten.neg_.default(aten.slice.Tensor(y, 1, self.start, self.start + 2))
        return self.c(y)  # type: ignore[no-any-return]


def test_parts_that_one_run_keeps_whole_by_chance() -> None:
    """The other run drops them: nowhere do both keep the same."""
    for start in range(9):
        assert names(Cut(start)) == ["layers.0", "layers.1", "layers.2"], start


class Between(nn.Module):
    """Some code between two layers."""

    def __init__(self, run: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.c, self.run = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), run


class Trained(Between):
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.c(self.run(self, y) if self.training else y.sigmoid())  # type: ignore[no-any-return]


@pytest.mark.parametrize(("channels", "free"), [(8, []), (-1, ["a"])])
def test_a_width_that_training_alone_holds(channels: int, free: list[str]) -> None:
    assert names(Trained(lambda _, x: aten.view.default(x, [-1, channels, 4, 4]) if channels > 0 else x.tanh())) == free


class Second(nn.Module):
    """The second of four widths that the code ties to one another; where it begins is no number that can follow."""

    def __init__(self, start: Tensor | np.int64) -> None:
        super().__init__()
        self.layers, self.start = nn.ModuleList(nn.Conv2d(3, 8, 1) for _ in range(4)), start
        self.c = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([layer(x) for layer in self.layers], 1)
        return self.c(y.narrow(1, self.start, y.shape[1] // 4))  # type: ignore[no-any-return, arg-type]


@pytest.mark.parametrize("start", [torch.tensor(8), np.int64(8)], ids=["tensor", "numpy"])
def test_a_slice_by_a_number_that_cannot_follow(start: Tensor | np.int64) -> None:
    groups = fxprune.find_groups(fxprune.trace(Second(start).eval(), X))
    assert not len(groups)
    fixed = next(f for f in groups.fixed if (f.tensor, f.dim) == ("layers.1.weight", 0))
    assert fixed.reason.endswith("a plain number in a slice by a tensor's number, or NumPy's")
    assert "y.narrow(1, self.start" in fixed.where


class LowRank(nn.Module):
    """Weights of a low rank behind a stream, as a selective scan has them; PyTorch's einsum goes by lengths of 1."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 1), nn.Conv2d(24, 4, 1)
        self.down, self.up = nn.Parameter(torch.randn(2, rank, 24)), nn.Parameter(torch.randn(2, 24, rank))

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(torch.relu(self.a(x)))
        both = torch.stack([x.flatten(2), x.flatten(2).flip(-1)], 1)
        delta = torch.einsum("bkrl,kdr->bkdl", torch.einsum("bkdl,krd->bkrl", both, self.down), self.up)
        y: Tensor = self.out(x * delta.sigmoid().sum(1).view(x.shape))
        return y


@pytest.mark.parametrize("rank", [2, 3])
def test_a_rank_of_two_holds_nothing_but_itself(rank: int) -> None:
    model, x = LowRank(rank).eval(), torch.randn(2, 3, 8, 8)
    result = fxprune.prune(model, x, pruning_ratio=0.5)
    assert {g.name: g.size for g in result.report.groups} == {"a": 16, "b": 24} | ({"down": 3} if rank == 3 else {})
    assert (result.model.a.out_channels, result.model.b.out_channels) == (8, 12)
    if rank == 2:
        assert "PyTorch computes einsum in another way where one channel is left" in str(result.report.groups.why("up"))
