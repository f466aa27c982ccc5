"""Units: what an allocation can decide by itself, a group or a set of tied groups, and its allowed widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import lcm

import numpy as np
import numpy.typing as npt

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

    def allows(self, kept: Ints, round_to: int) -> npt.NDArray[np.bool_]:
        """Which widths are allowed: multiples of `round_to`, and of what a group asks for, that keep enough.

        Args:
            kept: channels of each group at each width, of shape (groups, widths).
            round_to: see above.
        """
        multiples = np.array([lcm(round_to, g.multiple) for g in self.members])[:, None]
        # A balanced group may lose all channels at a small width: others of its tensors stay.
        enough = (kept >= np.array(self.least)[:, None]) | (kept == 0)
        return (enough & (kept % multiples == 0)).all(0)  # type: ignore[no-any-return]

    def raised(self, wished: Mapping[str, int], round_to: int) -> dict[str, int]:
        """The smallest allowed channels of each group that are not below the wished ones; see `Unit`.

        They wish for the part that they wish to keep of all their channels, rounded. No part is tried that is not
        asked for: that of balanced groups costs a recording of the model.
        """
        whole = {g.name: g.size for g in self.members}
        part = self.steps.following(wished_part(wished, whole, self.steps.step))
        while part < self.steps.step:
            counts = self.steps.counts(part) or {}
            if self.allows(np.array([[counts[name]] for name in whole]), round_to)[0]:
                return dict(counts)
            part = self.steps.following(part + 1)
        return whole


def wished_part(wished: Mapping[str, int], sizes: Mapping[str, int], parts: int) -> int:
    """How many of the parts groups wish to keep together; one without a wish wishes for all of its channels."""
    return round(sum(wished.get(name, size) for name, size in sizes.items()) / sum(sizes.values()) * parts)


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
        fits = together.allows(kept, round_to)[possible]
        fits[-1] = True
        return cls(tuple(names), steps.step, possible[fits], kept)

    def counts(self, parts: int) -> dict[str, int]:
        """Channels that stay of each group at a width."""
        return dict(zip(self.names, self.kept[:, int(parts)].tolist(), strict=True))

    def raised(self, wished: Mapping[str, int]) -> int:
        """As `Together.raised`, in parts, of widths that are known already."""
        wish = wished_part(wished, self.counts(self.parts), self.parts)
        return int(self.allowed[np.searchsorted(self.allowed, min(wish, self.parts))])
