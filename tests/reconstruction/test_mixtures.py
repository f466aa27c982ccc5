"""Shorter queries and keys: mixtures whose products come nearest, where nothing but the product reads them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune
from fxprune.reconstruction.bilinear import bilinear
from fxprune.reconstruction.mixtures import Moments, _nearest

HEADS, WIDTH, SIZE = 4, 8, 16


class Attention(nn.Module):
    """Queries and keys of their own width; `keys` heads of keys, each for several queries."""

    def __init__(self, keys: int = HEADS, bias: bool = True, between: Any = None) -> None:
        super().__init__()
        self.keys, self.between = keys, between
        self.q, self.k = nn.Linear(SIZE, HEADS * WIDTH, bias), nn.Linear(SIZE, keys * WIDTH, bias)
        self.v, self.out = nn.Linear(SIZE, HEADS * 4), nn.Linear(HEADS * 4, 5)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q = self.q(x).view(batch, tokens, HEADS, -1).transpose(1, 2)
        k = self.k(x).view(batch, tokens, self.keys, -1).transpose(1, 2).repeat_interleave(HEADS // self.keys, 1)
        v = self.v(x).view(batch, tokens, HEADS, 4).transpose(1, 2)
        if self.between:
            q = self.between(self, q)
        logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        return self.out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Packed(nn.Module):
    """PyTorch's own attention: one weight for queries, keys and values, whose bias is added by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention, self.out = (
            nn.Linear(6, SIZE),
            nn.MultiheadAttention(SIZE, 2, batch_first=True),
            nn.Linear(SIZE, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.out(self.attention(x, x, x, need_weights=False)[0])  # type: ignore[no-any-return]


def of_rank(layer: nn.Linear, heads: int, rank: int) -> None:
    """Give each head's rows, with their biases, a rank."""
    with torch.no_grad():
        for h in range(heads):
            rows = slice(h * WIDTH, (h + 1) * WIDTH)
            mix = torch.randn(WIDTH, rank) / rank**0.5
            layer.weight[rows] = mix @ torch.randn(rank, SIZE)
            if layer.bias is not None:
                layer.bias[rows] = mix @ torch.randn(rank)


def halved(model: nn.Module, data: list[Tensor]) -> tuple[nn.Module, nn.Module]:
    """The model with half of the dims of queries and keys, bare and repaired."""
    found = fxprune.find_groups(fxprune.trace(model, data[0][:2]))
    group = next(g for g in found if any(s.tensor == "q.weight" for s in g.slots))
    plan = found.plan({group.name: range(group.size // 2)})
    bare = fxprune.rewrite(model, plan)
    return bare, fxprune.repair(model, bare, plan, data, progress=False)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("keys", [HEADS, 2, 1])
def test_products_of_half_the_rank_lose_nothing(keys: int, bias: bool) -> None:
    torch.manual_seed(0)
    model = Attention(keys, bias).eval()
    of_rank(model.q, HEADS, WIDTH // 2 if keys == HEADS else WIDTH)
    of_rank(model.k, keys, WIDTH // 2)
    data = list(torch.randn(64, 10, SIZE).split(16))
    bare, repaired = halved(model, data)
    x = torch.randn(8, 7, SIZE)
    assert repaired.q.out_features == HEADS * WIDTH // 2
    torch.testing.assert_close(repaired(x), model(x), rtol=1e-3, atol=1e-4)
    assert float((bare(x) - model(x)).detach().abs().max()) > 0.01


class NonLocal(nn.Module):
    """Queries and keys that convolutions make of maps."""

    def __init__(self, kernel: int = 1, parts: int = 1) -> None:
        super().__init__()
        self.q = nn.Conv2d(SIZE, 8, kernel, padding=kernel // 2, groups=parts)
        self.k = nn.Conv2d(SIZE, 8, kernel, padding=kernel // 2, bias=False)
        self.v, self.out = nn.Conv2d(SIZE, 6, 1), nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).flatten(2) for layer in (self.q, self.k, self.v))
        mixed = v @ (q.transpose(1, 2) @ k).softmax(-1).transpose(1, 2)
        return self.out(mixed.unflatten(-1, x.shape[-2:]))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kernel", [1, 3])
def test_convolutions_make_queries_and_keys(kernel: int) -> None:
    torch.manual_seed(0)
    model = NonLocal(kernel).eval()
    with torch.no_grad():
        mix = torch.randn(8, 4) / 2
        model.k.weight.copy_(torch.tensordot(mix, torch.randn(4, *model.k.weight.shape[1:]) / 4, 1))
    data = list(torch.randn(48, SIZE, 5, 6).split(16))
    bare, repaired = halved(model, data)
    x = torch.randn(8, SIZE, 4, 7)
    assert repaired.q.out_channels == 4
    torch.testing.assert_close(repaired(x), model(x), rtol=1e-3, atol=1e-4)
    assert float((bare(x) - model(x)).detach().abs().max()) > 0.01


def test_channels_of_other_groups_are_not_mixed() -> None:
    example = torch.rand(2, SIZE, 3, 3)
    assert bilinear(fxprune.trace(NonLocal(parts=2).eval(), example)) == []
    (pair,) = bilinear(fxprune.trace(NonLocal().eval(), example))
    assert {(side.name, side.bias) for side in (pair.left, pair.right)} == {("q.weight", "q.bias"), ("k.weight", "")}


def test_the_product_is_the_best_of_its_rank() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(200, 12, dtype=torch.float64), torch.randn(150, 12, dtype=torch.float64)
    a, b = _nearest(q.T @ q, k.T @ k, 5)
    wanted = torch.linalg.svdvals(q @ k.T)[5:].square().sum()
    torch.testing.assert_close((q @ k.T - q @ a @ (k @ b).T).square().sum(), wanted)


def test_moments_take_up_a_bias() -> None:
    y, shift = torch.randn(30, 4), torch.randn(4, dtype=torch.float64)
    moments = Moments.none(y)
    for part in y.split(10):
        moments.add(part)
    shifted = y.double() + shift
    torch.testing.assert_close(moments.second(torch.arange(4), shift), shifted.T @ shifted, rtol=1e-5, atol=1e-5)


def test_a_bias_that_is_added_by_itself() -> None:
    torch.manual_seed(0)
    model = Packed().eval()
    model.attention.in_proj_bias.data.normal_()
    (first, *_) = pairs = bilinear(fxprune.trace(model, torch.rand(2, 5, 6)))
    assert len(pairs) == 2
    assert (first.left.name, first.left.bias, first.left.later) == (
        "attention.in_proj_weight",
        "attention.in_proj_bias",
        True,
    )
    assert (first.left.rows, first.right.rows) == ((tuple(range(8)),), (tuple(range(SIZE, SIZE + 8)),))

    data = list(torch.randn(128, 9, 6).split(32))
    groups = fxprune.find_groups(fxprune.trace(model, data[0][:2]))
    plan = fxprune.planners.Uniform(0.25)(groups, fxprune.scorers.L2Norm()(model, groups))
    assert len(plan.cuts()["attention.in_proj_weight"][0]) == 3 * 2 * 6
    bare = fxprune.rewrite(model, plan)
    repaired = fxprune.repair(model, bare, plan, data, progress=False)
    x = torch.randn(16, 9, 6)
    with torch.no_grad():
        lost = [float((m(x) - model(x)).square().mean()) for m in (repaired, bare)]
    assert lost[0] < 0.5 * lost[1]


def rotated(_model: Attention, q: Tensor) -> Tensor:
    half = q.shape[-1] // 2
    angle = torch.arange(q.shape[2], dtype=q.dtype)[:, None] * 0.1
    first, second = q[..., :half], q[..., half:]
    return torch.cat([first * angle.cos() - second * angle.sin(), first * angle.sin() + second * angle.cos()], -1)


REFUSED = {
    "a rotary embedding": rotated,
    "a norm": lambda model, q: model.norm(q),
    "an activation": lambda _model, q: F.relu(q),
    "a second reader": lambda _model, q: q + q.mean(-1, keepdim=True),
    "another bias": lambda model, q: q + model.norm.bias,
}


@pytest.mark.parametrize("what", REFUSED)
def test_rows_that_something_else_reads_are_left_alone(what: str) -> None:
    assert bilinear(fxprune.trace(Attention(between=REFUSED[what]).eval(), torch.rand(2, 5, SIZE))) == []


class Shared(nn.Module):
    """One weight for two inputs, or queries that meet two heads of keys."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.q, self.k = what, nn.Linear(SIZE, WIDTH), nn.Linear(SIZE, 2 * WIDTH)
        self.table = nn.Embedding(WIDTH, SIZE)
        if what == "a table":
            self.q.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.q(x)[:, None], self.k(x).view(*x.shape[:2], 2, WIDTH).transpose(1, 2)
        logits = (q.expand(-1, 2, -1, -1) if self.what == "two heads" else q) @ k[:, : q.shape[1] + 1].transpose(-1, -2)
        if self.what == "a weight":
            logits = logits + self.q(x.flip(1)).mean(-1)[:, None, None]
        if self.what == "a table":
            logits = logits + self.table(torch.zeros(1, dtype=torch.int64)).mean()
        return logits


@pytest.mark.parametrize("what", ["two heads", "a weight", "a table"])
def test_rows_that_are_used_twice_are_left_alone(what: str) -> None:
    assert bilinear(fxprune.trace(Shared(what).eval(), torch.rand(2, 5, SIZE))) == []


def test_an_error_leaves_the_pruned_model_as_it_was() -> None:
    torch.manual_seed(0)
    model, data = Attention().eval(), [torch.randn(16, 5, SIZE), torch.full((16, 5, SIZE), torch.nan)]
    groups = fxprune.find_groups(fxprune.trace(model, data[0][:2]))
    plan = fxprune.planners.Uniform(0.5)(groups, fxprune.scorers.L2Norm()(model, groups))
    small = fxprune.rewrite(model, plan)
    before = {name: t.clone() for name, t in small.state_dict().items()}
    with pytest.raises(fxprune.InputError):
        fxprune.reconstruct(model, small, plan, data)
    assert all(torch.equal(t, before[name]) for name, t in small.state_dict().items())
