"""Scores from how much a channel's weights differ from those of the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.analysis.fit import check_groups
from fxprune.analysis.grouping.components import Group
from fxprune.analysis.groups import Groups
from fxprune.plan.plan import Slot
from fxprune.scorers.base import Scores, along, makers


@dataclass(frozen=True)
class GeometricMedian:
    """Σ_j ‖w_i - w_j‖ over a group's channels (He et al., Filter Pruning via Geometric Median, CVPR 2019).

    Channels near the geometric median of all have the smallest sum: the others can stand in for them. A channel's
    vector w_i holds the weights of all producers of the group; where no layer makes it, all its parameters.

    Memory: channels² + channels · weights in float64.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(3, 1))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[0., 0.], [3., 4.], [6., 8.]]))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 2)))
    >>> fxprune.scorers.GeometricMedian()(net, groups)
    {'0': tensor([15., 10., 15.], dtype=torch.float64)}
    """

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        tensors = check_groups(groups, model)
        return {g.name: _distances(g, tensors) for g in groups}


def _distances(group: Group, tensors: Mapping[str, Tensor]) -> Tensor:
    vectors = torch.cat([_vectors(tensors[s.tensor], s, group.size) for s in makers(group, tensors)], 1)
    return torch.cdist(vectors, vectors).sum(1)


def _vectors(tensor: Tensor, slot: Slot, channels: int) -> Tensor:
    """The elements that a slot's channels own, of shape (channels, elements): all own equally many positions."""
    positions = slot.positions[np.argsort(slot.channels, kind="stable")]
    rows = along(tensor, slot)
    return rows[torch.from_numpy(positions).to(rows.device)].reshape(channels, -1).double()
