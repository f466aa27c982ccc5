"""Ignored: which groups the caller wants kept, by names that may be those of another analysis of the same graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fxprune.analysis.grouping.components import Analysis, Group
from fxprune.analysis.grouping.reasons import IGNORED
from fxprune.errors import InputError
from fxprune.module.names import matches
from fxprune.plan.plan import Slot


def touches(group: Group, pattern: str) -> bool:
    """Whether a name or shell pattern stands for the group: its own name, its module, or a parameter that it cuts."""
    return matches(group.name, pattern) or any(matches(s.tensor, pattern) for s in group.slots)


class Ignored:
    """What the caller wants kept, in every analysis that is tried.

    Choices of what shrinks in attention make other groups, which may have other names. A name that an analysis does not
    know stands for what it stood for in one that does.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._slots: dict[str, list[Slot]] = {}
        self._strange: set[str] = set()

    def __call__(self, analysis: Analysis) -> dict[str, tuple[str, str]]:
        """The groups of an analysis that must keep all channels, with the reason."""
        reasons: dict[str, tuple[str, str]] = {}
        for pattern in self._names:
            hits = [g for g in analysis.groups if touches(g, pattern)]
            if hits:
                self._slots.setdefault(pattern, [s for g in hits for s in g.slots])
            elif not any(matches(tensor, pattern) for tensor in analysis.labelling.graph.tensors):
                self._strange.add(pattern)
                hits = [g for g in analysis.groups if _overlap(g.slots, self._slots.get(pattern, []))]
            reasons |= dict.fromkeys([g.name for g in hits], (f"{IGNORED} ('{pattern}')", ""))
        return reasons

    def asked(self, analysis: Analysis) -> set[str]:
        """Those groups of an analysis that it knows by these names."""
        return {g.name for g in analysis.groups if any(touches(g, pattern) for pattern in self._names)}

    def misses_names(self) -> bool:
        """Whether no analysis so far has known one of the names."""
        return bool(self._strange - self._slots.keys())

    def has_learned(self) -> bool:
        """Whether an analysis did not know a name that another one knew, so that all are to be tried again.

        Raises:
            InputError: none has known it.
        """
        for pattern in self._strange - self._slots.keys():
            raise InputError("nothing has the ignored name", seen=pattern, remedy="give a module, parameter or group")
        return bool(self._strange)


def _overlap(slots: Sequence[Slot], others: Sequence[Slot]) -> bool:
    """Whether some positions of some dim are in both."""
    places = {(s.tensor, s.dim): s.positions for s in slots}
    return any(len(np.intersect1d(places.get((s.tensor, s.dim), []), s.positions)) for s in others)
