"""Steps: the widths half-way to a goal, so that the last of several cuts ends where a single one would."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from torch import Tensor

from fxprune.analysis.groups import Groups
from fxprune.plan.plan import Plan
from fxprune.planners.allocation.choose import keep_best
from fxprune.planners.allocation.constraints import UNCONSTRAINED, Constraints
from fxprune.planners.budget import UNUSED, Planner


@dataclass(frozen=True)
class Widths:
    """Keep given numbers of channels.

    Attributes:
        counts: {group: channels}; other groups stay whole.
        constraints: which widths are allowed.
    """

    counts: Mapping[str, int]
    constraints: Constraints = UNCONSTRAINED

    def __call__(self, groups: Groups, scores: Mapping[str, Tensor]) -> Plan:
        return keep_best(groups, scores, self.counts, self.constraints)


@dataclass(frozen=True)
class Towards:
    """Go a part of the way from the original's widths to those that a planner asks for.

    Where a group of W channels is to keep w of them in the end, W · (w/W)^part of them stay, raised to what is allowed.
    No step cuts below what the planner asks for at the end, and none builds on the rounding of the one before.

    Attributes:
        planner: what reaches the goal.
        part: of the way, in (0, 1]; at 1 the planner's own plan is taken.
        sizes: the original's widths, {group: channels}.
        constraints: which widths are allowed.

    >>> import torch, fxprune
    >>> from fxprune.planners import Uniform
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Linear(64, 4))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 4)))
    >>> scores = fxprune.scorers.L2Norm()(net, groups)
    >>> [Towards(Uniform(0.75), part, {"0": 64})(groups, scores).kept_counts()["0"] for part in (0.25, 0.5, 1.0)]
    [46, 32, 16]
    """

    planner: Planner
    part: float
    sizes: Mapping[str, int]
    constraints: Constraints = UNCONSTRAINED

    def __call__(self, groups: Groups, scores: Mapping[str, Tensor]) -> Plan:
        if self.part >= 1:
            return self.planner(groups, scores)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", UNUSED)  # a later step may use it, and the last one tells
            ends = self.planner(groups, scores).kept_counts()
        return keep_best(
            groups, scores, {g.name: self._width(g.name, g.size, ends[g.name]) for g in groups}, self.constraints
        )

    def _width(self, name: str, size: int, end: int) -> int:
        whole = self.sizes.get(name, size)
        # The tolerance absorbs the rounding of the power: 64 · (1/4)^(1/2) are 32 channels, not 33.
        return min(size, max(1, ceil(whole * (end / whole) ** self.part - 1e-9)))
