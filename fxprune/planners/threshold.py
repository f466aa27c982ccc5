"""One threshold for all groups: their channels compete."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fxprune.analysis.grouping.components import Group
from fxprune.analysis.groups import Groups
from fxprune.errors import check_called
from fxprune.plan.plan import Plan
from fxprune.planners.allocation.choose import as_array, keep_best
from fxprune.planners.allocation.compete import Normalise, Pool, everyone, relative
from fxprune.planners.allocation.constraints import UNCONSTRAINED, Constraints, check_constraints
from fxprune.planners.uniform import check_pruning_ratio
from fxprune.scorers.base import check_scores


@dataclass(frozen=True)
class GlobalThreshold:
    """Remove the channels of smallest score of the whole model: ⌊pruning_ratio · all channels⌋ of them.

    The scores of each group are put on one scale first. With pools, each pool of groups has its own threshold and loses
    the same part of its channels; `same_pattern` makes the groups that are built alike compete with each other only
    (Isomorphic Pruning, Fang et al., ECCV 2024). At least one channel of each group stays.

    Attributes:
        pruning_ratio: part of all channels to remove, in [0, 1).
        constraints: which widths are allowed.
        normalise: scores of one group to scores on a common scale; default s_i / mean_j |s_j|.
        pool: the key of the pool that a group competes in; default one pool.

    Raises:
        InputError: pruning ratio out of range, or unusable scores.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(*[torch.nn.Linear(4, 4) for _ in range(3)])
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 4)))
    >>> scores = {"0": torch.tensor([1.0, 1, 1, 9]), "1": torch.tensor([2.0, 2, 2, 2])}
    >>> fxprune.planners.GlobalThreshold(0.375)(groups, scores).kept_counts()
    {'0': 1, '1': 4}
    """

    pruning_ratio: float = 0.5
    constraints: Constraints = UNCONSTRAINED
    normalise: Normalise = relative
    pool: Pool = everyone

    def __post_init__(self) -> None:
        check_pruning_ratio(self.pruning_ratio)
        check_constraints(self.constraints)
        check_called("normalise", self.normalise, "give a function of the scores of one group", arguments=1)
        check_called("pool", self.pool, "give a function of a group, such as planners.same_pattern", arguments=1)

    def __call__(self, groups: Groups, scores: Mapping[str, Tensor]) -> Plan:
        check_scores(scores, groups)
        pools: dict[Hashable, list[Group]] = {}
        for g in groups:
            pools.setdefault(self.pool(g), []).append(g)
        counts: dict[str, int] = {}
        for members in pools.values():
            counts |= self._counts(members, scores)
        return keep_best(groups, scores, counts, self.constraints)

    def _counts(self, members: list[Group], scores: Mapping[str, Tensor]) -> dict[str, int]:
        """What stays of each group of a pool."""
        values = np.concatenate([as_array(self.normalise(scores[g.name])) for g in members])
        owner = np.repeat(np.arange(len(members)), [g.size for g in members])
        # Of equals the later ones go, as inside a group.
        rising = np.lexsort((-np.arange(len(values)), values))
        stays = rising[int(self.pruning_ratio * len(values) + 1e-9) :]
        kept = np.bincount(owner[stays], minlength=len(members))
        return {g.name: max(1, int(n)) for g, n in zip(members, kept, strict=True)}
