"""Attention whose inner width is its own, for models built from `nn.MultiheadAttention`.

`nn.MultiheadAttention` computes the head width as `embed_dim // num_heads`: its heads cannot shrink unless the stream
that it reads and writes shrinks with them. The class here reads the head width from an attribute instead, so that heads
can be removed or narrowed while the stream stays whole.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from fxprune.errors import check_kind
from fxprune.rewriting.copying import copied

M = TypeVar("M", bound=nn.Module)

_SAME_WIDTHS = next(name for name in vars(nn.MultiheadAttention(2, 1)) if name.endswith("same_embed_dim"))


def untie_attention(model: M) -> M:
    """A copy of the model whose attention layers have an inner width of their own.

    It computes the same as before; parameters and `state_dict` keys stay as they are. In its groups, embedding width
    and attention width are separate, so that one can be pruned while the other is protected. A plan for it applies
    to any fresh instance after the same call.

    Args:
        model: untouched; its `nn.MultiheadAttention` layers become `UntiedAttention`, a subclass.

    >>> import torch, fxprune
    >>> layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    >>> layer = fxprune.untie_attention(layer)
    >>> groups = fxprune.find_groups(fxprune.trace(layer, torch.zeros(1, 5, 16)), ignored=["norm1"])
    >>> [(g.name, g.size) for g in groups]
    [('self_attn.in_proj_weight', 8), ('linear1', 32)]
    """
    check_kind("the model", model, nn.Module, "give a torch.nn.Module")
    model = copied(model)
    for module in model.modules():
        if type(module) is nn.MultiheadAttention:
            module.__class__ = UntiedAttention
            # Switches off fused code that knows one width only.
            module.__dict__[_SAME_WIDTHS] = False
            module.__dict__["scale"] = float(module.head_dim) ** -0.5
    return model


class UntiedAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` with `num_heads` heads of width `head_dim`, whatever the embedding width.

    Attributes:
        scale: of the attention scores; it keeps its value when the heads shrink.
    """

    scale: float

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`; `is_causal` is a hint that needs `attn_mask` beside it."""
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        batched = query.dim() == 3
        given = [t if batched else t.unsqueeze(0) for t in (query, key, value)]
        if batched and not self.batch_first:
            given = [t.transpose(0, 1) for t in given]
        q, k, v = (self._heads(y) for y in self._extended(self._projected(*given)))
        if key_padding_mask is not None and not batched:
            key_padding_mask = key_padding_mask.unsqueeze(0)
        mask = self._mask(attn_mask, key_padding_mask, q)
        out, weights = self._attend(q, k, v, mask, need_weights)
        out = F.linear(out.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return out if self.batch_first else out.transpose(0, 1), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """(batch, length, heads · head width) each."""
        weights: Any = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.chunk(3)
        biases: Any = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        return [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]

    def _extended(self, projected: list[Tensor]) -> list[Tensor]:
        """With the extra keys and values that the layer's options ask for."""
        q, k, v = projected
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (
                F.pad(t, (0, 0, 0, 1)) + F.pad(b, (0, 0, t.shape[1], 0))
                for t, b in ((k, self.bias_k), (v, self.bias_v))
            )
        if self.add_zero_attn:
            k, v = (F.pad(t, (0, 0, 0, 1)) for t in (k, v))
        return [q, k, v]

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _mask(self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor) -> Tensor | None:
        """What is added to the scores, of shape (batch or 1, heads or 1, length or 1, source length)."""
        extra = (self.bias_k is not None) + self.add_zero_attn
        masks = []
        if attn_mask is not None:
            added = F.pad(_added(attn_mask, q), (0, extra))
            masks.append(added if added.dim() == 2 else added.unflatten(0, (-1, self.num_heads)))
        if key_padding_mask is not None:
            masks.append(F.pad(_added(key_padding_mask, q), (0, extra))[:, None, None])
        return sum(masks[1:], masks[0]) if masks else None

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            return F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=self.scale), None
        scores = (q * self.scale) @ k.transpose(-2, -1)
        weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
        return weights @ v, weights


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """A mask as numbers to add; True in a mask of truth values forbids."""
    if not mask.is_floating_point():
        return like.new_zeros(mask.shape).masked_fill(mask, float("-inf"))
    return mask.to(like.dtype)
