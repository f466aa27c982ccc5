"""One pruning ratio for all groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fxprune.errors import InputError
from fxprune.groups import Groups
from fxprune.plan import Plan
from fxprune.scorers.base import check_scores


@dataclass(frozen=True)
class Uniform:
    """Remove the same part of every group: its ⌊ratio · channels⌋ channels of smallest score.

    Attributes:
        ratio: pruning ratio in [0, 1).
        round_to: kept counts are raised to a multiple of this, where the group is large enough.

    Raises:
        InputError: ratio or round_to out of range, or unusable scores.
    """

    ratio: float = 0.5
    round_to: int = 1

    def __post_init__(self) -> None:
        check_ratio(self.ratio)
        if self.round_to < 1:
            raise InputError("round_to must be a positive integer", seen=str(self.round_to), remedy="8 or 16 are usual")

    def __call__(self, groups: Groups, scores: Mapping[str, Tensor]) -> Plan:
        return keep_best(groups, scores, {g.name: self._count(g.size) for g in groups})

    def _count(self, size: int) -> int:
        count = max(1, size - int(self.ratio * size))
        return min(size, -(-count // self.round_to) * self.round_to)


def keep_best(groups: Groups, scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> Plan:
    """The plan that keeps the channels of largest score, as many of each group as `counts` says.

    Groups that are tied to one another keep the same part of their channels, the nearest to the mean of what was asked.
    """
    check_scores(scores, groups)
    return groups.plan({name: best(scores[name], count) for name, count in groups.in_step(counts).items()})


def check_ratio(ratio: float) -> None:
    """Refuse a pruning ratio outside [0, 1)."""
    if not 0 <= ratio < 1:
        raise InputError("pruning ratio out of range", seen=str(ratio), remedy="give a number in [0, 1)")


def best(scores: Tensor, count: int) -> npt.NDArray[np.int64]:
    """The `count` channels of largest score, ascending; of equals the first ones."""
    order = np.argsort(-scores.detach().cpu().double().numpy(), kind="stable")
    return np.sort(order[:count])
