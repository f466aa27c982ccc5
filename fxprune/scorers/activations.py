"""Scores from feature maps: what a group's channels carry while the model runs on data.

Observed is what the next layers read: the maps after norms and activations. Where no layer reads a group's channels
directly (attention's queries and keys), it is what their producers make. A group's score is the mean over the places.
One forward pass serves all groups, in evaluation mode; memory beside it: a few numbers a channel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.analysis.fit import check_groups
from fxprune.analysis.grouping.components import Group
from fxprune.analysis.groups import Groups
from fxprune.errors import check_integer, check_number, check_seed
from fxprune.plan.plan import Slot
from fxprune.scorers.base import Scores, UnscorableError
from fxprune.statistics.observe import Contraction, observe


@dataclass(frozen=True)
class ActivationMean:
    """Mean magnitude of the channel's activations, mean |a| over samples and positions (Molchanov et al., Pruning
    Convolutional Neural Networks for Resource Efficient Inference, ICLR 2017; the magnitude, for activations other than
    ReLU, is a choice of ours).

    Attributes:
        seed: of the standard normal inputs that are used when no data is given.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0], [-2.0]]))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 1)))
    >>> data = [torch.tensor([[3.0], [-1.0]])]
    >>> fxprune.scorers.ActivationMean()(net, groups, data)
    {'0': tensor([1.5000, 1.0000], dtype=torch.float64)}
    """

    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        return _read(model, groups, data, self.seed, lambda: _Mean(lambda maps: maps.abs().flatten(2).mean(2)))


@dataclass(frozen=True)
class APoZ:
    """1 - the average percentage of zeros among the channel's activations (Hu et al., Network Trimming, 2016).

    Attributes:
        threshold: |a| up to which an activation counts as zero; above 0 for activations that are never exactly zero.
        seed: of the standard normal inputs that are used when no data is given.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.ReLU(), torch.nn.Linear(2, 1, bias=False))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0], [-2.0]]))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 1)))
    >>> fxprune.scorers.APoZ()(net, groups, [torch.tensor([[3.0], [-1.0], [2.0], [1.0]])])  # the second sees one image
    {'0': tensor([0.7500, 0.2500], dtype=torch.float64)}
    """

    threshold: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("the threshold", self.threshold, "[0, inf)", "0 counts what is exactly zero")
        check_seed(self.seed)

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        def alive(maps: Tensor) -> Tensor:
            # NaN counts neither as an activation nor as none; it makes the score NaN rather than a number.
            return ((maps.abs() > self.threshold) + maps * 0).flatten(2).mean(2)

        return _read(model, groups, data, self.seed, lambda: _Mean(alive))


@dataclass(frozen=True)
class HRank:
    """Mean rank of the channel's feature maps (Lin et al., HRank, CVPR 2020).

    A map is taken as a matrix of its last position dim against the others. A flattened map, which a linear layer reads,
    is folded into the squarest matrix. Where a linear layer reads single features, the rank is 0 or 1. Singular
    values take time: much more than the forward pass.

    Attributes:
        seed: of the standard normal inputs that are used when no data is given.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1, bias=False), torch.nn.Conv2d(2, 1, 1))
    >>> _ = net[0].weight.data.copy_(torch.tensor([1.0, 0.0]).view(2, 1, 1, 1))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 1, 3, 3)))
    >>> fxprune.scorers.HRank()(net, groups, [torch.eye(3).view(1, 1, 3, 3)])
    {'0': tensor([3., 0.], dtype=torch.float64)}
    """

    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        return _read(model, groups, data, self.seed, lambda: _Mean(_rank))


@dataclass(frozen=True)
class ActivationEntropy:
    """Entropy of the channel's mean activation over samples, in nats (Luo and Wu, Entropy-based Pruning, 2017).

    Every sample's map is averaged to one number; these are counted in bins, and the score is -Σ p log p. Where a linear
    layer reads several tokens of a sample, each of them counts as a sample: it has no map. The bins span the range of
    the first 256 numbers, or all if there are fewer (a choice of ours, so that memory is bounded), however the data is
    batched; what lies beyond counts to the outermost bins.

    Attributes:
        bins: number of bins.
        seed: of the standard normal inputs that are used when no data is given.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.ReLU(), torch.nn.Linear(2, 1, bias=False))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0], [-2.0]]))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 1)))
    >>> fxprune.scorers.ActivationEntropy(bins=4)(net, groups, [torch.tensor([[0.0], [1.0], [2.0], [3.0]])])
    {'0': tensor([1.3863, 0.0000], dtype=torch.float64)}
    """

    bins: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        check_integer("the number of bins", self.bins, 2, "100 is usual")
        check_seed(self.seed)

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        return _read(model, groups, data, self.seed, lambda: _Entropy(self.bins))


class _Statistic(Protocol):
    def add(self, maps: Tensor) -> None:
        """Take in maps of shape (batch, channels, maps per channel, *positions)."""

    def value(self) -> Tensor:
        """One number a channel, of shape (channels,), in float64."""


class _Mean:
    """The mean over samples of a measure that takes maps to numbers of shape (batch, channels)."""

    def __init__(self, measure: Callable[[Tensor], Tensor]) -> None:
        self._measure, self._sum, self._count = measure, torch.zeros(()), 0

    def add(self, maps: Tensor) -> None:
        self._sum = self._measure(maps).sum(0, dtype=torch.float64) + self._sum.to(maps.device)
        self._count += len(maps)

    def value(self) -> Tensor:
        return self._sum / self._count


class _Entropy:
    _ENOUGH = 256  # samples that settle the range

    def __init__(self, bins: int) -> None:
        self._bins = bins
        self._waiting: list[Tensor] = []
        self._range: tuple[Tensor, Tensor] | None = None
        self._counts = torch.zeros(())

    def add(self, maps: Tensor) -> None:
        means = maps.flatten(2).mean(2, dtype=torch.float64)
        if self._range is not None:
            self._count(means, *self._range)
            return
        self._waiting.append(means)
        if sum(map(len, self._waiting)) >= self._ENOUGH:
            self._settle()

    def _settle(self) -> None:
        means = torch.cat(self._waiting)
        first = means[: self._ENOUGH]
        low, high = first.amin(0), first.amax(0)
        self._range, self._waiting = (low, high), []
        self._counts = torch.zeros(means.shape[1], self._bins, dtype=torch.float64, device=means.device)
        self._count(means, low, high)

    def _count(self, means: Tensor, low: Tensor, high: Tensor) -> None:
        width = ((high - low) / self._bins).clamp(min=torch.finfo(torch.float64).tiny)
        place = ((means - low) / width).nan_to_num(0).clamp(0, self._bins - 1).long().T
        self._counts.scatter_add_(1, place, (1 + means * 0).T)

    def value(self) -> Tensor:
        if self._waiting:
            self._settle()
        p = self._counts / self._counts.sum(1, keepdim=True)
        return -torch.special.xlogy(p, p).sum(1)


def _rank(maps: Tensor) -> Tensor:
    """Mean rank over a channel's maps, of shape (batch, channels)."""
    if maps.dim() == 3:
        count = maps.shape[2]
        rows = max(d for d in range(1, math.isqrt(count) + 1) if count % d == 0)
        maps = maps.unflatten(2, (1, rows, count // rows))
    matrices = maps.flatten(3, -2) if maps.dim() > 4 else maps[:, :, :, None]
    if not matrices.isfinite().all():
        return torch.full(maps.shape[:2], torch.nan, device=maps.device)
    return torch.stack([torch.linalg.matrix_rank(m).double().mean(1) for m in matrices])


def _read(
    model: nn.Module, groups: Groups, data: Iterable[Any] | None, seed: int, new: Callable[[], _Statistic]
) -> Scores:
    """The mean over the places where a group's channels are seen of a statistic of their maps."""
    check_groups(groups, model)
    places = {g.name: g.consumers or g.producers for g in groups}
    nowhere = [name for name, slots in places.items() if not slots]
    if nowhere:
        raise UnscorableError("no convolution or linear layer makes or reads these channels", nowhere)
    watched: dict[str, list[tuple[Group, Slot]]] = {}
    for g in groups:
        for slot in places[g.name]:
            watched.setdefault(slot.tensor, []).append((g, slot))
    found: dict[str, dict[Slot, _Statistic]] = {g.name: {} for g in groups}

    def add(seen: Contraction) -> None:
        for g, slot in watched[seen.name]:
            maps = _maps(seen.output if slot.dim == seen.dim else seen.x, slot, g.size)
            found[g.name].setdefault(slot, new()).add(maps)

    observe(model, groups.graph, data, set(watched), add, seed)
    idle = [name for name, statistics in found.items() if not statistics]
    if idle:
        raise UnscorableError("no layer at these channels runs on the data in evaluation mode", idle)
    return {name: torch.stack([s.value() for s in statistics.values()]).mean(0) for name, statistics in found.items()}


def _maps(values: Tensor, slot: Slot, channels: int) -> Tensor:
    """The maps of a slot's channels, of shape (batch, channels, maps per channel, *positions), at least float32."""
    values = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    if values.shape[1] != slot.length:  # a grouped convolution uses an index of its weight several times
        values = values.unflatten(1, (-1, slot.length) if slot.dim else (slot.length, -1))
        values = values.movedim(2, 1) if slot.dim else values
    else:
        values = values[:, :, None]
    order = slot.positions[np.argsort(slot.channels, kind="stable")]
    if len(order) != slot.length or (np.diff(order) != 1).any():
        values = values[:, torch.from_numpy(order).to(values.device)]
    return values.unflatten(1, (channels, -1)).flatten(2, 3)
