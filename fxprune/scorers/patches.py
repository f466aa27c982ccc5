"""Patches: sums over what a layer's kernels see and answer, without unfolding, in pieces that fit the cache.

Within a piece, sums are taken in the layer's own precision, at least float32; over pieces in float64.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from fxprune.analysis.ops.contraction import CONVOLUTION_BACKWARD
from fxprune.statistics.observe import Contraction

_PIECE = 2**18  # elements


def mean_and_spread(kernels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each kernel's weights, and Σ (w - mean)² in float64, both of shape (groups, channels per group)."""
    rows = kernels.flatten(0, 1)
    means, spreads = [], []
    for part in rows.split(max(1, _PIECE // rows.shape[1])):
        weights = _precise(part)
        means.append(weights.mean(1))
        spreads.append(_square(weights - means[-1][:, None]).sum(1).double())
    return torch.cat(means).view(kernels.shape[:2]), torch.cat(spreads).view(kernels.shape[:2])


def patch_sums(seen: Contraction) -> Tensor:
    """Σ x over the patch under each kernel position, of shape (batch, groups, positions).

    All rows of a linear layer are one sample: (1, 1, rows).
    """
    x = _precise(seen.x)
    if seen.options is None:
        return x.sum(1)[None, None]
    per_group = x if x.shape[1] == seen.groups else x.unflatten(1, (seen.groups, -1)).sum(2)
    if _is_pointwise(seen):
        return per_group.flatten(2)
    ones = per_group.new_ones(seen.groups, 1, *seen.weight.shape[2:])
    box: Tensor = torch.convolution(per_group, ones, None, *seen.options)
    return box.flatten(2)


def squares_of(sums: Tensor) -> Tensor:
    """Σ S² over samples and positions, of shape (groups,), in float64."""
    parts = (_square(part).sum(2).double().sum(0) for part in sums.split(_samples_a_piece(sums)))
    return torch.stack(list(parts)).sum(0)


def _is_pointwise(seen: Contraction) -> bool:
    """Whether every patch is one input position, and every position one patch."""
    if seen.options is None:
        return True
    stride, padding, *_ = seen.options
    return all(n == 1 for n in (*seen.weight.shape[2:], *stride)) and not any(padding)


def patch_energy(seen: Contraction) -> Tensor:
    """Σ ‖x_p‖² over all patches, of shape (groups,), in float64.

    Each input position counts as often as it lies under a kernel, so one map of these counts stands for all patches.
    """
    x = seen.x.flatten(2) if seen.options is not None else seen.x[:, :, None]
    uses = _uses(seen).to(_precise(x[:0]))
    total = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for part in x.split(_samples_a_piece(x)):
        total += (_square(_precise(part)) @ uses).sum(0)
    return total.unflatten(0, (seen.groups, -1)).sum(1)


def _uses(seen: Contraction) -> Tensor:
    """In how many patches each input position lies, of shape (positions,)."""
    if seen.options is None or _is_pointwise(seen):
        return torch.ones(1 if seen.options is None else seen.x[0, 0].numel(), device=seen.x.device)
    *geometry, _ = seen.options
    x, y, kernel = (
        torch.ones(1, 1, *t.shape[2:], dtype=torch.float32, device=t.device) for t in (seen.x, seen.output, seen.weight)
    )
    # The adjoint of a convolution with ones, applied to ones, counts them.
    counts: Tensor = CONVOLUTION_BACKWARD(y, x, kernel, None, *geometry, 1, [True, False, False])[0]
    return counts.flatten()


def residual_squares(seen: Contraction, factors: Tensor | None = None, sums: Tensor | None = None) -> Tensor:
    """Σ (y - b - f·S)² over samples and positions, of shape (channels,), in float64.

    Args:
        seen: the call; y is its output and b its bias.
        factors: f of each channel, of shape (groups, channels per group); None leaves the term out.
        sums: S, as `patch_sums` gives it.
    """
    total = _zeros(seen)
    for samples, part, y in _pieces(seen):
        if factors is not None and sums is not None:
            y = torch.addcmul(y, factors[:, :, None].to(y.dtype), sums[samples, :, None, part], value=-1)
        total += _square(y).sum((0, 3))
    return total.flatten()


def response_sums(seen: Contraction) -> tuple[Tensor, float]:
    """Σ (y - b) over samples and positions, of shape (channels,), in float64, and how many terms a sum has."""
    total, terms = _zeros(seen), 0
    for _, _, y in _pieces(seen):
        total += y.sum((0, 3))
        terms += y.shape[0] * y.shape[3]
    return total.flatten(), float(terms)


def _zeros(seen: Contraction) -> Tensor:
    channels = seen.output.shape[1]
    return torch.zeros(seen.groups, channels // seen.groups, dtype=torch.float64, device=seen.output.device)


def _pieces(seen: Contraction) -> Iterator[tuple[slice, slice, Tensor]]:
    """The response without bias, of shape (samples, groups, channels per group, positions), and both ranges."""
    y = seen.output if seen.options is not None else seen.output.t()[None]
    y = y.unflatten(1, (seen.groups, -1)).flatten(3)
    bias = None if seen.bias is None else _precise(seen.bias).view(*y.shape[1:3], 1)
    rows, columns = _samples_a_piece(y), max(1, _PIECE // seen.output.shape[1])
    for i, j in itertools.product(range(0, y.shape[0], rows), range(0, y.shape[3], columns)):
        samples, part = slice(i, i + rows), slice(j, j + columns)
        piece = _precise(y[samples, :, :, part])
        yield samples, part, piece if bias is None else piece - bias


def _samples_a_piece(t: Tensor) -> int:
    return max(1, _PIECE // max(1, t[0].numel()))


def _square(t: Tensor) -> Tensor:
    return t * t  # several times as fast as t.square()


def _precise(t: Tensor) -> Tensor:
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t
