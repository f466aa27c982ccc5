"""Widths by cumulative contribution: one global number gives every group its own width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fxprune.analysis.groups import Groups
from fxprune.errors import InputError, check_number
from fxprune.plan.plan import Plan
from fxprune.planners.allocation.choose import as_array, keep_best
from fxprune.planners.allocation.constraints import UNCONSTRAINED, Constraints, check_constraints
from fxprune.scorers.base import check_scores, share


@dataclass(frozen=True)
class CumulativeContribution:
    """Keep each group's channels of largest score until their shares of the group's total reach the rate.

    A channel's contribution is P_i = D_i / Σ_j D_j. Groups whose importance sits in few channels become narrow, those
    where it is spread stay wide. Kept sets are nested: a smaller rate keeps a part of what a larger one keeps.
    Source: Huang (master's thesis, USTB 2023).

    Attributes:
        rate: the cumulative contribution rate in (0, 1].
        constraints: which widths are allowed.

    Raises:
        InputError: rate out of range, or unusable or negative scores.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Linear(4, 1))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 1)))
    >>> planner = fxprune.planners.CumulativeContribution(0.8)
    >>> planner(groups, {"0": torch.tensor([5.0, 1.0, 3.0, 1.0])}).groups["0"].kept
    array([0, 2])
    """

    rate: float = 0.9
    constraints: Constraints = UNCONSTRAINED

    def __post_init__(self) -> None:
        check_number("the contribution rate", self.rate, "(0, 1]", "0.9 is usual")
        check_constraints(self.constraints)

    def __call__(self, groups: Groups, scores: Mapping[str, Tensor]) -> Plan:
        check_scores(scores, groups)
        return keep_best(groups, scores, widths(groups, scores, self.rate), self.constraints)


def widths(groups: Groups, scores: Mapping[str, Tensor], rate: float) -> dict[str, int]:
    """Channels of each group whose contributions reach the rate."""
    return {g.name: _reached(contributions(g.name, scores[g.name]), rate) for g in groups}


def contributions(name: str, scores: Tensor) -> npt.NDArray[np.float64]:
    """Cumulative contribution of the first 1, 2, ... channels of largest score, of shape (channels,).

    Raises:
        InputError: a negative score; `name` says of which group.
    """
    if (scores < 0).any():
        raise InputError("contributions need scores of at least zero", where=name, seen=f"{float(scores.min()):.3g}")
    return np.cumsum(np.sort(as_array(share(scores.detach().double())))[::-1])


def _reached(cumulative: npt.NDArray[np.float64], rate: float) -> int:
    # The tolerance absorbs the rounding of the cumulative sum; the last channel is reached at rate 1 at the latest.
    return min(len(cumulative), int(np.searchsorted(cumulative, rate - 1e-12)) + 1)
