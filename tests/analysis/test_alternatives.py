"""Where the model's code holds the first choice of what shrinks, another choice is taken; the caller's own stays."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from oracle import check
from torch import Tensor, nn

import fxprune

WIDTH, HEADS, EACH = 32, 4, 8


class Fused(nn.Module):
    """Attention with queries, keys and values of one layer; both widths of heads are attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.each = HEADS, EACH
        self.inp, self.qkv, self.o = nn.Linear(12, WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        return self.out(x + self.o(self.attended(x)))  # type: ignore[no-any-return]

    def attended(self, x: Tensor) -> Tensor:
        """Queries and keys are scaled inside the kernel."""
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1)


class ByWidthOfChunk(Fused):
    """The width of values is taken from queries: equal parts of one layer keep the same channels."""

    def attended(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        b, n, c = q.shape
        q, k, v = (t.reshape(b, n, self.heads, c // self.heads).transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)


class TableOfAngles(Fused):
    """A table that is read at positions belongs to the width of heads: nothing takes up the scale of the kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", 1 / 100 ** (torch.arange(0, EACH, 2) / EACH))

    def attended(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).unbind(2)
        angles = torch.outer(torch.arange(n).to(x.dtype), self.steps)
        both = torch.cat((angles, angles), -1)[None, :, None]

        def turned(t: Tensor) -> Tensor:
            first, second = t.chunk(2, -1)
            return t * both.cos() + torch.cat((-second, first), -1) * both.sin()

        q, k, v = (t.transpose(1, 2) for t in (turned(q), turned(k), v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1)


class FactorInProduct(Fused):
    """A scale of the batched product itself."""

    def attended(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, self.heads, 3, self.each).permute(3, 0, 2, 1, 4).flatten(1, 2).unbind(0)
        empty = torch.zeros(b * self.heads, n, n, dtype=x.dtype)
        y = torch.baddbmm(empty, q, k.mT, beta=0, alpha=1 / math.sqrt(self.each)).softmax(-1) @ v
        return y.view(b, self.heads, n, self.each).transpose(1, 2).flatten(2)


BLOCKS: list[Callable[[], nn.Module]] = [Fused, ByWidthOfChunk, TableOfAngles, FactorInProduct]


@pytest.mark.parametrize("make", BLOCKS)
def test_heads_go_where_their_width_cannot(make: Callable[[], nn.Module]) -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return make().eval()

    def inputs(batch: int) -> tuple[Tensor]:
        return (torch.randn(batch, 9, 12, generator=torch.Generator().manual_seed(batch)),)

    small = fxprune.rewrite(build(), check(build, inputs, 0.5))
    assert sum(p.numel() for p in small.parameters()) < 0.32 * sum(p.numel() for p in build().parameters())


def test_the_callers_choice_of_heads_is_not_turned() -> None:
    graph = fxprune.trace(FactorInProduct().eval(), torch.randn(1, 9, 12))
    assert [g.name for g in fxprune.find_groups(graph, heads="head_dim")] == ["inp"]
    assert [(g.name, g.size) for g in fxprune.find_groups(graph)] == [("inp", WIDTH), ("qkv", HEADS)]


class MixedKernels(nn.Module):
    """A kernel for each image, mixed from four: the grid of the parameter is split again, together with the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.into = 24, 16
        self.a, self.o = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(24, 5, 1)
        self.kernels, self.mixing = nn.Parameter(torch.randn(4, 24, 16, 3, 3) / 12), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        b, _, h, w = x.shape
        mixed = torch.mm(self.mixing(x.mean((2, 3))).softmax(1), self.kernels.view(4, -1))
        y = F.conv2d(x.view(1, -1, h, w), mixed.view(b * self.out, self.into, 3, 3), padding=1, groups=b)
        return self.o(y.view(b, self.out, h, w))  # type: ignore[no-any-return]


@pytest.mark.parametrize("batch", [1, 2])
def test_grids_of_unlike_sizes_over_the_same_channels_agree(batch: int) -> None:
    torch.manual_seed(0)
    model, x = MixedKernels().eval(), torch.randn(batch, 3, 8, 8)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    (kernels,) = (g for g in groups if any((s.tensor, s.dim) == ("kernels", 1) for s in g.slots))
    assert kernels.size == 24
    plan = groups.plan({kernels.name: range(0, 24, 2)})
    assert fxprune.verify(model, plan, x) < 1e-9
    assert fxprune.rewrite(model, plan)(torch.randn(3, 3, 8, 8)).shape == (3, 5, 8, 8)


class SampledHeads(nn.Module):
    """Values of heads, weighted at few points: in the split of weights heads are finer, in that of values not."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.each = HEADS, EACH
        self.inp, self.values, self.weights = nn.Linear(12, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, HEADS * 3)
        self.o, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        b, n, _ = x.shape
        v = self.values(x).view(b, n, self.heads, self.each).permute(0, 2, 3, 1).reshape(b * self.heads, self.each, n)
        w = self.weights(x).view(b, n, self.heads, 3).softmax(-1).transpose(1, 2).reshape(b * self.heads, 1, n, 3)
        y = (torch.stack([v.roll(i, -1) for i in range(3)], -1) * w).sum(-1).view(b, self.heads * self.each, n)
        return self.out(self.o(y.transpose(1, 2)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("batch", [1, 2])
def test_choices_that_contradict_one_another_are_made_alike(batch: int) -> None:
    torch.manual_seed(0)
    model, x = SampledHeads().eval(), torch.randn(batch, 9, 12)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert [(g.name, g.size) for g in groups] == [("inp", WIDTH), ("values", EACH), ("o", WIDTH)]
    plan = groups.plan({"values": [0, 3, 5]})
    assert fxprune.verify(model, plan, x) < 1e-9
    assert fxprune.rewrite(model, plan)(torch.randn(3, 9, 12)).shape == (3, 9, 5)


class SkippedNorms(nn.Module):
    """A norm before and one behind a skip connection, whose groups have the same number of channels."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.inner, self.conv = nn.GroupNorm(groups, channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.outer, self.head = nn.GroupNorm(2 * groups, 2 * channels), nn.Conv2d(2 * channels, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv(self.inner(x).relu())
        return self.head(self.outer(torch.cat([y, x], 1)).relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize(("channels", "groups"), [(16, 4), (24, 4), (36, 6), (64, 8), (32, 4), (64, 16)])
def test_groups_of_norms_agree(channels: int, groups: int) -> None:
    """Whether the groups are as many as their channels, fewer or more."""
    model, x = SkippedNorms(channels, groups).eval(), torch.randn(2, 3, 9, 9)
    found = fxprune.find_groups(fxprune.trace(model, x))
    assert "stem.weight" in {s.tensor for g in found for s in g.slots}
    small = fxprune.prune(model, x, 0.5).model
    assert small.get_parameter("stem.weight").shape[0] == channels // 2
    assert small(x).shape == model(x).shape


class HalvesBesideShuffles(nn.Module):
    """Halves that the code cuts by number, behind shuffle units, whose channels are balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.units = nn.Conv2d(3, 8, 1), nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(3))
        self.into, self.qkv, self.out = nn.Linear(8, 24), nn.Linear(24, 72), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for unit in self.units:
            a, b = x.chunk(2, 1)
            x = shuffled(torch.cat([a, unit(b).relu()], 1))
        x = self.into(x.flatten(2).transpose(1, 2))
        n, _, c = x.shape
        qkv = self.qkv(x).reshape(n, -1, 3, c).permute(2, 0, 1, 3)
        return self.out(x + torch.cat([attended(qkv[..., : c // 2]), attended(qkv[..., c // 2 :])], -1))  # type: ignore[no-any-return]


def attended(qkv: Tensor) -> Tensor:
    _, n, t, c = qkv.shape
    q, k, v = (part.reshape(n, t, 3, c // 3).transpose(1, 2) for part in qkv)
    return ((q @ k.transpose(2, 3)).softmax(-1) @ v).transpose(1, 2).reshape(n, t, c)


def shuffled(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def test_halves_cut_by_number_are_parted_where_other_channels_are_balanced() -> None:
    torch.manual_seed(0)
    model, x = HalvesBesideShuffles().eval(), torch.randn(2, 3, 6, 6)
    small = fxprune.prune(model, x, pruning_ratio=0.5).model
    assert small.into.out_features == small.out.in_features == 12
    assert small.qkv.out_features == 36
