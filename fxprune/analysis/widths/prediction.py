"""The shapes that the labels predict when every group keeps a count of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import fx

from fxprune.analysis.grouping.balance import nearest_of
from fxprune.analysis.grouping.components import Analysis
from fxprune.analysis.grouping.steps import Steps
from fxprune.analysis.labels.dims import Loose
from fxprune.analysis.labels.labels import Axes, several
from fxprune.analysis.widths.constraints import Held


class Prediction:
    """One choice of kept channels, and all shapes that follow from it.

    The other choice keeps what the first one drops, or nearly so, so that code which takes a fixed part of the channels
    (the last three, say) differs in one of the two at least; and groups that keep equal counts in one choice keep
    different ones in the other, so that no width is taken for another's.

    Attributes:
        counts: kept channels of each active group, by name; odd and different where possible, in step where tied.
        active: which groups are not fixed, of shape (groups,).
        keep: which components stay, of shape (components,).
        other: whether this is the other choice.
    """

    def __init__(self, analysis: Analysis, held: Held, *, other: bool = False) -> None:
        self.analysis, self.other = analysis, other
        self.active = np.array([g.name not in held.fixed for g in analysis.groups], dtype=bool)
        self.counts = self._choose_counts(held)
        self.keep = analysis.keep({name: self._kept(name, count) for name, count in self.counts.items()})
        self._lengths: dict[int, tuple[Any, int]] = {}

    def _choose_counts(self, held: Held) -> dict[str, int]:
        asked: dict[Steps, int] = {}
        seen = set[str]()
        for i, g in enumerate(self.analysis.groups):
            if self.active[i] and g.name not in seen:
                tie = held.steps(self.analysis, held.tied_with(g.name))
                assert tie is not None, f"{g.name} is tied without a common step"
                asked[tie] = _own_counts(i, tie.step)[self.other]
                seen |= tie.names
        parts = nearest_of(asked)
        counts = {name: n for tie in asked for name, n in (tie.counts(parts[tie]) or {}).items()}
        return {name: n for name, n in counts.items() if self.active[self.analysis.index[name]]}

    def _kept(self, name: str, count: int) -> npt.NDArray[np.int64]:
        order = np.random.default_rng(self.analysis.index[name]).permutation(self.analysis.by_name[name].size)
        return order[len(order) - count :] if self.other else order[:count]

    def touched(self, node: fx.Node) -> list[str]:
        """The active groups on a call's result and arguments."""
        return self.groups(node, *node.all_input_nodes)

    def groups(self, *nodes: fx.Node) -> list[str]:
        """The active groups that the dims of nodes' tensors carry, by name."""
        tensors = [t for node in nodes for t in several(self.analysis.labelling.axes[node])]
        labels = [d for t in tensors for i in range(len(t)) if isinstance(d := t.known(i), np.ndarray)]
        if not labels:
            return []
        owners = self.analysis.group_of[self.analysis.components.of[np.concatenate(labels)]]
        return [self.analysis.groups[g].name for g in np.unique(owners[owners >= 0]).tolist() if self.active[g]]

    def part(self, group: int) -> float:
        """The part of a group's channels that stays."""
        g = self.analysis.groups[group]
        return self.counts.get(g.name, g.size) / g.size

    def length(self, dim: Any, size: int = 0) -> int:
        """The predicted length of a dim; of one that carries no channels, its size."""
        if isinstance(dim, Loose) and dim.rows is not None:  # if the code does otherwise, the probe will tell
            return self.length(dim.flat) // dim.rows
        if not isinstance(dim, np.ndarray):
            return size
        known = self._lengths.get(id(dim))
        if known is None:
            known = self._lengths[id(dim)] = (dim, int(self.keep[self.analysis.components.of[dim]].sum()))
        return known[1]

    def shape(self, axes: Axes) -> tuple[int, ...]:
        return tuple([self.length(axes.known(i), n) for i, n in enumerate(axes.shape)])

    def shapes(self, axes: Axes | tuple[Axes, ...]) -> Any:
        return self.shape(axes) if isinstance(axes, Axes) else tuple(self.shape(a) for a in axes)


def _own_counts(i: int, size: int) -> tuple[int, int]:
    """Keep counts for the two choices that few other groups have both.

    The first is between a quarter and three quarters of the channels, odd where possible; the second is near what the
    first drops. Neither is 1 if it can be helped, since code may take another way for a single channel.
    """
    low, high = max(2, size // 4), max(size // 2, min(size - 2, 3 * size // 4))
    firsts = range(low | 1, high + 1, 2) or range(low, high + 1) or range(size - 1, size)
    first = max(1, firsts[(5 * i) % len(firsts)])
    least, most = (2, size - 1) if size > 2 else (1, size)
    seconds = [n for k in (0, -1, 1, -2) if least <= (n := size - first + k) <= most]
    return first, seconds[(i // len(firsts)) % len(seconds)]
