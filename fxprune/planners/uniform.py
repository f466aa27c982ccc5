"""One pruning ratio for all groups, or one for each name pattern."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torch import Tensor

from fxprune.analysis.groups import Groups
from fxprune.errors import check_kind, check_number
from fxprune.plan.plan import Plan
from fxprune.planners.allocation.choose import keep_best
from fxprune.planners.allocation.constraints import (
    UNCONSTRAINED,
    Constraints,
    check_constraints,
    check_patterns,
    first_fit,
)
from fxprune.scorers.base import check_scores


@dataclass(frozen=True)
class Uniform:
    """Remove the same part of every group: its ⌊pruning_ratio · channels⌋ channels of smallest score.

    Attributes:
        pruning_ratio: part of the channels to remove, in [0, 1).
        constraints: which widths are allowed.

    Raises:
        InputError: pruning ratio out of range, or unusable scores.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(*[torch.nn.Linear(20, 20) for _ in range(3)])
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 20)))
    >>> scores = fxprune.scorers.L2Norm()(net, groups)
    >>> fxprune.planners.Uniform(0.5)(groups, scores).kept_counts()
    {'0': 10, '1': 10}
    >>> eights = fxprune.planners.Constraints(round_to=8)
    >>> fxprune.planners.Uniform(0.5, eights)(groups, scores).kept_counts()
    {'0': 16, '1': 16}
    """

    pruning_ratio: float = 0.5
    constraints: Constraints = UNCONSTRAINED

    def __post_init__(self) -> None:
        check_pruning_ratio(self.pruning_ratio)
        check_constraints(self.constraints)

    def __call__(self, groups: Groups, scores: Mapping[str, Tensor]) -> Plan:
        check_scores(scores, groups)
        counts = {g.name: remaining(g.size, self.pruning_ratio) for g in groups}
        return keep_best(groups, scores, counts, self.constraints)


@dataclass(frozen=True)
class PerGroup:
    """Remove a given part of the groups that a name or pattern stands for.

    Attributes:
        pruning_ratios: {name or shell pattern of groups or of modules that make their channels: pruning ratio in
            [0, 1)}; of several that fit a group the first one counts.
        default: pruning ratio of all other groups.
        constraints: which widths are allowed.

    Raises:
        InputError: a ratio out of range, a pattern that fits no group, or unusable scores.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(*[torch.nn.Linear(20, 20) for _ in range(4)])
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 20)))
    >>> planner = fxprune.planners.PerGroup({"0": 0.75, "[01]": 0.5})
    >>> planner(groups, fxprune.scorers.L2Norm()(net, groups)).kept_counts()
    {'0': 5, '1': 10, '2': 20}
    """

    pruning_ratios: Mapping[str, float]
    default: float = 0.0
    constraints: Constraints = UNCONSTRAINED

    def __post_init__(self) -> None:
        check_kind("pruning_ratios", self.pruning_ratios, Mapping, "give {name or pattern: pruning ratio}")
        check_constraints(self.constraints)
        for pruning_ratio in (*self.pruning_ratios.values(), self.default):
            check_pruning_ratio(pruning_ratio)

    def __call__(self, groups: Groups, scores: Mapping[str, Tensor]) -> Plan:
        check_scores(scores, groups)
        check_patterns(self.pruning_ratios, groups)
        counts = {g.name: remaining(g.size, first_fit(self.pruning_ratios, g, self.default)) for g in groups}
        return keep_best(groups, scores, counts, self.constraints)


def remaining(size: int, pruning_ratio: float) -> int:
    """Channels that stay of `size` when ⌊ratio · size⌋ go, at least one.

    >>> remaining(100, 0.29)  # 0.29 of 100 are 29, not 28.999999999999996
    71
    """
    return max(1, size - int(pruning_ratio * size + 1e-9))


def check_pruning_ratio(pruning_ratio: Any) -> None:
    """Refuse a pruning ratio outside [0, 1).

    Raises:
        InputError: it is, with what was probably meant where it looks like per cent.
    """
    number: Any = pruning_ratio if isinstance(pruning_ratio, Real) else 0
    percent = 2 <= number < 100
    remedy = f"give {pruning_ratio / 100:g} for {pruning_ratio:g} %" if percent else "0.5 removes half"
    check_number("the pruning ratio", pruning_ratio, "[0, 1)", remedy)
