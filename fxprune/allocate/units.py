"""Units: what an allocation can decide by itself, a group or a set of tied groups, and its allowed widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np

from fxprune.analysis import Group
from fxprune.plan import Ints


@dataclass(frozen=True, eq=False)
class Unit:
    """Groups that keep the same part of their channels; most often one group.

    Its width is a number of parts: a lone group of 64 channels has 64 parts of one channel, two tied groups of 64 and
    96 channels have 32 parts of 2 and 3 channels.

    Attributes:
        names: its groups.
        channels: channels of each group in one part, of shape (groups,).
        parts: parts of the full width.
        allowed: widths that it may have, in parts, ascending; the last one is `parts`.
    """

    names: tuple[str, ...]
    channels: tuple[int, ...]
    parts: int
    allowed: Ints

    @classmethod
    def of(cls, members: Sequence[Group], least: Sequence[int], round_to: int) -> Unit:
        """
        Args:
            members: groups that are tied to one another, or one group.
            least: channels that each must keep.
            round_to: kept counts are multiples of this, or full.
        """
        parts = gcd(*(g.size for g in members))
        channels = [g.size // parts for g in members]
        widths = np.arange(1, parts + 1)
        fits = np.ones(parts, dtype=bool)
        for each, at_least in zip(channels, least, strict=True):
            fits &= (widths * each >= at_least) & (widths * each % round_to == 0)
        fits[-1] = True
        return cls(tuple(g.name for g in members), tuple(channels), parts, widths[fits])

    def counts(self, parts: int) -> dict[str, int]:
        """Channels that stay of each group at a width."""
        return {name: int(parts) * each for name, each in zip(self.names, self.channels, strict=True)}

    def raised(self, wished: Mapping[str, int]) -> int:
        """The smallest allowed width, in parts, that is not below the wished counts of its groups.

        Tied groups wish for the mean of their parts, rounded.
        """
        if len(self.names) == 1:
            wish = wished.get(self.names[0], self.parts)
        else:
            wishes = zip(self.names, self.channels, strict=True)
            wish = round(sum(wished.get(name, each * self.parts) / each for name, each in wishes) / len(self.names))
        return int(self.allowed[np.searchsorted(self.allowed, min(wish, self.parts))])
