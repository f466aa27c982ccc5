"""Signals: statistics and biases that suit what a layer makes, so that every channel of it can be told apart."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fxprune.verification.compare import is_narrow


def statistics(x: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """A mean and a variance for each channel of a batch of maps: its own, but for random factors.

    Args:
        x: the maps, with channels in their second dim.
        first: random numbers in [0, 1), one for each channel: where the mean lies within a deviation.
        second: the same for the variance.
    """
    middle, power = torch.stack(_moments(x, 1)).to("cpu", torch.float64).numpy()
    few, spread, precision = x.numel() <= _FEW * len(power), power - middle * middle, torch.finfo(x.dtype)
    # What hardly varies (one position does not at all) is not divided by that: layer by layer, rounding would grow.
    if few:
        spread = np.maximum(spread, _typical(power, precision.tiny))
    elif (spread <= (floor := 1e-6 * power)).any():
        floor[spread <= max(precision.eps, _LEAST) * power] = _typical(power, precision.tiny)
        spread = np.maximum(spread, floor)
    spread *= second.numpy() + 0.5
    mean = np.sqrt(spread) * (first.numpy() - 0.5)
    if not few:
        mean += middle
    return torch.from_numpy(mean).to(x), torch.from_numpy(spread).to(x)


def _typical(power: npt.NDArray[np.float64], least: float) -> float:
    """The mean of what is not zero."""
    return max(float(power.sum()) / max(np.count_nonzero(power > 0), 1), least)


_LEAST = 1e-10  # a part of the mean square: what varies less may come out as 1e5 times its rounding
_FEW = 4  # positions of a channel: these are often close by chance, and their difference magnifies rounding


def live_bias(out: Tensor, channel: int, factor: Tensor) -> Tensor:
    """What makes each channel's mean a multiple of its standard deviation, or of what is typical, if it hardly varies.

    To take the mean from what hardly varies would magnify rounding, and layer by layer: tokens that attend to each
    other alike are nearly equal.
    """
    mean, power = _moments(out, channel)
    variance = (power - mean**2).clamp_min(0)
    typical = power.sum() / (power > 0).sum()
    typical = torch.where(typical > 0, typical, 1)  # nothing but zeros
    return torch.where(variance > _VARIES * typical, variance, typical).sqrt() * factor - mean


_VARIES = 0.05  # a part of the mean square: rounding of what varies more is magnified by less than 5


def _moments(x: Tensor, channel: int) -> tuple[Tensor, Tensor]:
    """The mean and the mean square of each channel; by products, which take less time than reductions."""
    channel, count = channel % x.dim(), x.shape[channel]
    if is_narrow(x) or not x.numel():
        rows = x.movedim(channel, 0).reshape(count, x.numel() // max(count, 1))  # a layer of no channels is legal
        return rows.mean(1), rows.square().mean(1)
    before, after = x.shape[:channel].numel(), x.shape[channel + 1 :].numel()
    parts = x.reshape(before * count, after) if after > 1 else x.reshape(before, count).t()
    each = x.new_full((parts.shape[1],), count / x.numel())
    first, second = parts.mv(each), parts.square().mv(each)
    if len(first) == count:
        return first, second
    return first.view(before, count).sum(0), second.view(before, count).sum(0)
