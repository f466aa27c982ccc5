"""Scores from the scales of batch norms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fxprune.analysis.fit import check_groups
from fxprune.analysis.groups import Groups
from fxprune.scorers.base import Scores, UnscorableError, per_channel
from fxprune.scorers.wiring import norms


@dataclass(frozen=True)
class BatchNormScale:
    """Mean |γ| of the batch norms of a channel (Liu et al., Learning Efficient Convolutional Networks through Network
    Slimming, ICCV 2017).

    Which tensors are scales of batch norms is read from the recorded graph, so that it does not matter how the model
    calls them.

    Raises:
        InputError: a group that no batch norm with scales normalises; `Fallback` leaves those to another scorer.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2), torch.nn.Conv2d(2, 1, 1))
    >>> _ = net[1].weight.data.copy_(torch.tensor([-0.5, 0.25]))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 1, 4, 4)))
    >>> fxprune.scorers.BatchNormScale()(net, groups)
    {'0': tensor([0.5000, 0.2500], dtype=torch.float64)}
    """

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        tensors = check_groups(groups, model)
        scales = {norm.scale for norm in norms(groups.graph).values()}
        found = {g.name: [s for s in g.slots if s.tensor in scales] for g in groups}
        without = [name for name, slots in found.items() if not slots]
        if without:
            raise UnscorableError("no batch norm scales these channels", without)
        return {
            g.name: torch.stack([per_channel(tensors[s.tensor].detach().abs(), s, g.size) for s in found[g.name]]).mean(
                0
            )
            for g in groups
        }
