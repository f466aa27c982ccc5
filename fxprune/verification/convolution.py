"""Convolutions of which PyTorch's take most of the time on small maps.

In float64 PyTorch takes one group after another. In any precision it lays out the weights anew for each call, also
those of a kernel of one, where a product of matrices does.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_POSITIONS = 32  # of all maps of a batch, for which a product takes less time than PyTorch's convolution
_LARGEST = 4096  # numbers in the patches of a group, of which the multiplication takes longer than PyTorch's detour


def conv2d(
    input: Tensor,  # as PyTorch calls it: code may name it
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.conv2d`; small maps by products of matrices, with all groups at once in float64."""
    x = input
    if groups == 1 and _is_pointwise(x, weight, padding):
        return _pointwise(x, weight, bias, *_pair(stride))
    if groups == 1 or isinstance(padding, str) or not _fits(x, weight, groups):
        return torch.conv2d(x, weight, bias, stride, padding, dilation, groups)
    size = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(x.shape[2:], weight.shape[2:], *map(_pair, (stride, padding, dilation)), strict=True)
    ]
    patches = F.unfold(x, tuple(weight.shape[2:]), _pair(dilation), _pair(padding), _pair(stride))
    out = weight.reshape(groups, len(weight) // groups, -1) @ patches.view(len(x), groups, -1, patches.shape[-1])
    out = out.reshape(len(x), len(weight), *size)
    return out if bias is None else out + bias.view(-1, 1, 1)


def _is_pointwise(x: Tensor, weight: Tensor, padding: Any) -> bool:
    """Whether a kernel of one reads few positions; what does not fit together is left to PyTorch, which says so."""
    one = weight.dim() == x.dim() == 4 and weight.shape[2:] == (1, 1) and padding in (0, (0, 0))
    alike = x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64) and x.shape[1:2] == weight.shape[1:2]
    return one and alike and 0 < len(x) * x.shape[2] * x.shape[3] <= _POSITIONS


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, down: int, right: int) -> Tensor:
    x = x if down == right == 1 else x[..., ::down, ::right]
    batch, width, *size = x.shape
    out = weight.reshape(len(weight), width) @ x.transpose(0, 1).reshape(width, -1)
    out = out if bias is None else out + bias[:, None]
    return out.view(len(weight), batch, *size).transpose(0, 1).contiguous()


def _fits(x: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether the patches may be made; what does not fit together is left to PyTorch, which says so."""
    alike = x.dtype == weight.dtype == torch.float64 and x.dim() == 4 and x.shape[1] == weight.shape[1] * groups
    return alike and len(weight) % groups == 0 and 0 < x.numel() * weight[0, 0].numel() <= _LARGEST * groups


def _pair(value: Any) -> tuple[int, int]:
    first, *others = (value,) if isinstance(value, int) else value
    return first, others[0] if others else first
