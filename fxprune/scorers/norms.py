"""Scores from the size of weights alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.analysis.fit import check_groups
from fxprune.analysis.grouping.components import Group
from fxprune.analysis.groups import Groups
from fxprune.scorers.base import Scores, along, makers, per_channel


@dataclass(frozen=True)
class L1Norm:
    """Σ|w| over the weights that make the channel (Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017).

    Several producers' weights count together; where no layer makes the channel, all its parameters do.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(3, 1))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1., -2.], [0., 1.], [3., 0.]]))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 2)))
    >>> fxprune.scorers.L1Norm()(net, groups)
    {'0': tensor([3., 1., 3.], dtype=torch.float64)}
    """

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        tensors = check_groups(groups, model)
        return {g.name: _power_sums(g, tensors, 1) for g in groups}


@dataclass(frozen=True)
class L2Norm:
    """√Σw² over the weights that make the channel (He et al., Soft Filter Pruning, IJCAI 2018).

    Several producers' weights count together; where no layer makes the channel, all its parameters do.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 1))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[3., -4.], [0., 1.]]))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 2)))
    >>> fxprune.scorers.L2Norm()(net, groups)
    {'0': tensor([5., 1.], dtype=torch.float64)}
    """

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        tensors = check_groups(groups, model)
        return {g.name: _power_sums(g, tensors, 2).sqrt() for g in groups}


@dataclass(frozen=True)
class LAMP:
    """Layer-adaptive magnitude (Lee et al., ICLR 2021): ‖w_i‖² / Σ_{j: ‖w_j‖ ≥ ‖w_i‖} ‖w_j‖² over a group's channels.

    The channel's part of what is left when all smaller ones are removed: comparable between groups, so that one global
    threshold gives every group its own width. The largest channel of each group scores 1; channels of equal norm score
    the same; a group of zeros scores 0 throughout.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 4, bias=False), torch.nn.Linear(4, 1))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.], [2.], [1.], [0.]]))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 1)))
    >>> fxprune.scorers.LAMP()(net, groups)
    {'0': tensor([0.1667, 1.0000, 0.1667, 0.0000], dtype=torch.float64)}
    """

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        tensors = check_groups(groups, model)
        return {g.name: _part_of_larger(_power_sums(g, tensors, 2)) for g in groups}


def _part_of_larger(squares: Tensor) -> Tensor:
    """Each value over the sum of all values at least as large; 0 for zeros."""
    rising, _ = squares.sort()
    sums = rising.flip(0).cumsum(0).flip(0)
    at_least = sums[torch.searchsorted(rising, squares).clamp_max(len(sums) - 1)]  # beyond the end for NaN
    return torch.where(squares == 0, torch.zeros_like(squares), squares / at_least)


def _power_sums(group: Group, tensors: Mapping[str, Tensor], power: int) -> Tensor:
    """Σ|w|ᵖ over the weights that make each channel, of shape (channels,)."""
    # Norms are many times as fast as sums of powers.
    slots = makers(group, tensors)
    parts = [(s, torch.linalg.vector_norm(along(tensors[s.tensor], s), power, dim=1).double()) for s in slots]
    return torch.stack([per_channel(norms**power, s, group.size) for s, norms in parts]).sum(0)
