"""From widths to a plan: the channels of largest score stay."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fxprune.analysis.groups import Groups
from fxprune.plan.plan import Plan
from fxprune.planners.allocation.constraints import UNCONSTRAINED, Constraints, check_constraints
from fxprune.scorers.base import check_scores


def keep_best(
    groups: Groups, scores: Mapping[str, Tensor], counts: Mapping[str, int], constraints: Constraints = UNCONSTRAINED
) -> Plan:
    """The plan that keeps the channels of largest score, as many of each group as `counts` says.

    Args:
        groups: the groups to plan.
        scores: of each group, of shape (channels,); of equals the first ones stay.
        counts: channels that should stay, {group: channels}; groups that are not named stay whole.
        constraints: which widths are allowed; the wished counts are raised to them.

    Raises:
        InputError: unusable scores, or a pattern of the constraints that fits no group.
    """
    check_scores(scores, groups)
    check_constraints(constraints)
    widths = constraints.fit(groups, counts)
    return groups.plan({name: best(scores[name], count) for name, count in widths.items()})


def best(scores: Tensor, count: int) -> npt.NDArray[np.int64]:
    """The `count` channels of largest score, ascending; of equals the first ones."""
    order = np.argsort(-as_array(scores), kind="stable")
    return np.sort(order[:count])


def as_array(scores: Tensor) -> npt.NDArray[np.float64]:
    """Scores as float64, of shape (channels,)."""
    return np.asarray(scores.detach().cpu().double().numpy())
