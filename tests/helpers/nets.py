"""Toy networks that carry hand-written answers: their groups, what is fixed and why, and their cost.

A case is a forward function over named modules, so that one screen shows the net beside its answers:

    @case((3, 8, 8), lambda: {"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(4, 2, 1)}, groups=[(4, "a> >b")])
    def two_convolutions(m, x):
        return m.b(m.a(x))

Places are written as `tensor:dim`, with four shorthands: `a>` what makes a's channels (weight:0 and bias:0), `a)` the
same without bias, `>a` what reads them (weight:1), `n@` a BatchNorm (weight, bias, running mean and variance).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import fxprune

Forward = Callable[..., Any]
Place = tuple[str, int]
Members = tuple[int, frozenset[Place]]


class Net(nn.Module):
    """Named modules and parameters, and a function over them."""

    def __init__(self, run: Forward, parts: Mapping[str, Any]) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


@dataclass(frozen=True)
class Case:
    """A toy network with its answers.

    Attributes:
        name: the forward function's.
        run: the forward function.
        parts: makes the modules.
        example: shapes of the inputs without the batch dim, or a function of the batch size.
        groups: the expected groups as (size, places); None where a later feature may free more or other ones.
        fixed: a part of the reason for places that must stay.
        mixed: number of groups that a norm, mean or softmax runs over: there pruned differs from masked.
        macs: of one sample.
        parameters: of the whole net.
    """

    name: str
    run: Forward
    parts: Callable[[], Mapping[str, Any]]
    example: Any
    groups: tuple[Members, ...] | None = None
    fixed: Mapping[Place, str] = field(default_factory=dict)
    mixed: int = 0
    macs: int | None = None
    parameters: int | None = None

    def build(self, seed: int = 0) -> Net:
        """A fresh instance; its running statistics are drawn as well, so that no two channels are alike."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = Net(self.run, self.parts()).eval()
            for module in net.modules():
                if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
                    module.running_mean.uniform_(-0.5, 0.5)
                    module.running_var.uniform_(0.5, 1.5)
        return net

    def inputs(self, batch: int = 1, seed: int = 0) -> Any:
        """Example inputs: a tuple of tensors."""
        generator = torch.Generator().manual_seed(seed)
        if callable(self.example):
            return self.example(batch, generator)
        shapes = self.example if isinstance(self.example[0], tuple) else (self.example,)
        return tuple(torch.randn(batch, *shape, generator=generator) for shape in shapes)

    def analysed(self, batch: int = 1, seed: int = 0) -> fxprune.Groups:
        """The groups of the net that `build` makes from the seed, found on such inputs: once for all tests."""
        return _analysed(self.name, batch, seed)


@cache
def _analysed(name: str, batch: int, seed: int) -> fxprune.Groups:
    return fxprune.find_groups(fxprune.trace(CASES[name].build(seed), CASES[name].inputs(batch, seed)))


CASES: dict[str, Case] = {}


def case(example: Any, parts: Callable[[], Mapping[str, Any]], **answers: Any) -> Callable[[Forward], Forward]:
    """Register a forward function as a case."""
    if answers.get("groups") is not None:
        answers["groups"] = tuple((size, places(text)) for size, text in answers["groups"])
    if "fixed" in answers:
        answers["fixed"] = {place: why for text, why in answers["fixed"].items() for place in places(text)}

    def add(run: Forward) -> Forward:
        assert run.__name__ not in CASES
        CASES[run.__name__] = Case(run.__name__, run, parts, example, **answers)
        return run

    return add


def places(text: str) -> frozenset[Place]:
    """Places from their shorthand.

    >>> sorted(places(">b n@"))
    [('b.weight', 1), ('n.bias', 0), ('n.running_mean', 0), ('n.running_var', 0), ('n.weight', 0)]
    """
    found: set[Place] = set()
    for word in text.split():
        if word.endswith(">"):
            found |= {(f"{word[:-1]}.weight", 0), (f"{word[:-1]}.bias", 0)}
        elif word.endswith(")"):
            found.add((f"{word[:-1]}.weight", 0))
        elif word.startswith(">"):
            found.add((f"{word[1:]}.weight", 1))
        elif word.endswith("@"):
            found |= {(f"{word[:-1]}.{t}", 0) for t in ("weight", "bias", "running_mean", "running_var")}
        else:
            tensor, _, dim = word.rpartition(":")
            found.add((tensor, int(dim)))
    return frozenset(found)


