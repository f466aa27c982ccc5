"""Patches: sums over what a layer's kernels see and answer, without unfolding, in pieces that fit the cache.

Within a piece, sums are taken in the layer's own precision, at least float32; over pieces in float64.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fxprune.observe import Contraction

aten = torch.ops.aten
_PIECE = 2**18  # elements


def patch_sums(seen: Contraction) -> Tensor:
    """Σ x over the patch under each kernel position, of shape (batch, groups, positions).

    All rows of a linear layer are one sample: (1, 1, rows).
    """
    x = _precise(seen.x)
    if seen.options is None:
        return x.sum(1)[None, None]
    per_group = x.unflatten(1, (seen.groups, -1)).sum(2)
    if all(n == 1 for n in (*seen.weight.shape[2:], *seen.options[0])) and not any(seen.options[1]):
        return per_group.flatten(2)
    ones = per_group.new_ones(seen.groups, 1, *seen.weight.shape[2:])
    box: Tensor = aten.convolution.default(per_group, ones, None, *seen.options)
    return box.flatten(2)


def patch_energy(seen: Contraction) -> Tensor:
    """Σ ‖x_p‖² over all patches, of shape (groups,), in float64.

    Each input position counts as often as it lies under a kernel, so one map of these counts stands for all patches.
    """
    squares = _sum_of_squares(seen)
    return (squares * _uses(seen)).flatten(1).sum(1)


def _sum_of_squares(seen: Contraction) -> Tensor:
    """Σ x² over samples and a group's channels, of shape (groups, *positions); (1, 1) for linear layers."""
    if seen.options is None:
        step = max(1, _PIECE // seen.x.shape[1])
        return torch.stack([_precise(x).square().sum().double() for x in seen.x.split(step)]).sum().view(1, 1)
    total = torch.zeros(seen.groups, *seen.x.shape[2:], dtype=torch.float64, device=seen.x.device)
    for x in seen.x:
        total += _precise(x).square().unflatten(0, (seen.groups, -1)).sum(1)
    return total


def _uses(seen: Contraction) -> Tensor:
    """In how many patches each input position lies, of shape (1, *positions); (1, 1) for linear layers."""
    if seen.options is None:
        return torch.ones(1, 1, dtype=torch.float64, device=seen.x.device)
    *geometry, _ = seen.options
    x, y, kernel = (
        torch.ones(1, 1, *t.shape[2:], dtype=torch.float32, device=t.device) for t in (seen.x, seen.output, seen.weight)
    )
    # The adjoint of a convolution with ones, applied to ones, counts them.
    counts: Tensor = aten.convolution_backward.default(y, x, kernel, None, *geometry, 1, [True, False, False])[0]
    return counts[0].double()


def residual_squares(seen: Contraction, factors: Tensor | None = None, sums: Tensor | None = None) -> Tensor:
    """Σ (y - b - f·S)² over samples and positions, of shape (channels,), in float64.

    Args:
        seen: the call; y is its output and b its bias.
        factors: f of each channel, of shape (groups, channels per group); None leaves the term out.
        sums: S, as `patch_sums` gives it.
    """
    total = _zeros(seen)
    for sample, part, y in _pieces(seen):
        if factors is not None and sums is not None:
            y = torch.addcmul(y, factors[:, :, None].to(y.dtype), sums[sample, :, None, part], value=-1)
        total += y.square().sum(-1)
    return total.flatten()


def response_sums(seen: Contraction) -> tuple[Tensor, float]:
    """Σ (y - b) over samples and positions, of shape (channels,), in float64, and how many terms a sum has."""
    total, terms = _zeros(seen), 0
    for _, _, y in _pieces(seen):
        total += y.sum(-1)
        terms += y.shape[-1]
    return total.flatten(), float(terms)


def _zeros(seen: Contraction) -> Tensor:
    channels = seen.output.shape[1]
    return torch.zeros(seen.groups, channels // seen.groups, dtype=torch.float64, device=seen.output.device)


def _pieces(seen: Contraction) -> Iterator[tuple[int, slice, Tensor]]:
    """The response without bias: sample, range of positions, values of shape (groups, channels per group, range)."""
    y = seen.output if seen.options is not None else seen.output.t()[None]
    y = y.unflatten(1, (seen.groups, -1)).flatten(3)
    bias = None if seen.bias is None else _precise(seen.bias).view(*y.shape[1:3], 1)
    step = max(1, _PIECE // seen.output.shape[1])
    for sample, start in ((n, i) for n in range(len(y)) for i in range(0, y.shape[3], step)):
        part = slice(start, start + step)
        piece = _precise(y[sample, :, :, part])
        yield sample, part, piece if bias is None else piece - bias


def _precise(t: Tensor) -> Tensor:
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t
