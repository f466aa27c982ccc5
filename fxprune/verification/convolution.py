"""Convolutions of which PyTorch's take most of the time on small maps.

In float64 PyTorch takes one group after another. In any precision it lays out the weights anew for each call, where a
product of matrices reads them as they lie.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_POSITIONS = 32  # of all maps of a batch, for which a product takes less time than PyTorch's convolution
_FEW = 8  # of them, for which it takes less time with the positions in rows, and with larger kernels as well
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
    if groups == 1 and not isinstance(padding, str) and _is_read_at_few(x, weight, stride, padding, dilation):
        return _by_rows(_patches(x, weight.shape[2:], _pair(stride), _pair(padding)), weight, bias)
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
    one = weight.dim() == 4 and weight.shape[2:] == (1, 1) and padding in (0, (0, 0))
    return one and _are_alike(x, weight) and 0 < len(x) * x.shape[2] * x.shape[3] <= _POSITIONS


def _are_alike(x: Tensor, weight: Tensor) -> bool:
    same = x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64)
    return same and x.dim() == weight.dim() == 4 and x.shape[1] == weight.shape[1]


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, down: int, right: int) -> Tensor:
    x = x if down == right == 1 else x[..., ::down, ::right]
    batch, width, *size = x.shape
    if batch * size[0] * size[1] <= _FEW:
        return _by_rows(x.permute(0, 2, 3, 1), weight, bias)
    out = weight.reshape(len(weight), width) @ x.transpose(0, 1).reshape(width, -1)
    out = out if bias is None else out + bias[:, None]
    return out.view(len(weight), batch, *size).transpose(0, 1).contiguous()


def _is_read_at_few(x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any) -> bool:
    """Whether a kernel makes few positions of few."""
    if not _are_alike(x, weight) or dilation not in (1, (1, 1)):
        return False
    size = [
        (n + 2 * p - k) // s + 1
        for n, k, s, p in zip(x.shape[2:], weight.shape[2:], _pair(stride), _pair(padding), strict=True)
    ]
    return min(size) > 0 and 0 < len(x) * size[0] * size[1] <= _FEW


def _patches(x: Tensor, kernel: Any, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """What each position reads, in the last three dims: channels, and the kernel's two."""
    down, right = padding
    x = F.pad(x, (right, right, down, down)) if down or right else x
    return x.unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1]).permute(0, 2, 3, 1, 4, 5)


def _by_rows(read: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Read: what each position reads, behind three dims of a batch of maps."""
    out = F.linear(read.flatten(3).flatten(0, 2), weight.flatten(1), bias)
    return out.view(*read.shape[:3], len(weight)).permute(0, 3, 1, 2).contiguous()


def _fits(x: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether the patches may be made; what does not fit together is left to PyTorch, which says so."""
    alike = x.dtype == weight.dtype == torch.float64 and x.dim() == 4 and x.shape[1] == weight.shape[1] * groups
    return alike and len(weight) % groups == 0 and 0 < x.numel() * weight[0, 0].numel() <= _LARGEST * groups


def _pair(value: Any) -> tuple[int, int]:
    first, *others = (value,) if isinstance(value, int) else value
    return first, others[0] if others else first
