"""The transformers of x-transformers, an option each: over images, and over tokens as language models are."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import nn

from suites import Case

PACKAGE = "x_transformers"


def names() -> list[str]:
    return [f"{kind}_{name}" for kind, options in _OPTIONS.items() for name in options]


def case(name: str) -> Case:
    kind, _, option = name.partition("_")

    def build() -> nn.Module:
        package = import_module("x_transformers")
        layers = (package.Encoder if kind == "image" else package.Decoder)(**_USUAL, **_OPTIONS[kind][option])
        if kind == "image":
            model = package.ViTransformerWrapper(image_size=32, patch_size=8, num_classes=10, attn_layers=layers)
        else:
            model = package.TransformerWrapper(num_tokens=_TOKENS, max_seq_len=16, attn_layers=layers)
        return model.eval()  # type: ignore[no-any-return]

    return Case(family=kind, build=build, example=_image if kind == "image" else _tokens)


def _image(batch: int) -> torch.Tensor:
    return torch.rand(batch, 3, 32, 32)


def _tokens(batch: int) -> torch.Tensor:
    return torch.randint(0, _TOKENS, (batch, 12))


_TOKENS = 50
_USUAL = {"dim": 48, "depth": 2, "heads": 4, "attn_dim_head": 12}
_OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "image": {
        "plain": {},
        "rmsnorm": {"use_rmsnorm": True},
        "simple_rmsnorm": {"use_simple_rmsnorm": True},
        "scalenorm": {"use_scalenorm": True},
        "dynamic_tanh": {"use_dynamic_tanh": True},
        "post_norm": {"pre_norm": False},
        "sandwich_norm": {"sandwich_norm": True},
        "glu": {"ff_glu": True, "ff_swish": True},
        "relu_squared": {"ff_relu_squared": True},
        "post_activation_norm": {"ff_post_act_ln": True},
        "no_biases": {"ff_no_bias": True},
        "gated_values": {"attn_gate_values": True},
        "head_scale": {"attn_head_scale": True},
        "on_attention": {"attn_on_attn": True},
        "talking_heads": {"attn_pre_talking_heads": True},
        "sparse": {"attn_sparse_topk": 8},
        "query_key_norm": {"attn_qk_norm": True},
        "grouped_queries": {"attn_kv_heads": 2},
        "one_key": {"attn_one_kv_head": True},
        "memory": {"attn_num_mem_kv": 2},
        "residual_attention": {"residual_attn": True},
        "gated_residual": {"gate_residual": True},
        "scaled_residual": {"scale_residual": True},
        "hyper_connections": {"num_residual_streams": 2},
        "shifted_tokens": {"shift_tokens": 1},
        "macaron": {"macaron": True},
        "sandwich": {"sandwich_coef": 1},
        "rotary": {"rotary_pos_emb": True},
        "relative_bias": {"rel_pos_bias": True},
        "linear_bias": {"alibi_pos_bias": True},
        "dynamic_bias": {"dynamic_pos_bias": True},
    },
    "words": {
        "plain": {},
        "rotary": {"rotary_pos_emb": True},
        "rotary_xpos": {"rotary_xpos": True},
        "linear_bias": {"alibi_pos_bias": True},
        "relative_bias": {"rel_pos_bias": True},
        "llama": {"rotary_pos_emb": True, "use_rmsnorm": True, "ff_glu": True, "ff_swish": True, "ff_no_bias": True},
        "grouped_queries": {"attn_kv_heads": 2, "rotary_pos_emb": True},
        "one_key": {"attn_one_kv_head": True, "ff_glu": True},
        "shifted_tokens": {"shift_tokens": 1},
        "residual_attention": {"residual_attn": True},
    },
}
