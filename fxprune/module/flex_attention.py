"""Flexible attention: PyTorch compiles it at each call; where fxprune runs a model it is its parts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

_UNCOMPILED = "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG"


@contextmanager
def plain_flex_attention() -> Iterator[None]:
    """`torch.nn.attention.flex_attention` appears as its parts, on meta tensors too.

    The switches are the whole process's: other threads compute the same by other means meanwhile. Releases of PyTorch
    without them compile as ever.
    """
    module = sys.modules.get("torch.nn.attention.flex_attention")
    with ExitStack() as switches:
        if hasattr(module, _UNCOMPILED):
            parts = {_UNCOMPILED: True, "flex_attention_hop": _in_parts, "_validate_device": _any_device}
            for name, part in parts.items():
                switches.enter_context(patch.object(module, name, part))
        yield


def _any_device(*_: Tensor) -> None:
    """Attention in parts runs wherever matrix products do."""


def _in_parts(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: Any,
    block_mask: tuple[Any, ...],
    scale: float,
    kernel_options: dict[str, Any],
    score_buffers: tuple[Any, ...] = (),
    mask_buffers: tuple[Any, ...] = (),
) -> tuple[Tensor, Tensor, Tensor]:
    """The result, the logarithms of the sums of exponentials, and the largest scores, to base 2 as PyTorch has them."""
    from torch._higher_order_ops.flex_attention import _math_attention_inner  # where they are used: they are private
    from torch.nn.attention import flex_attention as flex

    shared = query.shape[1] != key.shape[1]  # queries share keys and values
    plain = score_mod is flex._identity and block_mask[-1] is flex.noop_mask
    if plain and not kernel_options.get("OUTPUT_LOGSUMEXP") and not kernel_options.get("OUTPUT_MAX"):
        out = F.scaled_dot_product_attention(query, key, value, scale=scale, enable_gqa=shared)
        return out, out.new_empty(0), out.new_empty(0)
    if shared:
        times = query.shape[1] // key.shape[1]
        key, value = (t.repeat_interleave(times, dim=1) for t in (key, value))
    key, value = (t.expand(len(query), -1, -1, -1) if len(t) != len(query) else t for t in (key, value))
    # The queries are scaled, not the scores: where the scale follows a width, the weights before it take up the change.
    given = query * scale, key, value, score_mod, block_mask, 1.0, kernel_options, score_buffers, mask_buffers
    scores = _math_attention_inner(*given)[1]
    sums, largest = scores.logsumexp(-1), scores.amax(-1)
    weights = torch._safe_softmax(scores, -1).to(query.dtype)
    return weights @ value.to(query.dtype), sums * _LOG2_E, largest * _LOG2_E


_LOG2_E = 1.4426950408889634
