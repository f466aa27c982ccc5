"""Idioms of other people's code that read widths, as modules for random networks on maps of shape (batch, c, h, w)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from torch import Tensor, nn

PROJECTIONS = ("fused", "separate", "shared_keys")
WIDTHS = ("attribute", "shape", "rest", "whole", "config")
SCALES = ("none", "number", "attribute", "shape", "root", "kernel")
MERGES = ("shape", "rest", "flatten", "product")


class Config:
    """Holds widths for a module."""

    def __init__(self, **widths: Any) -> None:
        self.__dict__.update(widths)


class Attention(nn.Module):
    """Attention over the pixels of a map.

    Args:
        c: channels.
        heads: their number.
        pick: chooses how queries, keys and values are made, where the width of a head comes from, what scales the
            scores, and how heads are merged again.
    """

    def __init__(self, c: int, heads: int, pick: int) -> None:
        super().__init__()
        self.heads, self.width, self.whole, self.shift = heads, c // heads, c, heads
        self.config = Config(sizes=[c, c // heads], heads=heads)
        kinds = []
        for options in (PROJECTIONS, WIDTHS, SCALES, MERGES):
            pick, chosen = divmod(pick, len(options))
            kinds.append(options[chosen])
        self.projection, self.source, self.scaling, self.merging = kinds
        self.scale = self.width**-0.5
        inner = {"fused": 3 * c, "separate": c, "shared_keys": c + 2 * self.width}[self.projection]
        self.q = nn.Linear(c, inner)
        if self.projection == "separate":
            self.k, self.v = nn.Linear(c, c), nn.Linear(c, c)
        self.o = nn.Linear(c, c)

    def head_width(self, c: int) -> int:
        ways = {
            "attribute": lambda: self.width,
            "shape": lambda: c // self.heads,
            "rest": lambda: -1,
            "whole": lambda: self.whole // self.heads,
            "config": lambda: self.config.sizes[1],
        }
        return ways[self.source]()

    def projected(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values of shape (batch, heads, pixels, width)."""
        b, n, c = x.shape
        width = self.head_width(c)
        if self.projection == "fused":
            return self.q(x).reshape(b, n, 3, self.heads, width).permute(2, 0, 3, 1, 4).unbind(0)  # type: ignore[no-any-return]
        if self.projection == "separate":
            return tuple(p(x).view(b, n, self.heads, width).transpose(1, 2) for p in (self.q, self.k, self.v))
        q, k, v = self.q(x).split([self.heads * self.width, self.width, self.width], dim=-1)
        q = q.reshape(b, n, self.heads, width).transpose(1, 2)
        return q, *(t.unsqueeze(1).expand(b, self.heads, n, self.width) for t in (k, v))

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.scaling == "kernel":
            return F.scaled_dot_product_attention(q, k, v)
        factor: Any = {
            "none": lambda: 1,
            "number": lambda: 0.3,
            "attribute": lambda: self.scale,
            "shape": lambda: q.shape[-1] ** -0.5,
            "root": lambda: 1 / math.sqrt(k.size(-1)),
        }[self.scaling]()
        return (q @ k.transpose(-2, -1) * factor).softmax(-1) @ v  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        tokens = torch.roll(x, self.shift, 2).flatten(2).transpose(1, 2)
        y = self.mixed(*self.projected(tokens)).transpose(1, 2)
        match self.merging:
            case "shape":
                y = y.reshape(b, h * w, c)
            case "rest":
                y = y.reshape(b, h * w, -1)
            case "flatten":
                y = y.flatten(2)
            case "product":
                y = y.reshape(b, h * w, self.heads * self.width)
        return x + self.o(y).transpose(1, 2).reshape(b, -1, h, w)


class TwoHeads(nn.Module):
    """The number of heads is a literal, and so is the index of the values."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.qkv, self.o = nn.Linear(c, 3 * c), nn.Linear(c, c)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(x.flatten(2).transpose(1, 2)).reshape(b, h * w, 3, 2, -1).permute(2, 0, 3, 1, 4)
        y = (qkv[0] @ qkv[1].transpose(-1, -2)).softmax(-1) @ qkv[2]
        return x + self.o(y.transpose(1, 2).flatten(2)).transpose(1, 2).reshape(b, c, h, w)


class Dynamic(nn.Module):
    """A kernel for each image, mixed from a few."""

    def __init__(self, c: int, out: int) -> None:
        super().__init__()
        self.out, self.count = out, c
        self.kernels, self.attention = nn.Parameter(torch.randn(3, out, c, 3, 3) / c), nn.Linear(c, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        kernels = (self.attention(x.mean((2, 3))).sigmoid() @ self.kernels.flatten(1)).view(n * self.out, c, 3, 3)
        return F.conv2d(x.reshape(1, -1, h, w), kernels, padding=1, groups=n).view(n, self.out, h, w)


class Branch(nn.Module):
    """Goes by its width."""

    def __init__(self, threshold: int) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[1] > self.threshold else x.tanh()


class FarApart(nn.Module):
    """Takes the width that it makes for the one that it was given."""

    def __init__(self, c: int, gap: int) -> None:
        super().__init__()
        self.between = nn.Sequential(*(nn.Conv2d(c, c, 1) for _ in range(gap)))
        self.up = nn.Conv2d(c, 2 * c, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return self.up(self.between(x).relu()).reshape(b, 2, c, h, w).sum(1)  # type: ignore[no-any-return]


class ByChance(nn.Module):
    """Uses numbers that equal its width for other things."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.shift, self.divisor, self.width = c, c, c
        self.a = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.roll(self.a(x), self.shift, 3) / self.divisor
        assert y.shape[1] == self.width
        return y