def conv(a: int, b: int, k: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(a, b, k, padding=k // 2, **options)


def mean(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


IMAGE = (3, 8, 8)


# Chains, sums and concatenations


@case(
    IMAGE,
    lambda: {"a": conv(3, 4), "b": conv(4, 6), "fc": nn.Linear(6, 5)},
    groups=[(4, "a> >b"), (6, "b> >fc")],
    fixed={
        "a.weight:1": "model input",
        "fc.weight:0 fc.bias:0": "model output",
        "a.weight:2 a.weight:3": "kernel size",
    },
    macs=64 * 9 * (3 * 4 + 4 * 6) + 30,
    parameters=(108 + 4) + (216 + 6) + (30 + 5),
)
def chain(m: Any, x: Tensor) -> Tensor:
    return m.fc(mean(m.b(m.a(x).relu()).relu()))


@case(
    (4,),
    lambda: {"a": nn.Linear(4, 8), "b": nn.Linear(8, 6), "c": nn.Linear(6, 2)},
    groups=[(8, "a> >b"), (6, "b> >c")],
    macs=32 + 48 + 12,
    parameters=40 + 54 + 14,
)
def perceptron(m: Any, x: Tensor) -> Tensor:
    return m.c(F.gelu(m.b(torch.tanh(m.a(x)))))


@case(
    IMAGE,
    lambda: {
        **{
            "stem": conv(3, 8, bias=False),
            "bn": nn.BatchNorm2d(8),
            "a": conv(8, 6, bias=False),
            "bn1": nn.BatchNorm2d(6),
        },
        **{"b": conv(6, 8, bias=False), "bn2": nn.BatchNorm2d(8), "fc": nn.Linear(8, 5)},
    },
    groups=[(8, "stem) bn@ >a b) bn2@ >fc"), (6, "a) bn1@ >b")],
    fixed={"stem.weight:1": "model input", "fc.weight:0": "model output", "a.weight:2": "kernel size"},
    macs=64 * 9 * (3 * 8 + 8 * 6 + 6 * 8) + 40,
    parameters=216 + 16 + 432 + 12 + 432 + 16 + 45,
)
def residual(m: Any, x: Tensor) -> Tensor:
    x = m.bn(m.stem(x)).relu()
    x = (x + m.bn2(m.b(m.bn1(m.a(x)).relu()))).relu()
    return m.fc(mean(x))


@case(
    IMAGE,
    lambda: {"stem": conv(3, 8), "a": conv(8, 8), "b": conv(8, 8), "c": conv(8, 8, 1), "head": conv(8, 2, 1)},
    groups=[(8, "stem> >a a> >b b> >c c> >head")],
    macs=64 * (9 * (24 + 64 + 64) + 64 + 16),
)
def nested_residual(m: Any, x: Tensor) -> Tensor:
    x = m.stem(x)
    y = x + m.a(x).relu()
    y = y + m.b(y).relu()
    return m.head(x + m.c(y))


@case(
    IMAGE,
    lambda: {
        "stem": conv(3, 8),
        "a": conv(8, 6, stride=2),
        "b": conv(6, 12),
        "short": conv(8, 12, 1, stride=2),
        "fc": nn.Linear(12, 3),
    },
    groups=[(8, "stem> >a >short"), (6, "a> >b"), (12, "b> short> >fc")],
)
def projection_shortcut(m: Any, x: Tensor) -> Tensor:
    x = m.stem(x).relu()
    x = m.b(m.a(x).relu()) + m.short(x)
    return m.fc(x.relu().mean((2, 3)))


@case(
    IMAGE,
    lambda: {"a": conv(3, 4), "b": conv(3, 6), "head": conv(10, 5)},
    groups=[(4, "a> >head"), (6, "b> >head")],
    macs=64 * 9 * (12 + 18 + 50),
    parameters=108 + 4 + 162 + 6 + 450 + 5,
)
def concat(m: Any, x: Tensor) -> Tensor:
    return m.head(torch.cat([m.a(x), m.b(x)], 1).relu())


@case(
    IMAGE,
    lambda: {"a": conv(3, 4), "b": conv(3, 6), "c": conv(3, 10), "d": conv(3, 4), "head": conv(14, 2)},
    groups=[(4, "a> c> >head"), (6, "b> c> >head"), (4, "d> >head")],
)
def concat_of_sums(m: Any, x: Tensor) -> Tensor:
    y = torch.cat([m.a(x), m.b(x)], 1) + m.c(x)
    return m.head(torch.cat([y, m.d(x)], dim=-3).relu())


@case(
    IMAGE,
    lambda: {"a": conv(3, 4), "b": conv(4, 6), "c": conv(10, 4), "bn": nn.BatchNorm2d(14), "head": conv(14, 2)},
    groups=[(4, "a> >b >c bn@ >head"), (6, "b> >c bn@ >head"), (4, "c> bn@ >head")],
)
def dense(m: Any, x: Tensor) -> Tensor:
    x = m.a(x)
    x = torch.cat([x, m.b(x)], 1)
    return m.head(m.bn(torch.cat([x, m.c(x)], 1)).relu())


@case(IMAGE, lambda: {"a": conv(3, 6), "head": conv(12, 2)}, groups=[(6, "a> >head")], macs=64 * 9 * (18 + 24))
def concat_with_itself(m: Any, x: Tensor) -> Tensor:
    x = m.a(x)
    return m.head(torch.cat([x.relu(), x.tanh()], 1))


@case(IMAGE, lambda: {"a": conv(3, 5), "head": conv(8, 2)}, groups=[(5, "a> >head")], fixed={">head": "model input"})
def concat_with_input(m: Any, x: Tensor) -> Tensor:
    return m.head(torch.cat([x, m.a(x)], 1))


# Sharing


@case(
    IMAGE,
    lambda: {"stem": conv(3, 8), "twice": conv(8, 8), "head": conv(8, 2)},
    groups=[(8, "stem> twice> >twice >head")],
    macs=64 * 9 * (24 + 2 * 64 + 16),
    parameters=224 + 584 + 146,
)
def shared_module(m: Any, x: Tensor) -> Tensor:
    x = m.twice(m.stem(x)).relu()
    return m.head(m.twice(x).relu())


def _tied() -> dict[str, nn.Module]:
    parts: dict[str, Any] = {"stem": conv(3, 8), "a": conv(8, 8), "b": conv(8, 8), "head": conv(8, 2)}
    parts["b"].weight = parts["a"].weight
    return parts


@case(
    IMAGE,
    _tied,
    groups=[(8, "stem> a> >a b.bias:0 >head")],
    macs=64 * 9 * (24 + 128 + 16),
    parameters=224 + 584 + 8 + 146,
)
def tied_parameter(m: Any, x: Tensor) -> Tensor:
    return m.head(m.b(m.a(m.stem(x)).relu()).relu())


@case((5,), lambda: {"a": nn.Linear(5, 8), "bias": nn.Parameter(torch.randn(5))}, groups=[(8, "a>")], macs=80)
def tied_and_transposed(m: Any, x: Tensor) -> Tensor:
    return F.linear(m.a(x).relu(), m.a.weight.t(), m.bias)


@case(
    IMAGE,
    lambda: {"a": conv(3, 4), "bn": nn.BatchNorm2d(4), "b": conv(4, 4), "head": conv(4, 2)},
    groups=[(4, "a> bn@ >b b> >head")],
)
def shared_norm(m: Any, x: Tensor) -> Tensor:
    return m.head(m.bn(m.b(m.bn(m.a(x)).relu())))


# Groups of channels


@case(
    IMAGE,
    lambda: {"a": conv(3, 8), "dw": conv(8, 8, groups=8), "pw": conv(8, 6, 1), "head": conv(6, 2)},
    groups=[(8, "a> dw> >pw"), (6, "pw> >head")],
    macs=64 * (9 * 24 + 9 * 8 + 48 + 9 * 12),
)
def depthwise(m: Any, x: Tensor) -> Tensor:
    return m.head(m.pw(m.dw(m.a(x)).relu()).relu())


@case(
    IMAGE,
    lambda: {"a": conv(3, 6), "dw": conv(6, 18, groups=6), "head": conv(18, 2)},
    groups=[(6, "a> dw> >head")],
    macs=64 * 9 * (18 + 18 + 36),
)
def depthwise_multiplier(m: Any, x: Tensor) -> Tensor:
    return m.head(m.dw(m.a(x)).relu())


@case(
    IMAGE,
    lambda: {"dw": conv(3, 6, groups=3), "head": conv(6, 2)},
    groups=[(2, "dw> >head")],
)
def depthwise_on_input(m: Any, x: Tensor) -> Tensor:
    """Each of the three input channels makes two channels; both may not go."""
    return m.head(m.dw(x))


@case(
    IMAGE,
    lambda: {"a": conv(3, 8), "g": conv(8, 12, groups=2), "head": conv(12, 2)},
    groups=[(4, "a> >g"), (6, "g> >head")],
    macs=64 * 9 * (24 + 12 * 4 + 24),
)
def grouped_by_width(m: Any, x: Tensor) -> Tensor:
    return m.head(m.g(m.a(x)).relu())


@case(
    IMAGE,
    lambda: {"a": conv(3, 12), "g": conv(12, 12, groups=6), "head": conv(12, 2)},
    groups=[(6, "a> g> >head")],
    fixed={">g": "another factor"},
    macs=64 * 9 * (36 + 24 + 24),
)
def grouped_by_groups(m: Any, x: Tensor) -> Tensor:
    return m.head(m.g(m.a(x)).relu())


@case(
    IMAGE,
    lambda: {"a": conv(3, 20), "g": conv(20, 8, groups=4), "head": conv(8, 2)},
    groups=[(5, "a> >g"), (2, "g> >head")],
)
def grouped_narrowing(m: Any, x: Tensor) -> Tensor:
    return m.head(m.g(m.a(x)).relu())


@case(
    IMAGE,
    lambda: {"a": conv(3, 12), "g": conv(12, 24, groups=4), "h": conv(24, 8, groups=4), "head": conv(8, 2)},
)
def grouped_twice(m: Any, x: Tensor) -> Tensor:
    return m.head(m.h(m.g(m.a(x)).relu()).relu())


@case(
    IMAGE,
    lambda: {"stem": conv(3, 12), "g": conv(12, 12, groups=3), "bn": nn.BatchNorm2d(12), "head": conv(12, 2)},
)
def grouped_residual(m: Any, x: Tensor) -> Tensor:
    x = m.stem(x)
    return m.head(x + m.bn(m.g(x)).relu())


@case(
    IMAGE,
    lambda: {"a": conv(3, 4), "b": conv(3, 6), "g": conv(10, 10, groups=2), "head": conv(10, 2)},
)
def grouped_after_concat(m: Any, x: Tensor) -> Tensor:
    return m.head(m.g(torch.cat([m.a(x), m.b(x)], 1)))


@case(
    IMAGE,
    lambda: {"a": conv(3, 6), "up": nn.ConvTranspose2d(6, 4, 2, stride=2), "head": conv(4, 2)},
    groups=[(6, "a> up.weight:0"), (4, "up.weight:1 up.bias:0 >head")],
    macs=64 * (9 * 18 + 4 * 24) + 256 * 9 * 8,
)
def transposed(m: Any, x: Tensor) -> Tensor:
    return m.head(m.up(m.a(x).relu()).relu())


@case(
    IMAGE,
    lambda: {"a": conv(3, 8), "up": nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2), "head": conv(4, 2)},
    groups=[(4, "a> up.weight:0"), (2, "up.weight:1 up.bias:0 >head")],
    macs=64 * (9 * 24 + 4 * 8 * 2) + 256 * 9 * 8,
)
def transposed_grouped(m: Any, x: Tensor) -> Tensor:
    return m.head(m.up(m.a(x).relu()).relu())


@case(
    IMAGE,
    lambda: {
        "a": conv(3, 8),
        "up": nn.ConvTranspose2d(8, 8, 3, stride=2, groups=8, output_padding=1),
        "head": conv(8, 2),
    },
    groups=[(8, "a> up.weight:0 up.bias:0 >head")],
)
def transposed_depthwise(m: Any, x: Tensor) -> Tensor:
    return m.head(m.up(m.a(x).relu()).relu())


@case(IMAGE, lambda: {"a": conv(3, 8), "g": conv(8, 8, groups=2), "h": conv(8, 8, groups=2), "head": conv(8, 2)})
def channel_shuffle(m: Any, x: Tensor) -> Tensor:
    x = m.g(m.a(x)).relu()
    n, c, h, w = x.shape
    x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
    return m.head(m.h(x))


@case(IMAGE, lambda: {"a": conv(3, 8), "b": conv(8, 8), "head": conv(8, 2), "shuffle": nn.ChannelShuffle(2)})
def channel_shuffle_module(m: Any, x: Tensor) -> Tensor:
    return m.head(m.shuffle(m.b(m.a(x).relu())))


@case(IMAGE, lambda: {"a": conv(3, 12), "head": conv(12, 2), "shuffle": nn.ChannelShuffle(4)})
def channel_shuffle_of_many_groups(m: Any, x: Tensor) -> Tensor:
    return m.head(m.shuffle(m.a(x)).relu())


@case(IMAGE, lambda: {"a": conv(3, 18), "head": conv(18, 2)})
def channel_shuffle_by_a_literal(m: Any, x: Tensor) -> Tensor:
    return m.head(F.channel_shuffle(m.a(x), 6).relu())


@case(IMAGE, lambda: {"a": conv(3, 8), "b": conv(4, 4), "head": conv(8, 2)})
def shuffle_unit(m: Any, x: Tensor) -> Tensor:
    left, right = m.a(x).relu().chunk(2, dim=1)
    x = torch.cat([left, m.b(right)], 1)
    n, c, h, w = x.size()
    return m.head(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, -1, h, w))


# Gates and parts


@case(
    IMAGE,
    lambda: {"a": conv(3, 8), "down": conv(8, 4, 1), "up": conv(4, 8, 1), "head": conv(8, 2)},
    groups=[(8, "a> >down up> >head"), (4, "down> >up")],
    macs=64 * 9 * (24 + 16) + 64,
)
def squeeze_excitation(m: Any, x: Tensor) -> Tensor:
    x = m.a(x).relu()
    gate = m.up(m.down(F.adaptive_avg_pool2d(x, 1)).relu()).sigmoid()
    return m.head(x * gate)


@case(IMAGE, lambda: {"a": conv(3, 8), "b": conv(4, 6), "head": conv(6, 2)}, groups=[(4, "a> >b"), (6, "b> >head")])
def gate_of_halves(m: Any, x: Tensor) -> Tensor:
    left, right = m.a(x).chunk(2, 1)
    return m.head(m.b(left * right.sigmoid()).relu())


@case(IMAGE, lambda: {"a": conv(3, 8), "head": conv(4, 2)})
def glu(m: Any, x: Tensor) -> Tensor:
    return m.head(F.glu(m.a(x), 1))


@case(IMAGE, lambda: {"a": conv(3, 9), "b": conv(4, 4), "head": conv(8, 2)})
def unequal_split(m: Any, x: Tensor) -> Tensor:
    left, right = m.a(x).split([4, 5], dim=1)
    return m.head(torch.cat([m.b(left), right[:, :4]], 1))


@case(IMAGE, lambda: {"a": conv(3, 4), "b": conv(3, 6), "head": conv(10, 2)}, groups=[(4, "a> >head"), (6, "b> >head")])
def slice_writes(m: Any, x: Tensor) -> Tensor:
    a, b = m.a(x), m.b(x)
    c = a.shape[1]
    y = x.new_zeros(x.shape[0], c + b.shape[1], *x.shape[2:])
    y[:, :c] = a
    y[:, c:] = b
    return m.head(y.relu())


@case(IMAGE, lambda: {"a": conv(3, 8), "b": conv(4, 4), "head": conv(8, 2)})
def slice_written_back(m: Any, x: Tensor) -> Tensor:
    x = m.a(x).clone()
    x[:, :4] += m.b(x[:, 4:].clone())
    return m.head(x)


@case(IMAGE, lambda: {"a": conv(3, 8), "b": conv(8, 4), "head": conv(12, 2)})
def slice_with_step(m: Any, x: Tensor) -> Tensor:
    x = m.a(x)
    return m.head(torch.cat([x[:, ::2], x[:, 1::2], m.b(x)], 1))


@case(IMAGE, lambda: {"a": conv(3, 8), "b": conv(8, 8), "head": conv(8, 2)})
def negative_slice(m: Any, x: Tensor) -> Tensor:
    x = m.a(x)
    return m.head(torch.cat([x[:, -3:], m.b(x)[:, :-3]], 1))


@case(
    IMAGE,
    lambda: {"a": conv(3, 6), "b": conv(6, 6), "c": conv(6, 6), "head": conv(6, 2)},
    groups=[(6, "a> >b b> >c c> >head")],
)
def stacked_branches(m: Any, x: Tensor) -> Tensor:
    x = m.a(x)
    y = m.b(x)
    return m.head(torch.stack([x, y, m.c(y)], dim=1).sum(1))


# Norms


@case(IMAGE, lambda: {"a": conv(3, 8), "gn": nn.GroupNorm(4, 8), "head": conv(8, 2)}, groups=[(4, "a> gn> >head")])
def group_norm_by_groups(m: Any, x: Tensor) -> Tensor:
    return m.head(m.gn(m.a(x)).relu())


@case(
    IMAGE,
    lambda: {"a": conv(3, 12), "gn": nn.GroupNorm(2, 12), "head": conv(12, 2)},
    groups=[(6, "a> gn> >head")],
    mixed=1,
)
def group_norm_by_width(m: Any, x: Tensor) -> Tensor:
    return m.head(m.gn(m.a(x)).relu())


@case(IMAGE, lambda: {"a": conv(3, 8), "gn": nn.GroupNorm(8, 8), "head": conv(8, 2)}, groups=[(8, "a> gn> >head")])
def group_norm_each(m: Any, x: Tensor) -> Tensor:
    return m.head(m.gn(m.a(x)).relu())


@case(
    IMAGE,
    lambda: {"a": conv(3, 8), "gn": nn.GroupNorm(1, 8), "head": conv(8, 2)},
    groups=[(8, "a> gn> >head")],
    mixed=1,
)
def group_norm_all(m: Any, x: Tensor) -> Tensor:
    return m.head(m.gn(m.a(x)).relu())


@case(
    IMAGE,
    lambda: {"a": conv(3, 8), "gn": nn.GroupNorm(4, 8, affine=False), "head": conv(8, 2)},
    groups=[(4, "a> >head")],
)
def group_norm_plain(m: Any, x: Tensor) -> Tensor:
    return m.head(m.gn(m.a(x)).relu())


@case(
    (5, 4),
    lambda: {"a": nn.Linear(4, 8), "ln": nn.LayerNorm(8), "b": nn.Linear(8, 6), "c": nn.Linear(6, 2)},
    groups=[(8, "a> ln> >b"), (6, "b> >c")],
    mixed=1,
)
def layer_norm(m: Any, x: Tensor) -> Tensor:
    return m.c(m.b(m.ln(m.a(x))).relu())


@case(
    IMAGE, lambda: {"a": conv(3, 8), "ln": nn.LayerNorm(8), "head": conv(8, 2)}, groups=[(8, "a> ln> >head")], mixed=1
)
def layer_norm_channels_last(m: Any, x: Tensor) -> Tensor:
    return m.head(m.ln(m.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


@case(
    (5, 4),
    lambda: {"a": nn.Linear(4, 8), "n": nn.RMSNorm(8), "b": nn.Linear(8, 2)},
    groups=[(8, "a> n.weight:0 >b")],
    mixed=1,
)
def rms_norm(m: Any, x: Tensor) -> Tensor:
    return m.b(m.n(m.a(x)))


@case(
    IMAGE,
    lambda: {"a": conv(3, 8), "n": nn.InstanceNorm2d(8, affine=True), "head": conv(8, 2)},
    groups=[(8, "a> n> >head")],
)
def instance_norm(m: Any, x: Tensor) -> Tensor:
    return m.head(m.n(m.a(x)).relu())


@case(
    IMAGE,
    lambda: {"a": conv(3, 8), "n": nn.InstanceNorm2d(8, track_running_stats=True), "head": conv(8, 2)},
    groups=[(8, "a> n.running_mean:0 n.running_var:0 >head")],
)
def instance_norm_tracking(m: Any, x: Tensor) -> Tensor:
    return m.head(m.n(m.a(x)).relu())


@case(
    IMAGE,
    lambda: {"a": conv(3, 8), "n": nn.BatchNorm2d(8, affine=False), "head": conv(8, 2)},
    groups=[(8, "a> n.running_mean:0 n.running_var:0 >head")],
)
def batch_norm_plain(m: Any, x: Tensor) -> Tensor:
    return m.head(m.n(m.a(x)).relu())


@case(
    (6,),
    lambda: {"a": nn.Linear(6, 8), "n": nn.BatchNorm1d(8), "b": nn.Linear(8, 3)},
    groups=[(8, "a> n@ >b")],
    macs=72,
)
def batch_norm_of_features(m: Any, x: Tensor) -> Tensor:
    return m.b(m.n(m.a(x)).relu())


# Shapes


@case(
    (3, 14, 14),
    lambda: {"a": conv(3, 4), "b": conv(4, 6), "fc": nn.Linear(6 * 49, 5)},
    groups=[(4, "a> >b"), (6, "b> >fc")],
    macs=196 * 9 * (12 + 24) + 6 * 49 * 5,
    parameters=112 + 222 + 294 * 5 + 5,
)
def flatten_7x7(m: Any, x: Tensor) -> Tensor:
    return m.fc(F.max_pool2d(m.b(m.a(x)).relu(), 2).flatten(1))


@case(IMAGE, lambda: {"a": conv(3, 6), "b": conv(6, 4), "fc": nn.Linear(4 * 64, 5)})
def literal_view(m: Any, x: Tensor) -> Tensor:
    return m.fc(m.b(m.a(x)).relu().view(-1, 4 * 8 * 8))


@case(IMAGE, lambda: {"a": conv(3, 6), "b": conv(6, 4), "width": 6, "head": conv(4, 2)})
def attribute_view(m: Any, x: Tensor) -> Tensor:
    x = m.a(x)
    x = x.reshape(x.shape[0], m.width, -1).relu().reshape(x.shape[0], m.width, 8, 8)
    return m.head(m.b(x))


@case(IMAGE, lambda: {"a": conv(3, 4), "b": conv(4, 8, stride=2), "c": conv(8, 8), "fc": nn.Linear(8, 3)})
def zero_padded_shortcut(m: Any, x: Tensor) -> Tensor:
    x = m.a(x).relu()
    x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) + m.c(m.b(x).relu())
    return m.fc(mean(x.relu()))


@case(
    IMAGE,
    lambda: {"a": conv(3, 12), "b": conv(3, 2), "head": conv(3, 2)},
    groups=[(3, "a> >head")],
    macs=64 * 9 * 36 + 256 * 9 * 6 + 64 * 9 * 6,
)
def pixel_shuffle(m: Any, x: Tensor) -> Tensor:
    return m.head(F.pixel_shuffle(m.a(x), 2)) + F.interpolate(m.b(x), scale_factor=2)


@case(IMAGE, lambda: {"a": conv(3, 3), "b": conv(12, 6), "head": conv(6, 2)}, groups=[(3, "a> >b"), (6, "b> >head")])
def pixel_unshuffle(m: Any, x: Tensor) -> Tensor:
    return m.head(m.b(F.pixel_unshuffle(m.a(x), 2)).relu())


@case(
    IMAGE,
    lambda: {"a": conv(3, 4), "b": conv(4, 6), "c": conv(6, 8), "head": conv(8, 2)},
    groups=[(4, "a> >b"), (6, "b> >c"), (8, "c> >head")],
)
def pools_and_upsampling(m: Any, x: Tensor) -> Tensor:
    x = F.avg_pool2d(F.max_pool2d(m.a(x), 2), 2, ceil_mode=True)
    x = F.interpolate(m.b(x), scale_factor=2, mode="bilinear", align_corners=False)
    x = F.interpolate(m.c(x), size=(8, 8), mode="nearest")
    return m.head(F.pad(x, (1, 1, 1, 1), mode="reflect"))


@case((3, 16), lambda: {"a": nn.Conv1d(3, 8, 3), "n": nn.BatchNorm1d(8), "b": nn.Conv1d(8, 2, 3, groups=2)})
def one_dimensional(m: Any, x: Tensor) -> Tensor:
    return m.b(F.max_pool1d(m.n(m.a(x)).relu(), 2))


@case(
    (2, 4, 6, 6),
    lambda: {
        "a": nn.Conv3d(2, 6, 3, padding=1),
        "n": nn.BatchNorm3d(6),
        "b": nn.Conv3d(6, 6, 3, groups=6),
        "c": nn.Conv3d(6, 2, 1),
    },
    groups=[(6, "a> n@ b> >c")],
    macs=144 * 27 * 12 + 32 * (27 * 6 + 12),
)
def three_dimensional(m: Any, x: Tensor) -> Tensor:
    return m.c(m.b(m.n(m.a(x)).relu()))


@case(
    IMAGE,
    lambda: {"a": conv(3, 4), "p": nn.PReLU(4), "b": conv(4, 6), "q": nn.PReLU(), "head": conv(6, 2)},
    groups=[(4, "a> p.weight:0 >b"), (6, "b> >head")],
)
def prelu(m: Any, x: Tensor) -> Tensor:
    return m.head(m.q(m.b(m.p(m.a(x)))))


@case(
    IMAGE,
    lambda: {
        "a": conv(3, 8),
        "drop": nn.Dropout2d(0.5),
        "b": conv(8, 6),
        "out": nn.Dropout(0.5),
        "fc": nn.Linear(6, 2),
    },
    groups=[(8, "a> >b"), (6, "b> >fc")],
)
def dropout(m: Any, x: Tensor) -> Tensor:
    return m.fc(m.out(mean(m.b(m.drop(m.a(x))))))


# Parameters of one's own


@case(
    IMAGE,
    lambda: {
        "a": conv(3, 6),
        "scale": nn.Parameter(torch.randn(1, 6, 1, 1)),
        "shift": nn.Parameter(torch.randn(6)),
        "head": conv(6, 2),
    },
    groups=[(6, "a> scale:1 shift:0 >head")],
    parameters=168 + 12 + 110,
)
def own_scale(m: Any, x: Tensor) -> Tensor:
    return m.head(m.a(x) * m.scale + m.shift[None, :, None, None])


@case(
    IMAGE,
    lambda: {"a": conv(3, 6), "w": nn.Parameter(torch.randn(6, 5)), "head": conv(5, 2)},
    groups=[(6, "a> w:0"), (5, "w:1 >head")],
    macs=64 * (9 * 18 + 30 + 90),
)
def own_einsum(m: Any, x: Tensor) -> Tensor:
    return m.head(torch.einsum("nchw,cd->ndhw", m.a(x).relu(), m.w).relu())


@case(
    (4,),
    lambda: {"u": nn.Parameter(torch.randn(4, 7)), "v": nn.Parameter(torch.randn(7, 2))},
    groups=[(7, "u:1 v:0")],
    macs=42,
    parameters=42,
)
def own_matmul(m: Any, x: Tensor) -> Tensor:
    return (x @ m.u).tanh() @ m.v


@case(
    IMAGE,
    lambda: {"w": nn.Parameter(torch.randn(6, 3, 3, 3)), "b": nn.Parameter(torch.randn(6)), "head": conv(6, 2)},
    groups=[(6, "w:0 b:0 >head")],
    macs=64 * 9 * (18 + 12),
)
def functional_convolution(m: Any, x: Tensor) -> Tensor:
    return m.head(F.conv2d(x, m.w, m.b, padding=1).relu())


def _weight_normed() -> dict[str, nn.Module]:
    return {"a": parametrizations.weight_norm(conv(3, 6)), "b": conv(6, 4), "head": conv(4, 2)}


@case(IMAGE, _weight_normed)
def weight_norm(m: Any, x: Tensor) -> Tensor:
    return m.head(m.b(m.a(x).relu()).relu())


def _spectral_normed() -> dict[str, nn.Module]:
    return {"a": parametrizations.spectral_norm(conv(3, 6)), "b": conv(6, 4), "head": conv(4, 2)}


@case(IMAGE, _spectral_normed)
def spectral_norm(m: Any, x: Tensor) -> Tensor:
    return m.head(m.b(m.a(x).relu()).relu())


# Ops without a rule


@case(
    (5, 4),
    lambda: {"a": nn.Linear(4, 6), "rnn": nn.LSTM(6, 5, batch_first=True), "b": nn.Linear(5, 7), "c": nn.Linear(7, 2)},
)
def lstm(m: Any, x: Tensor) -> Tensor:
    return m.c(m.b(m.rnn(m.a(x))[0]).relu())


@case(
    (5, 4),
    lambda: {"a": nn.Linear(4, 6), "rnn": nn.GRU(6, 5, batch_first=True), "b": nn.Linear(5, 7), "c": nn.Linear(7, 2)},
)
def gru(m: Any, x: Tensor) -> Tensor:
    return m.c(m.b(m.rnn(m.a(x))[0]).relu())


@case(
    IMAGE,
    lambda: {"a": conv(3, 6), "b": conv(6, 4), "head": conv(4, 2)},
    groups=[(6, "a> >b"), (4, "b> >head")],
)
def fourier(m: Any, x: Tensor) -> Tensor:
    return m.head(m.b(torch.fft.fft2(m.a(x)).real).relu())


@case(
    (4, 4),
    lambda: {"a": nn.Linear(4, 4), "b": nn.Linear(4, 5), "c": nn.Linear(5, 2)},
    groups=[(5, "b> >c")],
    fixed={"a>": "no rule"},
)
def inverse(m: Any, x: Tensor) -> Tensor:
    return m.c(m.b(torch.linalg.inv(m.a(x))).relu())


@case(
    IMAGE,
    lambda: {"a": conv(3, 6), "b": conv(6, 4), "head": conv(4, 2)},
    groups=[(4, "b> >head")],
    fixed={"a> >b": "positions"},
)
def cumulative(m: Any, x: Tensor) -> Tensor:
    return m.head(m.b(m.a(x).cumsum(1)).relu())


# Inputs and outputs


@case(
    ((3, 8, 8), (5,)), lambda: {"a": conv(3, 6), "b": nn.Linear(5, 6), "head": conv(6, 2)}, groups=[(6, "a> b> >head")]
)
def two_inputs(m: Any, x: Tensor, y: Tensor) -> Tensor:
    return m.head(m.a(x) * m.b(y)[:, :, None, None])


@case(IMAGE, lambda: {"a": conv(3, 6), "b": conv(6, 4), "c": conv(4, 2)}, groups=[(6, "a> >b"), (4, "b> >c")])
def dict_output(m: Any, x: Tensor) -> dict[str, Any]:
    x = m.b(m.a(x).relu()).relu()
    return (
        {"mean": x.mean(1), "parts": [m.c(x), {"again": m.c(-x)}]} if False else {"parts": [m.c(x), {"again": m.c(-x)}]}
    )


@dataclass
class Answer:
    logits: Tensor
    features: tuple[Tensor, ...]
    note: str = "as given"


@case(
    IMAGE,
    lambda: {"a": conv(3, 6), "b": conv(6, 4), "c": conv(4, 2)},
    groups=[(6, "a> >b")],
    fixed={"b> >c": "model output"},
)
def dataclass_output(m: Any, x: Tensor) -> Answer:
    x = m.b(m.a(x).relu())
    return Answer(m.c(x), (x,))


@case(
    lambda batch, g: (torch.randint(0, 10, (batch, 5), generator=g),),
    lambda: {"e": nn.Embedding(10, 8), "b": nn.Linear(8, 6), "c": nn.Linear(6, 2)},
    groups=[(8, "e.weight:1 >b"), (6, "b> >c")],
    fixed={"e.weight:0": "embedding"},
)
def embedding(m: Any, x: Tensor) -> Tensor:
    return m.c(m.b(m.e(x)).relu())


@case(
    IMAGE,
    lambda: {"a": conv(3, 6), "b": conv(6, 4), "head": conv(4, 2), "aux": conv(6, 3)},
    groups=[(6, "a> >b >aux"), (4, "b> >head")],
    fixed={"aux>": "model output"},
    macs=64 * 9 * (18 + 24 + 8),
)
def auxiliary_head(m: Any, x: Tensor) -> Any:
    x = m.a(x).relu()
    y = m.head(m.b(x).relu())
    return (y, m.aux(x)) if m.training else y


# Attention


@case(
    (6, 8), lambda: {"a": nn.Linear(8, 8), "mha": nn.MultiheadAttention(8, 2, batch_first=True), "b": nn.Linear(8, 3)}
)
def multihead_attention(m: Any, x: Tensor) -> Tensor:
    x = m.a(x)
    return m.b(x + m.mha(x, x, x, need_weights=False)[0])


@case((6, 8), lambda: {"a": nn.Linear(8, 8), "qkv": nn.Linear(8, 24), "out": nn.Linear(8, 8), "b": nn.Linear(8, 3)})
def own_attention(m: Any, x: Tensor) -> Tensor:
    x = m.a(x)
    n, t, c = x.shape
    q, k, v = m.qkv(x).reshape(n, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
    y = F.scaled_dot_product_attention(q, k, v)
    return m.b(x + m.out(y.transpose(1, 2).reshape(n, t, c)))


@case(
    (6, 8),
    lambda: {
        "a": nn.Linear(8, 8),
        "q": nn.Linear(8, 6),
        "k": nn.Linear(8, 6),
        "v": nn.Linear(8, 5),
        "b": nn.Linear(5, 3),
    },
    groups=[(8, "a> >q >k >v"), (6, "q> k>"), (5, "v> >b")],
    macs=6 * (64 + 48 + 48 + 40 + 15) + 36 * 6 + 36 * 5,
)
def single_head_attention(m: Any, x: Tensor) -> Tensor:
    x = m.a(x)
    weights = (m.q(x) @ m.k(x).transpose(1, 2)).softmax(-1)
    return m.b(weights @ m.v(x))


# Where a pruned channel would not be worth nothing to the op that reads it, without a weight in between


@case(IMAGE, lambda: {"a": conv(3, 6), "b": conv(6, 8), "c": conv(1, 2)}, groups=[(6, "a> >b"), (8, "b>")])
def sum_of_channels(m: Any, x: Tensor) -> Tensor:
    return m.c(m.b(m.a(x).relu()).relu().sum(1, keepdim=True))


@case(IMAGE, lambda: {"a": conv(3, 6), "b": conv(6, 2)}, groups=[(6, "a> >b")])
def unit_features(m: Any, x: Tensor) -> Tensor:
    return m.b(F.normalize(m.a(x).relu(), dim=1))


@case(IMAGE, lambda: {"a": conv(3, 6), "b": conv(6, 2)}, groups=[(6, "a> >b")], mixed=1)
def unit_gates(m: Any, x: Tensor) -> Tensor:
    return m.b(F.normalize(m.a(x).sigmoid(), dim=1))


@case(IMAGE, lambda: {"a": conv(3, 6), "b": conv(6, 2)}, groups=[(6, "a> >b")])
def log_sigmoid(m: Any, x: Tensor) -> Tensor:
    """An op with a second, empty result."""
    return m.b(F.logsigmoid(m.a(x)))


@case(IMAGE, lambda: {"a": conv(3, 6), "b": conv(6, 8), "c": conv(1, 2)}, groups=[(6, "a> >b"), (8, "b>")], mixed=1)
def sum_of_gates(m: Any, x: Tensor) -> Tensor:
    """sigmoid(0) is not 0: what the masked channels add to the sum is missing in the pruned model."""
    return m.c(m.b(m.a(x).relu()).sigmoid().sum(1, keepdim=True))


@case(IMAGE, lambda: {"a": conv(3, 6), "b": conv(6, 8), "c": conv(1, 2)}, groups=[(6, "a> >b"), (8, "b>")], mixed=1)
def mean_of_channels(m: Any, x: Tensor) -> Tensor:
    return m.c(m.b(m.a(x).relu()).mean(1, keepdim=True))


@case(
    (6, 8), lambda: {"q": nn.Linear(8, 6), "k": nn.Linear(8, 6), "b": nn.Linear(6, 3)}, groups=[(6, "q> k>")], mixed=1
)
def product_of_positive_features(m: Any, x: Tensor) -> Tensor:
    """Linear attention: elu(0) + 1 is not 0, on both sides of the product."""
    q, k = F.elu(m.q(x)) + 1, F.elu(m.k(x)) + 1
    return m.b(q @ k.transpose(1, 2))


@case(IMAGE, lambda: {"a": conv(3, 6), "b": conv(6, 8), "c": conv(8, 2)}, groups=[(6, "a> >b"), (8, "b> >c")], mixed=1)
def softmax_over_channels(m: Any, x: Tensor) -> Tensor:
    return m.c(m.b(m.a(x).relu()).softmax(1))


class Shuffled(nn.Module):
    """Halves that are shuffled: after two of them, what is left lies in another order."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Conv2d(width // 2, width // 2, 1)

    def forward(self, x: Any) -> Any:
        kept, branched = x.chunk(2, 1)
        x = torch.cat([kept, self.branch(branched).relu()], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class TrainingHead(nn.Module):
    """A second head that runs in training mode alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head, self.aux = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        h = self.a(x).relu()
        return (self.head(h), self.aux(h)) if self.training else self.head(h)
