"""Distances between two versions of a layer's feature maps, channel by channel.

Each takes maps of shape (batch, channels, *positions), the original and the changed, and returns one distance a map, of
shape (batch, channels).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_POOLS: dict[int, Callable[..., Any]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_WINDOW = 7


def squared(before: Tensor, after: Tensor) -> Tensor:
    """Σ (before - after)² over the positions."""
    difference = before - after
    return (difference * difference).flatten(2).sum(2)


def cosine(before: Tensor, after: Tensor) -> Tensor:
    """1 - cos of the angle between the maps, in [0, 2]; 0 where both are zero, 1 where one is.

    >>> import torch
    >>> cosine(torch.tensor([[[1., 0.], [1., 1.], [0., 0.]]]), torch.tensor([[[0., 3.], [2., 2.], [0., 0.]]]))
    tensor([[1., 0., 0.]])
    """
    a, b = before.flatten(2), after.flatten(2)
    norms = torch.linalg.vector_norm(a, dim=2), torch.linalg.vector_norm(b, dim=2)
    angles = 1 - (a * b).sum(2) / (norms[0] * norms[1])
    defined = torch.where((norms[0] > 0) & (norms[1] > 0), angles.clamp(0, 2), torch.ones_like(angles))
    return torch.where((norms[0] == 0) & (norms[1] == 0), torch.zeros_like(angles), defined)


def ssim(before: Tensor, after: Tensor) -> Tensor:
    """1 - the mean structural similarity of the maps, in [0, 2] (Wang et al. 2004).

    Windows are uniform, 7 positions along each dim, or the whole dim where it is shorter; the dynamic range is the
    original map's.
    """
    window = [min(_WINDOW, n) for n in before.shape[2:]]

    def local(t: Tensor) -> Tensor:
        return _POOLS[len(window)](t, window, stride=1)

    span = before.flatten(2).amax(2) - before.flatten(2).amin(2)
    span = span.view(*span.shape, *[1] * len(window))
    tiny = torch.finfo(before.dtype).tiny
    c1, c2 = (0.01 * span) ** 2 + tiny, (0.03 * span) ** 2 + tiny
    # Moments about the original map's mean: the same variances, without the cancellation of large means.
    centre = before.flatten(2).mean(2).view_as(span)
    a, b = before - centre, after - centre
    mean_a, mean_b = local(a), local(b)
    var_a, var_b = (local(a * a) - mean_a**2).clamp(min=0), (local(b * b) - mean_b**2).clamp(min=0)
    covariance = local(a * b) - mean_a * mean_b
    mean_a, mean_b = mean_a + centre, mean_b + centre
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return 1 - (luminance * structure).flatten(2).mean(2)
