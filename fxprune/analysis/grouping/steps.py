"""Steps: how groups that are tied to one another can shrink together, one number for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fxprune.plan.plan import Ints


class Steps(Protocol):
    """The widths that tied groups can have together.

    Attributes:
        names: the groups.
        step: into how many equal parts all of them can be cut; `step` parts are everything.
    """

    names: frozenset[str]
    step: int

    def counts(self, part: int) -> Mapping[str, int] | None:
        """Channels of each group when `part` of `step` stay; None if that is not possible."""

    def nearest(self, part: int) -> int:
        """The possible part next to the given one."""

    def following(self, part: int) -> int:
        """The smallest possible part that is not below the given one; `step` for all above."""

    def parts(self) -> list[int]:
        """Parts that are possible."""

    def table(self, names: Sequence[str]) -> Ints:
        """Channels of the named groups at each part, of shape (groups, step + 1); 0 where the part is not possible."""

    def part_of(self, counts: Mapping[str, int]) -> int | None:
        """Which part has these counts; None if there is none."""


class Balanced(Steps, Protocol):
    """Groups of which the code keeps equally many channels by position (see `fxprune.analysis.grouping.balance`)."""

    def orders(self, kept: Mapping[str, npt.ArrayLike]) -> dict[tuple[str, int], Ints]:
        """The indices that each dim keeps of the balanced channels and all others, in the smaller model's order."""


class Ratio:
    """Groups that keep the same part of their channels; see `Steps`.

    Args:
        sizes: channels of each group, by name.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.names = frozenset(sizes)
        self._sizes = sizes
        self.step = gcd(*sizes.values())

    def counts(self, part: int) -> Mapping[str, int]:
        return {name: size // self.step * part for name, size in self._sizes.items()}

    def nearest(self, part: int) -> int:
        return max(1, min(self.step, part))

    def following(self, part: int) -> int:
        return self.nearest(part)

    def parts(self) -> list[int]:
        return list(range(1, self.step + 1))

    def table(self, names: Sequence[str]) -> Ints:
        return np.outer([self._sizes[name] // self.step for name in names], np.arange(self.step + 1))

    def part_of(self, counts: Mapping[str, int]) -> int | None:
        parts = {counts[name] * self.step / size for name, size in self._sizes.items()}
        return int(parts.pop()) if len(parts) == 1 and min(parts).is_integer() else None


class Limited:
    """Steps without the widths that the model's code would take for others; see `Steps`.

    Args:
        steps: how the groups shrink together.
        refused: {group: counts that it cannot have}; all of its channels are never among them.
    """

    def __init__(self, steps: Steps, refused: Mapping[str, frozenset[int]]) -> None:
        self.names, self.step = steps.names, steps.step
        self._steps, self._refused = steps, refused

    def counts(self, part: int) -> Mapping[str, int] | None:
        counts = self._steps.counts(part)
        return counts if counts is not None and self.allows(counts) else None

    def allows(self, counts: Mapping[str, int]) -> bool:
        """Whether no group has a count that it cannot have."""
        return not any(counts[name] in self._refused.get(name, ()) for name in self.names)

    def nearest(self, part: int) -> int:
        close = self._steps.nearest(part)
        return close if self.counts(close) is not None else min(self.parts(), key=lambda p: abs(p - part))

    def following(self, part: int) -> int:
        while self.counts(found := self._steps.following(part)) is None:
            part = found + 1
        return found

    def parts(self) -> list[int]:
        return [p for p in self._steps.parts() if self.counts(p) is not None]

    def table(self, names: Sequence[str]) -> Ints:
        return self._steps.table(names) * np.isin(np.arange(self.step + 1), self.parts())

    def part_of(self, counts: Mapping[str, int]) -> int | None:
        return self._steps.part_of(counts) if self.allows(counts) else None
