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
class Together:
    """Groups that shrink together, and how.

    Attributes:
        members: groups that are tied to one another, or one group.
        steps: how they shrink together.
        least: channels that each must keep.
    """

    members: Sequence[Group]
    steps: Steps
    least: Sequence[int]

    def multiples(self, round_to: int) -> list[int]:
        """What kept counts are multiples of: of this, and of what a group asks for."""
        return [lcm(round_to, g.multiple) for g in self.members]

    def raised(self, wished: Mapping[str, int], round_to: int) -> dict[str, int]:
        """The smallest allowed channels of each group that are not below the wished ones; see `Unit`.

        They wish for the part that they wish to keep of all their channels, rounded. No part is tried that is not
        asked for: that of balanced groups costs a recording of the model.
        """
        wish = sum(wished.get(g.name, g.size) for g in self.members) / sum(g.size for g in self.members)
        part = self.steps.following(round(wish * self.steps.step))
        while part < self.steps.step and not self._allows(counts := self.steps.counts(part) or {}, round_to):
            part = self.steps.following(part + 1)
        return {g.name: g.size for g in self.members} if part == self.steps.step else dict(counts)

    def _allows(self, counts: Mapping[str, int], round_to: int) -> bool:
        kept = [counts[g.name] for g in self.members]
        # A balanced group may lose all channels at a small width: others of its tensors stay.
        enough = all(n >= least or n == 0 for n, least in zip(kept, self.least, strict=True))
        return enough and not any(n % m for n, m in zip(kept, self.multiples(round_to), strict=True))


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
    def of(cls, together: Together, round_to: int) -> Unit:
        """What groups can be.

        Args:
            together: the groups.
            round_to: kept counts are multiples of this, and of what a group asks for, or full.
        """
        steps, names = together.steps, [g.name for g in together.members]
        possible, kept = np.array(steps.parts(), dtype=np.int64), steps.table(names)
        # A balanced group may lose all channels at a small width: others of its tensors stay.
        enough = (kept >= np.minimum(together.least, kept[:, -1])[:, None]) | (kept == 0)
        fits = (enough & (kept % np.array(together.multiples(round_to))[:, None] == 0)).all(0)[possible]
        fits[-1] = True
        return cls(tuple(names), steps.step, possible[fits], kept)

    def counts(self, parts: int) -> dict[str, int]:
        """Channels that stay of each group at a width."""
        return dict(zip(self.names, self.kept[:, int(parts)].tolist(), strict=True))

    def raised(self, wished: Mapping[str, int]) -> int:
        """As `Together.raised`, in parts, of widths that are known already."""
        full = self.kept[:, -1]
        wishes = [wished.get(name, size) for name, size in zip(self.names, full.tolist(), strict=True)]
        wish = round(sum(wishes) / int(full.sum()) * self.parts)
        return int(self.allowed[np.searchsorted(self.allowed, min(wish, self.parts))])