class ShuffledGroups(nn.Module):
    """A channel shuffle in front of a grouped convolution; both hold the number of groups."""

    def __init__(self, c: int, groups: int, fixed: bool) -> None:
        super().__init__()
        self.groups, self.fixed = groups, fixed
        self.conv = nn.Conv2d(c, c, 3, padding=1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        each = -1 if self.fixed else c // self.groups
        return self.conv(x.view(b, self.groups, each, h, w).transpose(1, 2).reshape(b, -1, h, w))  # type: ignore[no-any-return]


class Crossed(nn.Module):
    """PyTorch's attention from one map to another stream of its own width; heads of a whole batch lie in one dim."""

    def __init__(self, c: int, heads: int, memory: int) -> None:
        super().__init__()
        self.memory = nn.Linear(c, memory)
        self.attention = nn.MultiheadAttention(c, heads, kdim=memory, vdim=memory, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        keys = self.memory(tokens)
        return x + self.attention(tokens, keys, keys)[0].transpose(1, 2).reshape(x.shape)  # type: ignore[no-any-return]


class GroupedQueries(nn.Module):
    """Several heads read the same keys and values; a tensor of one number scales the scores."""

    def __init__(self, c: int, heads: int, width: int) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.q, self.o = nn.Linear(c, 2 * heads * width), nn.Linear(2 * heads * width, c)
        self.k, self.v = nn.Linear(c, heads * width), nn.Linear(c, heads * width)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        b, n, _ = tokens.shape
        q, k, v = (f(tokens).view(b, n, -1, self.width).transpose(1, 2) for f in (self.q, self.k, self.v))
        k, v = (t.repeat_interleave(2, 1) for t in (k, v))
        scores = q @ k.mT / torch.sqrt(torch.tensor(q.shape[-1], dtype=q.dtype, device=q.device))
        y = self.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, 2 * self.heads * self.width))
        return x + y.transpose(1, 2).reshape(x.shape)  # type: ignore[no-any-return]


