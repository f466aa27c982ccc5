"""Scores from weights alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.analysis import Group
from fxprune.borrow import tensors_of
from fxprune.groups import Groups
from fxprune.plan import Slot
from fxprune.scorers.base import Scores, per_channel


@dataclass(frozen=True)
class _Norm:
    """A p-norm of the weights that make a channel, over all producers of the group."""

    def _power(self) -> int:
        raise NotImplementedError

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        tensors = tensors_of(model)
        return {g.name: self._score(g, tensors) for g in groups}

    def _score(self, group: Group, tensors: dict[str, Tensor]) -> Tensor:
        sums = [self._sum(tensors[s.tensor], s, group.size) for s in group.producers or group.slots]
        return torch.stack(sums).sum(0) ** (1 / self._power())

    def _sum(self, tensor: Tensor, slot: Slot, size: int) -> Tensor:
        others = [d for d in range(tensor.dim()) if d != slot.dim]
        powers = tensor.detach().abs() if self._power() == 1 else tensor.detach().square()
        return per_channel(powers.sum(others) if others else powers, slot, size)


@dataclass(frozen=True)
class L1Norm(_Norm):
    """Σ|w| over the weights that make the channel (Li et al., Pruning Filters for Efficient ConvNets, 2017).

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(3, 1))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1., -2.], [0., 1.], [3., 0.]]))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 2)))
    >>> fxprune.scorers.L1Norm()(net, groups)
    {'0': tensor([3., 1., 3.], dtype=torch.float64)}
    """

    def _power(self) -> int:
        return 1


@dataclass(frozen=True)
class L2Norm(_Norm):
    """√Σw² over the weights that make the channel (He et al., Soft Filter Pruning, 2018)."""

    def _power(self) -> int:
        return 2


@dataclass(frozen=True)
class Random:
    """Uniform random scores: the baseline that every criterion must beat.

    Attributes:
        seed: of the scores; the global random state is not used.
    """

    seed: int = 0

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        generator = torch.Generator().manual_seed(self.seed)
        return {g.name: torch.rand(g.size, generator=generator, dtype=torch.float64) for g in groups}
