"""Attention with an inner width of its own: the same numbers as nn.MultiheadAttention, and more to prune."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import fxprune
from fxprune.rewriting.attention import UntiedAttention

WIDTH, HEADS, BATCH, LENGTH, SOURCE = 12, 3, 2, 5, 4


def masks(kind: str, batched: bool) -> dict[str, Any]:
    padding = torch.zeros(BATCH, SOURCE, dtype=torch.bool)
    padding[0, -1] = True
    square = torch.randn(LENGTH, SOURCE)
    return {
        "none": {},
        "padding": {"key_padding_mask": padding if batched else padding[0]},
        "added": {"attn_mask": square},
        "forbidden": {"attn_mask": square > 1},
        "per head": {"attn_mask": torch.randn(BATCH * HEADS if batched else HEADS, LENGTH, SOURCE)},
        "both": {"attn_mask": square, "key_padding_mask": (padding if batched else padding[0]).float() * -3},
    }[kind]


def inputs(batched: bool, batch_first: bool, kdim: int = WIDTH, vdim: int = WIDTH) -> list[Tensor]:
    sizes = [(LENGTH, WIDTH), (SOURCE, kdim), (SOURCE, vdim)]
    if not batched:
        return [torch.randn(n, d) for n, d in sizes]
    return [torch.randn(*((BATCH, n) if batch_first else (n, BATCH)), d) for n, d in sizes]


@pytest.mark.parametrize("kind", ["none", "padding", "added", "forbidden", "per head", "both"])
@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"kdim": 6, "vdim": 7}, {"add_bias_kv": True, "add_zero_attn": True}]
)
def test_the_same_numbers_as_the_original(options: dict[str, Any], kind: str) -> None:
    for batched, batch_first, weights in itertools.product([True, False], repeat=3):
        layer = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first, **options).eval()
        untied = fxprune.untie_attention(layer)
        assert isinstance(untied, UntiedAttention)
        given = inputs(batched, batch_first, options.get("kdim", WIDTH), options.get("vdim", WIDTH))
        call: dict[str, Any] = {**masks(kind, batched), "need_weights": weights}
        for average in (True, False):
            expected = layer(*given, **call, average_attn_weights=average)
            seen = untied(*given, **call, average_attn_weights=average)
            torch.testing.assert_close(seen, expected)


def test_the_original_is_untouched_and_states_are_exchanged() -> None:
    layer = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2, enable_nested_tensor=False
    ).eval()
    untied = fxprune.untie_attention(layer)
    assert type(layer.layers[0].self_attn) is nn.MultiheadAttention
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(untied(x), layer(x))
    layer.load_state_dict(untied.state_dict())
    with pytest.raises(RuntimeError, match="Need attn_mask"):
        untied.layers[0].self_attn(x, x, x, is_causal=True)


@pytest.mark.parametrize("heads", ["head_dim", "num_heads"])
def test_heads_shrink_while_the_stream_stays(heads: str) -> None:
    model = fxprune.untie_attention(small_vit())
    x = torch.randn(2, 3, 32, 32)
    graph = fxprune.trace(model, x)
    streams = [g.name for g in fxprune.find_groups(graph, heads=heads) if "norm" in g.mixed_by]
    groups = fxprune.find_groups(graph, streams, heads=heads)
    attention = [g for g in groups if "self_attention" in g.name]
    assert [g.size for g in attention] == [{"head_dim": 16, "num_heads": 4}[heads]] * 2
    plan = fxprune.planners.Uniform(0.5)(groups, fxprune.scorers.L2Norm()(model, groups))
    small = fxprune.rewrite(model, plan)
    layer: Any = small.encoder.layers[0].self_attention  # type: ignore[union-attr]
    assert layer.in_proj_weight.shape == (3 * 32, 64)
    assert (layer.num_heads, layer.head_dim, layer.scale) == ((4, 8, 0.25) if heads == "head_dim" else (2, 16, 0.25))
    assert fxprune.verify(model, plan, x) < 1e-9
    fresh = fxprune.rewrite(fxprune.untie_attention(small_vit()), plan)
    fresh.load_state_dict(small.state_dict())
    exported: Any = torch.export.export(small, (x,)).module()
    for other in (fresh, copy.deepcopy(small), exported):
        torch.testing.assert_close(other(x), small(x))


def small_vit() -> nn.Module:
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=64, mlp_dim=96, num_classes=10
    ).eval()
    nn.init.normal_(model.heads[-1].weight)  # it starts at zero
    return model


@pytest.mark.parametrize("batch", [1, 2, 6])
@pytest.mark.parametrize(("heads", "size"), [("head_dim", 16), ("num_heads", 4)])
def test_the_choice_does_not_depend_on_the_batch(heads: str, size: int, batch: int) -> None:
    groups = fxprune.find_groups(fxprune.trace(small_vit(), torch.randn(batch, 3, 32, 32)), heads=heads)
    assert [g.size for g in groups if "self_attention" in g.name] == [size] * 2
