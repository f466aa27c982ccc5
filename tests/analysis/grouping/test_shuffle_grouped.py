"""Shuffles and splits in front of grouped convolutions: each group of the smaller one reads its own channels."""

import copy

import pytest
import torch
from torch import Tensor, nn

import fxprune


def shuffled(x: Tensor, rows: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, rows, c // rows, h, w).transpose(1, 2).reshape(n, c, h, w)


class Unit(nn.Module):
    """A shuffle, and one grouped convolution after another that read it."""

    def __init__(self, c: int, rows: int, *groups: int) -> None:
        super().__init__()
        self.a, self.rows = nn.Conv2d(3, c, 1), rows
        self.grouped = nn.ModuleList(nn.Conv2d(c, c, 1, groups=g) for g in groups)
        self.o = nn.Conv2d(c, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = shuffled(self.a(x), self.rows)
        return self.o(torch.relu(torch.stack([d(x) for d in self.grouped]).sum(0)))  # type: ignore[no-any-return]


class Stack(nn.Module):
    """Shuffles, swapped halves and grouped convolutions in a row, with a shortcut."""

    def __init__(self, c: int, groups: tuple[int, int, int]) -> None:
        super().__init__()
        self.a, self.o = nn.Conv2d(3, c, 1), nn.Conv2d(c, 2, 1)
        self.grouped = nn.ModuleList(nn.Conv2d(c, c, 1, groups=g) for g in groups)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = self.grouped[0](shuffled(x, 2)).relu()
        left, right = self.grouped[1](shuffled(x, 3)).chunk(2, 1)
        x = torch.cat((right, left.relu()), 1)
        return self.o(x + self.grouped[2](x))  # type: ignore[no-any-return]


@torch.no_grad()
def deviation(model: nn.Module, plan: fxprune.Plan, x: Tensor) -> float:
    """The pruned model against the masked one, which is made here by hand."""
    masked = copy.deepcopy(model).double()
    for group in plan.groups.values():
        for s in group.slots:
            gone = [p for p, c in zip(s.positions.tolist(), s.channels.tolist(), strict=True) if c not in group.kept]
            masked.get_parameter(s.tensor).data[(slice(None),) * s.dim + (gone,)] = 0
    want, got = masked(x.double()), fxprune.rewrite(model, plan).double()(x.double())
    return ((want - got).abs().max() / want.abs().max()).item()


def examine(model: nn.Module) -> None:
    x = torch.randn(2, 3, 4, 4)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    for seed in range(3):
        scores = fxprune.scorers.Random(seed)(model, groups)
        plan = fxprune.planners.Uniform(0.34)(groups, scores)
        assert any(n < groups[name].size for name, n in plan.kept_counts().items())
        assert deviation(model, plan, x) < 1e-12


@pytest.mark.parametrize(
    "widths",
    [(6, 2, 2), (12, 3, 3), (24, 3, 3), (24, 4, 4), (18, 2, 2), (30, 3, 3), (24, 4, 2), (24, 3, 2), (24, 2, 2, 4)],
    ids=str,
)
def test_each_group_reads_the_channels_that_it_read_before(widths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    examine(Unit(*widths))


@pytest.mark.parametrize("groups", [(2, 1, 2), (3, 2, 1), (4, 3, 2), (1, 6, 4)], ids=str)
def test_stacked_shuffles(groups: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    examine(Stack(24, groups))


def test_the_order_of_a_shuffled_dim() -> None:
    """Worked out by hand: after the shuffle of 3 rows of 4, group r reads places 4r to 4r+3.

    The channel of column k is what lies at k, 4 + k and 8 + k, which is {0, 5, 10}, {4, 9, 3}, {8, 2, 7}, {1, 6, 11} of
    `a`, in the order of the groups. With 3 rows of 3, row i feeds column i of each group.
    """
    groups = fxprune.find_groups(fxprune.trace(Unit(12, 3, 3), torch.zeros(1, 3, 4, 4)))
    assert groups["a"].size == 4
    order = groups.plan({"a": [0, 1, 3]}).orders
    columns = order["grouped.0.weight"][1].tolist()
    held = {0: [0, 5, 10], 1: [4, 9, 3], 2: [8, 2, 7], 3: [1, 6, 11]}
    assert order["a.weight"][0].tolist() == [p for k in columns for p in held[k]]


class Unshuffled(nn.Module):
    """Rows of a shuffle cut through the four indices of some channels, not through those of others."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, channels, 1), nn.Conv2d(4 * channels, 3, 1)
        self.direct = nn.Conv2d(channels, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.a(x)
        z = nn.functional.pixel_unshuffle(y, 2)
        n, c, h, w = z.shape
        return self.direct(y), self.b(z.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, -1, h, w))


@pytest.mark.parametrize("channels", [5, 6, 8])
def test_rows_that_cut_through_channels(channels: int) -> None:
    """Which of a channel's indices is which could not be told; such a shuffle ties or fixes, and is never wrong."""
    model, x = Unshuffled(channels).eval(), torch.rand(2, 3, 8, 8)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    for count in range(1, channels):
        kept = {g.name: range(n) for g in groups if (n := groups.in_step({g.name: count})[g.name])}
        assert fxprune.verify(model, groups.plan(kept), x) < 1e-9


class Beside(nn.Module):
    """A shuffle and a grouped convolution behind channels that can go and, in other rows, channels that must stay."""

    def __init__(self, stays: str) -> None:
        super().__init__()
        self.a, self.d, self.o = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(8, 4, 1, groups=4), nn.Conv2d(8, 3, 1)
        self.p, self.stays = nn.Conv2d(4, 3, 1), stays
        self.register_buffer("held", torch.rand(1, 3, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        n, _, h, w = x.shape
        made = torch.linspace(-1, 1, 3).view(1, 3, 1, 1)
        other = {"input": x, "made": made.expand(n, 3, h, w), "buffer": self.held.expand(n, 3, h, w)}[self.stays]
        x = torch.cat([self.a(x), other], 1)
        return self.o(shuffled(x, 2)), self.p(self.d(x))


@pytest.mark.parametrize("stays", ["input", "made", "buffer"])
def test_channels_that_stay_keep_their_order(stays: str) -> None:
    """With two channels less, the shuffle would turn the others in another way than at full size."""
    torch.manual_seed(0)
    model, x = Beside(stays).eval(), torch.randn(2, 3, 4, 4)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    for g in groups:
        counts = groups.in_step({h.name: 1 if h is g else h.size for h in groups})
        plan = groups.plan({name: range(groups[name].size - k, groups[name].size) for name, k in counts.items()})
        small, masked = fxprune.rewrite(model, plan).double(), copy.deepcopy(model).double()
        fxprune.mask(masked, plan)
        for got, want in zip(small(x.double()), masked(x.double()), strict=True):
            torch.testing.assert_close(got, want)
