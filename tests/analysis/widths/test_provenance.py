"""Numbers of the code that equal a width by chance, or follow one in a way that few runs show."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import ROUNDING, deviation, random_plan
from torch import Tensor, nn

import fxprune

TOKENS = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(0))


def groups_of(model: nn.Module, x: Tensor = TOKENS, **options: Any) -> fxprune.Groups:
    return fxprune.find_groups(fxprune.trace(model.eval(), x), **options)


def halved(model: nn.Module, groups: fxprune.Groups) -> fxprune.Plan:
    return fxprune.planners.Uniform(0.5)(groups, fxprune.scorers.Random(0)(model, groups))


def between(*layers: nn.Module, width: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, width), *layers, nn.Linear(width, 4))


class Shifted(nn.Module):
    """A shift that equals the number of heads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.shift = 3, 3
        self.qkv, self.o = nn.Linear(12, 36), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        y = torch.roll(x, -self.shift, 1).view(b * 2, n // 2, d)
        q, k, v = self.qkv(y).reshape(b * 2, n // 2, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return x + torch.roll(self.o(y.transpose(1, 2).reshape(b, n, -1)), self.shift, 1)


def test_an_attribute_that_equals_a_width_by_chance_stays() -> None:
    model = between(Shifted(), width=12)
    groups = groups_of(model, heads="num_heads")
    plan = groups.plan({"1.qkv": [0, 2]})
    assert plan.attributes == {"1": {"heads": 2}}
    assert fxprune.verify(model, plan, TOKENS) <= ROUNDING


class Indexed(nn.Module):
    """Two heads as a literal, and a 2 that says which of queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.o = nn.Linear(24, 72), nn.Linear(24, 24)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, 2, 12).permute(2, 0, 3, 1, 4)
        a = (qkv[0] @ qkv[1].transpose(-1, -2) / 12**0.5).softmax(-1)
        return x + self.o((a @ qkv[2]).transpose(1, 2).reshape(b, n, -1))


def test_a_literal_is_replaced_in_its_own_place_only() -> None:
    model = between(Indexed(), width=24)
    plan = groups_of(model, heads="num_heads").plan({"1.qkv": [0]})
    ((name, value),) = plan.attributes["1"].items()
    assert (name[:10], name[-2:], value) == ("forward[3:", "=2", 1)
    assert fxprune.verify(model, plan, TOKENS) <= ROUNDING


class Branch(nn.Module):
    def __init__(self, threshold: int) -> None:
        super().__init__()
        self.a, self.b, self.t = nn.Linear(5, 64), nn.Linear(64, 4), threshold

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        if y.shape[2] > self.t:
            y = y * 2
        return self.b(y)


@pytest.mark.parametrize("threshold", [1, 15, 32, 62])
def test_a_branch_on_a_width_fixes_it(threshold: int) -> None:
    groups = groups_of(Branch(threshold))
    assert not len(groups)
    fixed = next(f for f in groups.fixed if (f.tensor, f.dim) == ("a.weight", 0))
    assert fixed.reason == "the model's code goes by this width: relu.shape[2] > t is True"
    assert "`if y.shape[2] > self.t:`" in fixed.where


def test_a_branch_that_every_width_takes_fixes_nothing() -> None:
    assert [g.name for g in groups_of(Branch(0))] == ["a"]


class Scaled(nn.Module):
    """One head of all channels, whose scale is computed from them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        return x + self.o((q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v)


def test_a_scale_is_laid_into_the_group_that_it_follows() -> None:
    model = between(*(Scaled(16) for _ in range(8)), width=16)
    groups = groups_of(model)
    kept = {g.name: range(4 + i % 9) for i, g in enumerate(groups)}
    plan = groups.plan(kept)
    expected = {f"{i}.q.weight": (len(kept[f"{i}.q"]) / 16) ** 0.5 for i in range(1, 9)}
    assert {s.tensor: s.factor for s in plan.scales if s.tensor.endswith("weight")} == pytest.approx(expected)
    exact = groups.plan({name: channels for name, channels in kept.items() if not groups[name].mixed_by})
    assert fxprune.verify(model, exact, TOKENS) <= ROUNDING


class Tail(nn.Module):
    """Takes two widths for one another that lie far apart."""

    def __init__(self, width: int, gap: int) -> None:
        super().__init__()
        self.mid = nn.Sequential(*(nn.Linear(width, width) for _ in range(gap - 1)))
        self.up = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        return self.up(self.mid(x)).reshape(b, 2 * n, d)


@pytest.mark.parametrize("gap", [1, 3, 4, 11])
def test_widths_that_the_code_takes_for_one_another_are_tied(gap: int) -> None:
    model = between(Tail(8, gap), width=8)
    groups = groups_of(model)
    assert groups.ties == (frozenset({"0", "1.up"}),)
    plan = groups.plan({name: range(n) for name, n in groups.in_step({"0": 3}).items()})
    assert fxprune.rewrite(model, plan)(TOKENS).shape == (2, 16, 4)


class Gated(nn.Module):
    """The state of a recurrent cell, or one row of features, in the shape of features of other layers."""

    def __init__(self, how: str, cell: bool) -> None:
        super().__init__()
        self.how, self.cell = how, cell
        self.stem, self.mix, self.tail = nn.Linear(5, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.gate = nn.GRUCell(16, 16) if cell else nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.stem(x)
        mixed = self.mix(stream)
        rows = mixed.reshape(-1, mixed.shape[-1])
        gated = self.gate(rows, stream.reshape(-1, stream.shape[-1])) if self.cell else self.gate(rows)
        if self.how == "expand_as":
            return self.tail(gated.mean(0).expand_as(mixed) * mixed)
        return self.tail(getattr(gated, self.how)(mixed))


@pytest.mark.parametrize("cell", [True, False])
@pytest.mark.parametrize("how", ["reshape_as", "view_as", "expand_as"])
def test_a_tensor_in_the_shape_of_another_keeps_as_much_of_its_width(how: str, cell: bool) -> None:
    torch.manual_seed(0)
    model = Gated(how, cell)
    groups = groups_of(model)
    plan = halved(model, groups)
    assert set(plan.kept_counts().values()) == {8}
    assert {f.reason for f in groups.fixed} == {"model input", "model output"}
    assert fxprune.verify(model, plan, TOKENS) <= ROUNDING
    assert fxprune.rewrite(model, plan)(TOKENS[:1]).shape == (1, 8, 3)


class DynamicConvolution(nn.Module):
    """A kernel for each image; the batch is a factor of its size."""

    def __init__(self) -> None:
        super().__init__()
        self.out = 8
        self.w, self.attention = nn.Parameter(torch.randn(3, 8, 8, 3, 3)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        weights = (self.attention(x.mean((2, 3))).softmax(1) @ self.w.flatten(1)).view(n * self.out, c, 3, 3)
        return F.conv2d(x.reshape(1, -1, h, w), weights, padding=1, groups=n).view(n, -1, h, w)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_size_that_holds_the_batch_is_no_constant(batch: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), DynamicConvolution(), nn.Conv2d(8, 4, 1))
    plan = halved(model, groups_of(model, torch.rand(batch, 3, 8, 8)))
    assert plan.kept_counts()["0"] == 4
    small = fxprune.rewrite(model, plan)
    for n in (1, 2, 3):
        assert small(torch.rand(n, 3, 8, 8)).shape == (n, 4, 6, 6)


class PartialAttention(nn.Module):
    """Queries, keys and values of unequal widths in one view, in a branch of half the channels."""

    def __init__(self, width: int, heads: int, ratio: float) -> None:
        super().__init__()
        self.c = width // 2
        self.num_heads, self.head_dim = heads, self.c // heads
        self.key_dim = int(self.head_dim * ratio)
        self.scale = self.key_dim**-0.5
        self.inner, self.outer = nn.Conv2d(width, 2 * self.c, 1), nn.Conv2d(2 * self.c, width, 1)
        self.qkv, self.proj = nn.Conv2d(self.c, self.c + 2 * heads * self.key_dim, 1), nn.Conv2d(self.c, self.c, 1)

    def attend(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(x).view(b, self.num_heads, self.key_dim * 2 + self.head_dim, h * w)
        q, k, v = qkv.split([self.key_dim, self.key_dim, self.head_dim], dim=2)
        a = ((q.transpose(-2, -1) @ k) * self.scale).softmax(-1)
        return self.proj((v @ a.transpose(-2, -1)).view(b, c, h, w))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.inner(x).split((self.c, self.c), dim=1)
        return self.outer(torch.cat((a, b + self.attend(b)), 1))


@pytest.mark.parametrize(("width", "heads", "ratio"), [(64, 2, 0.5), (64, 1, 0.5), (64, 2, 0.25), (96, 3, 0.5)])
def test_attributes_that_add_up_to_another_by_chance(width: int, heads: int, ratio: float) -> None:
    block = PartialAttention(width, heads, ratio)
    model, x = nn.Sequential(nn.Conv2d(3, width, 3), block, nn.Conv2d(width, 7, 1)), torch.rand(1, 3, 6, 6)
    groups = groups_of(model, x)
    assert {g.name: g.size for g in groups} == {
        "0": width,
        "1.inner": width // 2,
        "1.qkv": int(width // 2 // heads * ratio),
        "1.qkv#2": width // 2 // heads,
        "1.outer": width,
    }
    assert groups.ties == (frozenset({"1.inner", "1.qkv#2"}),)
    plan = halved(model, groups)
    half = width // 2 // heads // 2
    expected = {"c": width // 4, "head_dim": half, "key_dim": block.key_dim // 2}
    assert plan.attributes == {"1": expected}
    assert fxprune.verify(model, plan, x) <= ROUNDING


class Configured(nn.Module):
    """The width of a head is computed from what a config holds."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.heads, self.how, self.whole = 4, how, 64
        self.config = SimpleNamespace(width=64, sizes=[8, 64], head=16, pair=(8, 64), inner={"width": 64})
        self.q, self.k, self.v, self.o = (nn.Linear(64, 64) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        c = self.config
        ways = {
            "attribute": lambda: self.whole // self.heads,
            "config": lambda: c.width // self.heads,
            "list": lambda: c.sizes[-1] // self.heads,
            "pair": lambda: c.pair[1] // self.heads,
            "dict": lambda: c.inner["width"] // self.heads,
            "head": lambda: c.head,
            "rest": lambda: -1,
        }
        x = x if mask is None else x * mask
        b, n, _ = x.shape
        q, k, v = (p(x).view(b, n, self.heads, ways[self.how]()).transpose(1, 2) for p in (self.q, self.k, self.v))
        return self.o(((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("how", ["attribute", "config", "list", "pair", "dict", "head", "rest"])
def test_widths_are_found_where_a_config_holds_them(how: str) -> None:
    model = between(Configured(how), width=64)
    groups = groups_of(model, ignored="0")
    assert {g.name: g.size for g in groups} == {"1.q": 16, "1.v": 16, "1.o": 64}
    plan = fxprune.Plan.from_json(halved(model, groups).to_json())
    assert fxprune.verify(model, plan, TOKENS) <= ROUNDING
    before = vars(model[1].config).copy()
    small = fxprune.rewrite(model, plan)
    assert small(TOKENS).shape == (2, 8, 4)
    assert vars(model[1].config) == before
    assert all(type(v) is int for v in (*model[1].config.sizes, *model[1].config.pair, model[1].config.width))


@pytest.mark.parametrize("how", ["config", "list", "dict"])
def test_a_cut_in_place_leaves_a_config_that_others_share(how: str) -> None:
    config = SimpleNamespace(width=64, sizes=[8, 64], head=16, pair=(8, 64), inner={"width": 64})
    model, other = between(Configured(how), Configured(how), width=64), Configured(how)
    for block in (model[1], model[2], other):
        block.config = config
    groups = groups_of(model, ignored="0")
    small = fxprune.rewrite(model, halved(model, groups), inplace=True)
    assert small is model
    assert small[1].config is small[2].config is not config
    assert (config.width, config.sizes, config.inner) == (64, [8, 64], {"width": 64})
    assert small(TOKENS).shape == (2, 8, 4)
    assert other(torch.randn(2, 8, 64)).shape == (2, 8, 64)


class Cached(nn.Module):
    """Keeps what it has computed."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.bias, self.cache = nn.Linear(32, 24), nn.Parameter(torch.rand(8, 1)), {}
        self.sizes, self.fails = [1, 2], False

    def forward(self, x: Tensor) -> Tensor:
        self.width, self.sizes[0] = x.shape[2] * 2, x.shape[1]
        if self.fails:
            raise ValueError("no")
        self.cache.setdefault(str(x.device), self.bias * 2)
        return (self.q(x) + next(iter(self.cache.values()))).view(-1, 8, 24)


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_in_the_callers_objects(fails: bool) -> None:
    block = Cached()
    model = nn.Sequential(nn.Linear(5, 32), block, nn.Linear(24, 4)).eval()
    block.fails = fails
    before = {k: v for k, v in vars(block).items() if not isinstance(v, dict)}
    if fails:
        with pytest.raises(fxprune.TraceError):
            fxprune.trace(model, TOKENS)
    else:
        result = fxprune.prune(model, TOKENS, 0.5)
        assert result.report.kept == {"0": 16, "1.q": 12}
        torch.save(result.model, io.BytesIO())
    assert {k: v for k, v in vars(block).items() if not isinstance(v, dict)} == before
    assert (block.cache, [type(n) for n in block.sizes], "width" in vars(block)) == ({}, [int, int], False)
    torch.save(model, io.BytesIO())


class Biased(nn.Module):
    """Its scores get a bias of each head, so that the scale before it must keep its effect."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.o = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.randn(heads, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.heads, -1).transpose(1, 2)
        k, v = self.kv(x).reshape(b, n, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        a = q @ k.mT / q.size(-1) ** 0.5 + self.bias
        return x + self.o((a.softmax(-1) @ v).transpose(1, 2).flatten(2))


def test_a_plan_that_scales_a_tensor_which_it_does_not_cut_is_read(tmp_path: Path) -> None:
    model = between(Biased(), width=8)
    plan = halved(model, groups_of(model))
    assert {s.tensor for s in plan.scales} == {"1.q.weight", "1.q.bias"}
    plan.save(tmp_path / "plan.json")
    assert fxprune.Plan.load(tmp_path / "plan.json") == plan
    assert fxprune.verify(model, plan, TOKENS) <= ROUNDING


class Escaping(nn.Module):
    """A number that leaves the ints that can be followed."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.b, self.how = nn.Linear(5, 64), nn.Linear(64, 4), how

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        match self.how:
            case "int":
                return self.b(y) * int(y.shape[2] > 40)
            case "list":
                return self.b(y) * len([None] * (y.shape[2] // 32))
            case "float":
                return self.b(y) * float(y.shape[2] // 33)
            case "range":
                return self.b(y) * sum(1 for _ in range(y.shape[2]))
        return self.b(y) * max(y.shape[2] // 16, 2)


@pytest.mark.parametrize("how", ["int", "list", "float", "range", "max"])
def test_a_number_that_cannot_be_followed_fixes_what_it_is_made_of(how: str) -> None:
    groups = groups_of(Escaping(how))
    assert not len(groups)
    assert any(f.tensor == "a.weight" and f.where.startswith("test_provenance.py:") for f in groups.fixed)


class Projected(nn.Module):
    """Projects what it adds, if its width is another."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.skip = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1), nn.Conv2d(8, 16, 1)
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        y = self.b(x)
        return self.out(y + (self.skip(x) if x.shape[1] != y.shape[1] else x))  # type: ignore[no-any-return]


def test_widths_that_are_compared_keep_the_same_part_where_that_decides() -> None:
    model, x = Projected().eval(), torch.randn(2, 3, 4, 4)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert {g.name: g.size for g in groups} == {"a": 8, "b": 16}
    assert set(groups.ties) == {frozenset({"a", "b"})}
    plan = groups.plan({"a": range(3), "b": range(0, 12, 2)})
    assert fxprune.verify(model, plan, x) < 1e-9


class Repeated(nn.Module):
    """Repeats each channel, and says how many that makes (as decoders with shortcuts do)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.times = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 32, 1), nn.Conv2d(8, 4, 1), 4

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        more = h.repeat_interleave(self.times, dim=1, output_size=h.shape[1] * self.times)
        y: Tensor = self.c(F.pixel_shuffle(self.b(h) + more, 2))
        return y


def test_the_length_of_what_is_repeated_follows() -> None:
    result = fxprune.prune(Repeated(), torch.randn(1, 3, 8, 8), pruning_ratio=0.5)
    assert [m.out_channels for m in (result.model.a, result.model.b)] == [4, 16]
    assert result.model(torch.randn(2, 3, 6, 6)).shape == (2, 4, 12, 12)


class Spread(nn.Module):
    """A gate for each four channels."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.g, self.out = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1), nn.Conv2d(16, 4, 1)
        self.how, self.times = how, 4

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        g = self.g(x.mean((2, 3), keepdim=True)).sigmoid()
        if self.how == "computed":
            g = g.repeat_interleave(x.shape[1] // g.shape[1], dim=1)
        elif self.how == "attribute":
            g = torch.repeat_interleave(g, self.times, dim=1)
        else:
            g = g.repeat_interleave(4, dim=1)
        y: Tensor = self.out(x * g)
        return y


@pytest.mark.parametrize("how", ["computed", "attribute", "literal"])
def test_how_often_is_repeated_follows(how: str) -> None:
    model, x = Spread(how).eval(), torch.randn(2, 3, 8, 8)
    result = fxprune.prune(model, x, pruning_ratio=0.5)
    assert (result.model.a.out_channels, result.model.g.out_channels) == (8, 4)
    assert fxprune.verify(model, result.plan, x) < 1e-9


class Multiple(nn.Module):
    """A width that the code has as a multiple of an attribute which nothing else follows."""

    def __init__(self, width: int, change: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.width, self.change = nn.Conv2d(3, 32, 3), nn.Linear(32, 5), width, change

    def forward(self, x: Tensor) -> Any:
        return self.last(self.change(self, self.first(x)).mean((2, 3)))


@pytest.mark.parametrize(
    ("width", "change"),
    [
        (16, lambda m, y: y.view(y.size(0), 2 * m.width, *y.shape[2:])),
        (8, lambda m, y: y.view(y.size(0), 4 * m.width, *y.shape[2:])),
        (16, lambda m, y: y * torch.full((2 * m.width, 1, 1), 0.5)),
    ],
)
def test_a_multiple_of_an_attribute_follows_in_whole_numbers(width: int, change: Any) -> None:
    model, x = Multiple(width, change).eval(), torch.randn(2, 3, 8, 8)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert [g.size for g in groups] == [32]
    for ratio in (0.2, 0.5, 0.7):
        result = fxprune.prune(model, x, ratio)
        (kept,) = result.plan.kept_counts().values()
        assert kept * width % 32 == 0
        assert result.model.width == kept * width // 32
        assert result.model.last.in_features == kept
        assert deviation(model, result.plan, (x,)) <= ROUNDING
    with pytest.raises(fxprune.InputError, match="the model's code cannot have this width"):
        groups.plan({groups[0].name: range(31)})


def test_two_attributes_may_not_be_told_apart() -> None:
    """Which of the two is to follow, nobody knows."""
    model = Multiple(8, lambda m, y: y.view(y.size(0), m.width * m.other, *y.shape[2:])).eval()
    model.other = 4
    assert not list(fxprune.find_groups(fxprune.trace(model, torch.randn(2, 3, 8, 8))))


@pytest.mark.parametrize(
    ("width", "change"),
    [
        (16, lambda y: torch.cat(y.chunk(3, 1)[::-1], 1)),
        (15, lambda y: torch.cat([part.tanh() for part in y.chunk(2, 1)], 1)),
        (15, lambda y: torch.cat([y.chunk(chunks=2, dim=1)[0].tanh(), y.chunk(2, 1)[1]], 1)),
        (16, lambda y: torch.cat(y.tensor_split(3, 1)[::-1], 1)),
        (32, lambda y: torch.cat(torch.tensor_split(y, 3, 1)[::-1], 1)),
    ],
)
def test_unequal_parts_stay(width: int, change: Callable[[Tensor], Tensor]) -> None:
    """How many channels each part has, only the width as it is tells."""
    model, x = Chunked(width, change).eval(), torch.randn(2, 3, 8, 8)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert [g.name for g in groups] == ["first"]
    assert "whose parts are unequal" in str(groups.why("second.bias"))
    assert deviation(model, random_plan(model, groups, 0.5), (x,)) <= ROUNDING


class Chunked(nn.Module):
    def __init__(self, width: int, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, width, 3), nn.Conv2d(width, 4, 1)
        self.change = change

    def forward(self, x: Tensor) -> Any:
        return self.last(self.change(self.second(self.first(x).relu())))
