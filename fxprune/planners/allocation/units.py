"""Units: what an allocation can decide by itself, a group or a set of tied groups, and its allowed widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import lcm

import numpy as np

from fxprune.analysis.grouping.components import Group
from fxprune.analysis.grouping.steps import Steps
from fxprune.plan.plan import Ints


@dataclass(frozen=True, eq=False)
class Unit:
    """Groups that shrink together; most often one group.

    Its width is a number of parts: a lone group of 64 channels has 64 parts of one channel, two tied groups of 64 and
    96 channels have 32 parts of 2 and 3 channels.

    Attributes:
        names: its groups.
        parts: parts of the full width.
        allowed: widths that it may have, in parts, ascending; the last one is `parts`.
        kept: channels of each group at each width, of shape (groups, parts + 1); 0 where the width is not possible.
    """

    names: tuple[str, ...]
    parts: int
    allowed: Ints
    kept: Ints

    @classmethod
    def of(cls, members: Sequence[Group], steps: Steps, least: Sequence[int], round_to: int) -> Unit:
        """
        Args:
            members: groups that are tied to one another, or one group.
            steps: how they shrink together.
            least: channels that each must keep.
            round_to: kept counts are multiples of this, and of what a group asks for, or full.
        """
        possible, kept = np.array(steps.parts(), dtype=np.int64), steps.table([g.name for g in members])
        # A balanced group may lose all channels at a small width: others of its tensors stay.
        enough = (kept >= np.minimum(least, kept[:, -1])[:, None]) | (kept == 0)
        multiples = np.array([lcm(round_to, g.multiple) for g in members])[:, None]
        fits = (enough & (kept % multiples == 0)).all(0)[possible]
        fits[-1] = True
        return cls(tuple(g.name for g in members), steps.step, possible[fits], kept)

    def counts(self, parts: int) -> dict[str, int]:
        """Channels that stay of each group at a width."""
        return dict(zip(self.names, self.kept[:, int(parts)].tolist(), strict=True))

    def raised(self, wished: Mapping[str, int]) -> int:
        """The smallest allowed width, in parts, that is not below the wished counts of its groups.

        Groups that shrink together wish for the part that they wish to keep of all their channels, rounded.
        """
        full = self.kept[:, -1]
        wishes = [wished.get(name, size) for name, size in zip(self.names, full.tolist(), strict=True)]
        wish = round(sum(wishes) / int(full.sum()) * self.parts)
        return int(self.allowed[np.searchsorted(self.allowed, min(wish, self.parts))])
