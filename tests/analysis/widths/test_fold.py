"""Scales of attention that follow a width: the weights before them take up the difference."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import ROUNDING
from torch import Tensor, nn

import fxprune

aten = torch.ops.aten


def halved(model: nn.Module, groups: fxprune.Groups) -> fxprune.Plan:
    return fxprune.planners.Uniform(0.5)(groups, fxprune.scorers.L2Norm()(model, groups))


class Normed(nn.Module):
    """Queries come out of a batch norm, in one of the forms that PyTorch and its exports have of it."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.q, self.k, self.norm = nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)

    def normed(self, x: Tensor) -> Tensor:
        n = self.norm
        if self.form == "module":
            return n(x)  # type: ignore[no-any-return]
        if self.form == "without statistics":
            return aten._native_batch_norm_legit.no_stats(x, n.weight, n.bias, True, 0.1, 1e-5)[0]  # type: ignore[no-any-return]
        op = aten._native_batch_norm_legit_no_training
        return op(x, n.weight, n.bias, n.running_mean, n.running_var, 0.1, 1e-5)[0]  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.normed(self.q(x)).flatten(2), self.k(x).flatten(2)
        return (q.transpose(1, 2) @ k * q.shape[1] ** -0.5).softmax(-1)


@pytest.mark.parametrize("form", ["module", "of an export", "without statistics"])
def test_scale_and_shift_of_a_batch_norm_take_up_a_scalar(form: str) -> None:
    torch.manual_seed(0)
    model, x = Normed(form).eval(), torch.rand(2, 3, 8, 8)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert [(g.name, g.size) for g in groups] == [("q", 8)]
    plan = halved(model, groups)
    assert [s.tensor for s in plan.scales] == ["norm.weight", "norm.bias"]
    assert fxprune.verify(model, plan, x) <= ROUNDING
    fxprune.scorers.NISP()(model, groups)  # asks for the norms' gains


class Attention(nn.Module):
    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1))  # type: ignore[no-any-return]


class Trained(nn.Module):
    """Two blocks, and more parameters than evaluation uses: never used ones, or those of a head for training."""

    def __init__(self, more: str) -> None:
        super().__init__()
        self.more = more
        self.a, self.b, self.head, self.drop = Attention(), Attention(), nn.Linear(16, 3), nn.Dropout(0.1)
        if more == "unused":
            self.mask_token, self.spare = nn.Parameter(torch.zeros(1, 1, 16)), nn.Linear(3, 3)
        elif more:
            self.auxiliary = nn.Linear(16 if more == "behind a block" else 48, 3)

    def forward(self, x: Tensor) -> Any:
        first = x + self.drop(self.a(x))
        out = self.head((first + self.drop(self.b(first))).mean(1))
        if not self.training or self.more in ("", "unused"):
            return out
        return out, self.auxiliary((first if self.more == "behind a block" else self.a.qkv(x)).mean(1))


@pytest.mark.parametrize("more", ["", "unused", "behind a block"])
def test_parameters_that_evaluation_does_not_use_change_no_group(more: str) -> None:
    torch.manual_seed(0)
    model, x = Trained(more).eval(), torch.rand(2, 5, 16)
    groups = fxprune.find_groups(fxprune.trace(model, x))
    assert [(g.name, g.size) for g in groups] == [("a.qkv", 8), ("b.qkv", 8)]
    plan = halved(model, groups)
    assert len(plan.scales) == 8  # queries and keys, weights and biases, of two blocks: each once
    assert fxprune.verify(model, plan, x) <= ROUNDING


def test_rows_that_training_uses_otherwise_take_up_nothing() -> None:
    torch.manual_seed(0)
    model, x = Trained("beside the scale").eval(), torch.rand(2, 5, 16)
    groups = fxprune.find_groups(fxprune.trace(model, x), heads="head_dim")
    assert [g.name for g in groups] == ["b.qkv"]
    assert any(f.tensor == "a.qkv.weight" and "scalar" in f.reason for f in groups.fixed)
    assert fxprune.verify(model, halved(model, groups), x) <= ROUNDING


def test_a_run_in_training_mode_that_uses_no_more_is_forgotten() -> None:
    x = torch.rand(2, 5, 16)
    recorded = {more: len(fxprune.trace(Trained(more), x).fx.nodes) for more in ("", "unused", "behind a block")}
    assert recorded[""] == recorded["unused"] < recorded["behind a block"]


class ByAttribute(nn.Module):
    """The width of a head is an attribute, by which the attention scales as well."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.width = nn.Linear(16, 48), nn.Linear(16, 3), 8

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 2, self.width).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v, scale=self.width)
        return self.out(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def test_an_attribute_as_a_scale_is_mended_and_made_up_for() -> None:
    torch.manual_seed(0)
    model, x = ByAttribute().eval(), torch.rand(2, 5, 16)
    groups = fxprune.find_groups(fxprune.trace(model, x), heads="head_dim")
    plan = groups.plan({"qkv": [0, 3, 4, 6, 7]})
    assert plan.attributes == {"": {"width": 5}}
    assert fxprune.verify(model, plan, x) <= ROUNDING


class SetAttention(nn.Module):
    """Attention of the Set Transformer (Lee et al., ICML 2019): queries are added to what the attention gives."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.width, self.heads, self.stem = width, heads, nn.Linear(3, width)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        each = self.width // self.heads
        q, k, v = (torch.cat(layer(x).split(each, 2), 0) for layer in (self.q, self.k, self.v))
        weights = torch.softmax(q.bmm(k.transpose(1, 2)) / math.sqrt(self.width), 2)
        return self.head(torch.cat((weights.bmm(v) + q).split(x.size(0), 0), 2))


def test_keys_take_up_a_scale_where_queries_are_read_elsewhere() -> None:
    torch.manual_seed(0)
    model, x = SetAttention().eval(), torch.randn(3, 7, 3)
    result = fxprune.prune(model, x, 0.5)
    assert [layer.out_features for layer in (result.model.q, result.model.k, result.model.v)] == [8, 8, 8]
    assert {scale.tensor for scale in result.plan.scales} == {"k.weight", "k.bias"}
    assert result.report.deviation is None or result.report.deviation < 1e-6
    assert fxprune.verify(model, result.plan, x) < 1e-6


class Pooled(nn.Module):
    """Attention over places by the width of each part (MAGC): one layer that keeps its width takes up the scale."""

    def __init__(self) -> None:
        super().__init__()
        self.parts, self.each = 2, 16
        self.into, self.mask, self.out = nn.Conv2d(3, 32, 1), nn.Conv2d(16, 1, 1), nn.Conv2d(32, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        n, c, h, w = x.shape
        parts = x.view(n * self.parts, self.each, h, w)
        mask = (self.mask(parts).flatten(1) / math.sqrt(self.each)).softmax(1)
        return self.out(x + (parts.flatten(2) * mask[:, None]).sum(-1).view(n, c, 1, 1))  # type: ignore[no-any-return]


def test_a_layer_that_keeps_its_width_and_takes_up_a_scale_is_no_fault() -> None:
    torch.manual_seed(0)
    model, x = Pooled().eval(), torch.randn(2, 3, 6, 6)
    result = fxprune.prune(model, x, pruning_ratio=0.5)  # a warning of groups to blame would be an error
    assert result.model.into.out_channels == 16
    assert [s.tensor for s in result.plan.scales] == ["mask.weight", "mask.bias"]
    assert fxprune.verify(model, result.plan, x) < 1e-9
    assert fxprune.verify(model, replace(result.plan, scales=()), x) > 1e-4  # the outputs tell of a wrong scale