class Chunked(nn.Module):
    """Queries, keys and values are chunks of one layer; their width is read from the first."""

    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.o = heads, nn.Linear(c, 3 * c), nn.Linear(c, c)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
        b, n, c = q.shape
        q, k, v = (t.reshape(b, n, self.heads, c // self.heads).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        return x + self.o(y).transpose(1, 2).reshape(x.shape)  # type: ignore[no-any-return]


class MixedKernels(nn.Module):
    """A kernel for each image, mixed from a few that one parameter of five dims holds."""

    def __init__(self, c: int, out: int) -> None:
        super().__init__()
        self.into, self.out = c, out
        self.kernels, self.mixing = nn.Parameter(torch.randn(3, out, c, 3, 3) / c), nn.Linear(c, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        kernels = torch.mm(self.mixing(x.mean((2, 3))).sigmoid(), self.kernels.view(3, -1))
        kernels = kernels.view(b * self.out, self.into, 3, 3)
        return F.conv2d(x.reshape(1, -1, h, w), kernels, padding=1, groups=b).view(b, self.out, h, w)


class Directions(nn.Module):
    """A recurrent layer along the rows, whose directions an attribute cuts apart."""

    def __init__(self, c: int, hidden: int) -> None:
        super().__init__()
        self.hidden, self.rnn, self.o = (
            hidden,
            nn.GRU(c, hidden, batch_first=True, bidirectional=True),
            nn.Linear(hidden, c),
        )

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(x.mean(3).transpose(1, 2))
        y = y[:, :, : self.hidden] + y[:, :, self.hidden :]
        return x + self.o(y).transpose(1, 2).unsqueeze(3)  # type: ignore[no-any-return]


class Windows(nn.Module):
    """Attention in windows of a map that is rolled before and after, with a bias for each head and pair of places.

    Args:
        c: channels.
        heads: their number.
        side: of the windows.
        pick: chooses whether there is a norm, and where the code that takes windows apart has the width from.
    """

    def __init__(self, c: int, heads: int, side: int, pick: int) -> None:
        super().__init__()
        self.heads, self.side, self.width, self.pick = heads, side, c, pick
        self.norm = nn.LayerNorm(c) if pick % 2 else nn.Identity()
        self.qkv, self.o = nn.Linear(c, 3 * c), nn.Linear(c, c)
        self.bias = nn.Parameter(torch.randn((2 * side - 1) ** 2, heads))
        place = torch.stack(torch.meshgrid(*[torch.arange(side)] * 2, indexing="ij")).flatten(1)
        apart = (place[:, :, None] - place[:, None]).permute(1, 2, 0) + side - 1
        self.register_buffer("index", apart[..., 0] * (2 * side - 1) + apart[..., 1])

    def partition(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        x = x.view(b, h // self.side, self.side, w // self.side, self.side, c)
        return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, self.side * self.side, c)

    def reverse(self, windows: Tensor, h: int, w: int) -> Tensor:
        c = (-1, self.width, windows.shape[-1])[self.pick % 3]
        b = windows.shape[0] * self.side**2 // (h * w)
        x = windows.view(b, h // self.side, w // self.side, self.side, self.side, c)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)

    def attend(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        bias = self.bias[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1)  # type: ignore[operator]
        scores = (q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1) + bias.unsqueeze(0)
        return self.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        rows = self.norm(x.permute(0, 2, 3, 1))
        _, h, w, _ = rows.shape
        shift = self.side // 2
        y = self.attend(self.partition(torch.roll(rows, (-shift, -shift), (1, 2))))
        y = torch.roll(self.reverse(y, h, w), (shift, shift), (1, 2))
        return x + y.permute(0, 3, 1, 2)


class Rearranged(nn.Module):
    """Attention and gates whose dims einops splits, turns and merges."""

    def __init__(self, c: int, heads: int, pick: int) -> None:
        super().__init__()
        self.heads, self.pick = heads, pick
        self.qkv, self.o = nn.Conv2d(c, 3 * c, 1), nn.Conv2d(c, c, 1)

    def attend(self, x: Tensor) -> Tensor:
        _, _, h, w = x.shape
        q, k, v = rearrange(self.qkv(x), "b (qkv head c) h w -> qkv b head (h w) c", head=self.heads, qkv=3)
        y = torch.einsum("bhic,bhjc->bhij", q, k).softmax(-1)
        return rearrange(torch.einsum("bhij,bhjc->bhic", y, v), "b head (h w) c -> b (head c) h w", h=h, w=w)

    def linear(self, x: Tensor) -> Tensor:
        """Keys are met with values first; heads lie beside their channels."""
        h, w = x.shape[-2:]
        q, k, v = (rearrange(t, "b (head c) h w -> b head c (h w)", head=self.heads) for t in self.qkv(x).chunk(3, 1))
        context = torch.einsum("bhdn,bhen->bhde", k.softmax(-1), v)
        return rearrange(torch.einsum("bhde,bhdn->bhen", context, q), "b head c (h w) -> b (head c) h w", h=h, w=w)

    def gated(self, x: Tensor) -> Tensor:
        """Each group of channels is weighted by its mean over pixels."""
        parts = rearrange(self.qkv(x), "b (part c) h w -> part b c h w", part=3)
        weights = reduce(parts, "part b (g c) h w -> part b g c", "mean", g=self.heads).softmax(0)
        h, w = x.shape[-2:]
        weights = repeat(rearrange(weights, "part b g c -> part b (g c)"), "part b c -> part b c h w", h=h, w=w)
        return reduce(parts * weights, "part b c h w -> b c h w", "sum")

    def forward(self, x: Tensor) -> Tensor:
        ways = (self.attend, self.linear, self.gated)
        return x + self.o(ways[self.pick % 3](x))  # type: ignore[no-any-return]


class SplitAttention(nn.Module):
    """Several splits of each cardinal group, weighted against one another."""

    def __init__(self, c: int, cardinality: int, inner: int, pick: int) -> None:
        super().__init__()
        self.cardinality, self.channels, self.radix, self.listed = cardinality, c, 2 + pick % 2, bool(pick // 2 % 2)
        groups = cardinality * (1 if c % (cardinality * self.radix) else self.radix)
        self.conv = nn.Conv2d(c, c * self.radix, 3, padding=1, groups=groups)
        self.down = nn.Conv2d(c, inner * cardinality, 1, groups=cardinality)
        self.up = nn.Conv2d(inner * cardinality, c * self.radix, 1, groups=cardinality)

    def weights(self, gap: Tensor) -> Tensor:
        b = gap.shape[0]
        y = self.up(self.down(gap).relu()).view(b, self.cardinality, self.radix, -1)
        return y.transpose(1, 2).softmax(1).reshape(b, -1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).relu()
        b, wide, h, w = y.shape
        if self.listed:
            parts = torch.split(y, wide // self.radix, dim=1)
            each = torch.split(self.weights(sum(parts).mean((2, 3), keepdim=True)), wide // self.radix, dim=1)  # type: ignore[union-attr]
            return sum(weight * part for weight, part in zip(each, parts, strict=True))  # type: ignore[return-value]
        y = y.view(b, self.radix, self.channels, h, w)
        weights = self.weights(y.sum(1).mean((2, 3), keepdim=True)).view(b, self.radix, self.channels, 1, 1)
        return (y * weights).sum(1)
