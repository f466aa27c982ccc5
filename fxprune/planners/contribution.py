"""Widths by cumulative contribution: one global number gives every group its own width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fxprune.errors import InputError
from fxprune.groups import Groups
from fxprune.plan import Plan
from fxprune.planners.uniform import keep_best
from fxprune.scorers.base import check_scores, share


@dataclass(frozen=True)
class CumulativeContribution:
    """Keep each group's channels of largest score until their shares of the group's total reach the rate.

    A channel's contribution is P_i = D_i / Σ_j D_j. Groups whose importance sits in few channels become narrow, those
    where it is spread stay wide. Kept sets are nested: a smaller rate keeps a part of what a larger one keeps.
    Source: Huang (master's thesis, USTB 2023).

    Attributes:
        rate: the cumulative contribution rate in (0, 1].

    Raises:
        InputError: rate out of range, or unusable or negative scores.
    """

    rate: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise InputError("contribution rate out of range", seen=str(self.rate), remedy="give a number in (0, 1]")

    def __call__(self, groups: Groups, scores: Mapping[str, Tensor]) -> Plan:
        check_scores(scores, groups)
        return keep_best(groups, scores, {g.name: self._count(g.name, scores[g.name]) for g in groups})

    def _count(self, name: str, scores: Tensor) -> int:
        if (scores < 0).any():
            raise InputError(
                "contributions need scores of at least zero", where=name, seen=f"{float(scores.min()):.3g}"
            )
        falling = np.sort(share(scores.detach().double()).cpu().numpy())[::-1]
        # The tolerance absorbs the rounding of the cumulative sum; the last channel is reached at rate 1 at the latest.
        return min(len(falling), int(np.searchsorted(np.cumsum(falling), self.rate - 1e-12)) + 1)
