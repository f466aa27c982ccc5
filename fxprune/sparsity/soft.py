"""Soft pruning: channels are set to zero and trained on, so that what was wrongly chosen can come back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxprune import planners, scorers
from fxprune.analysis.fit import check_are_groups, check_groups, check_plan_of
from fxprune.analysis.groups import Groups
from fxprune.errors import InputError
from fxprune.module.parametrizations import directions
from fxprune.plan.plan import Plan
from fxprune.planners.budget import Planner
from fxprune.planners.goals import check_callable
from fxprune.scorers.base import Scorer
from fxprune.scorers.norms import L2Norm
from fxprune.sparsity.penalties import removed


@dataclass(eq=False)
class SoftPruning:
    """After each epoch, set the channels to zero that a planner would remove; they go on training.

    What makes the channels (weights and biases, and the scales and shifts behind them) becomes zero, so that, where
    activations keep zero, the network computes what the pruned one will; what reads them stays. A channel whose weights
    grow back may be kept by the next call. Prune by `plan` after the last one: then nothing changes but the size.
    Source: He et al., Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks, IJCAI 2018; there a
    filter alone becomes zero, here all that makes a channel, also where several layers share it.

    Attributes:
        groups: of the model.
        planner: how many channels stay, such as `planners.Uniform(0.5)` or `planners.Budget(0.5)`.
        scorer: which; the paper's is the L2 norm.
        plan: what stays after the last call; None before it.

    Raises:
        InputError: no group, or a planner or scorer that is none.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 3)))
    >>> soft = fxprune.sparsity.SoftPruning(groups, fxprune.planners.Uniform(0.5))
    >>> plan = soft(net)  # at the end of each epoch
    >>> int((net[0].weight.detach().abs().sum(1) == 0).sum())
    4
    """

    groups: Groups
    planner: Planner
    scorer: Scorer = field(default_factory=L2Norm)
    plan: Plan | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        check_are_groups(self.groups)
        check_callable("planner", self.planner, planners, "fxprune.planners.Uniform(0.5)")
        check_callable("scorer", self.scorer, scorers, "fxprune.scorers.L2Norm()")
        if not len(self.groups):
            raise InputError("no group to prune softly", remedy="give groups that can be pruned")

    def __call__(self, model: nn.Module, data: Iterable[Any] | None = None) -> Plan:
        """Choose, and set the others to zero, in place.

        Args:
            model: the model that the groups are of, in training.
            data: batches for the scorer, if it needs them.

        Returns:
            What stays.
        """
        own = check_groups(self.groups, model)
        self.plan = check_plan_of(self.groups, self.planner(self.groups, self.scorer(model, self.groups, data)))
        of_lengths = directions(model)
        with torch.no_grad():
            for g in self.groups:
                gone = removed(g, self.plan)
                makers = [s for s in g.slots if s.role != "consumer"]
                made = {(s.tensor, s.dim) for s in makers}
                for s in makers:
                    has_length = (of_lengths.get(s.tensor), s.dim) in made
                    if not has_length and _makes_zero(s.tensor, own):
                        rows = torch.from_numpy(s.positions[np.isin(s.channels, gone)])
                        own[s.tensor].index_fill_(s.dim, rows.to(own[s.tensor].device), 0)
        return self.plan


def _makes_zero(name: str, own: Mapping[str, Tensor]) -> bool:
    """Parameters, and what a norm without a scale of its own to train subtracts and adds; not what it divides by."""
    if isinstance(own.get(name), nn.Parameter):
        return True
    norm, _, buffer = name.rpartition(".")
    return buffer in ("running_mean", "bias") and not isinstance(own.get(f"{norm}.weight"), nn.Parameter)
