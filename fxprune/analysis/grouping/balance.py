"""Balance: equal splits and shuffles, whose parts keep equally many channels, but not the same ones.

Code such as `x.chunk(2)` or a channel shuffle cuts and turns by position. If every part had to keep the same indices,
blocks in a row would tie all channels to one another. What is really needed is that each channel of the smaller model
takes the way through the code that its original takes. So the model is recorded once more with the smaller width, and
labels tell where its channels pass: a channel may stand for any one that passes the same places.

The groups that pass one such set of splits are balanced: one number, how many parts of `step` stay, decides how many
channels each of them keeps; which ones is free. Their consumers' columns are then gathered in another order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import fx

from fxprune.analysis.grouping.components import Analysis, analysed
from fxprune.analysis.grouping.recordings import Place, Recorded, everywhere, near, recorded
from fxprune.analysis.grouping.steps import Steps
from fxprune.analysis.labels.dims import Labels, NotLooseError
from fxprune.analysis.labels.factorings import Heads
from fxprune.analysis.labels.labels import Axes, several
from fxprune.plan.plan import Ints
from fxprune.tracing.trace import Graph

_TRIED = 12  # parts evenly spread
_NEIGHBOURS = 4  # parts on either side of the one asked for


@dataclass(frozen=True, eq=False)
class Fit:
    """How the channels of the smaller model are laid out.

    Attributes:
        counts: channels of each balanced group.
        positions: for each group and tensor dim, the positions of its channels in the smaller tensor, of shape
            (channels, positions of each), as `Analysis.by_channel` has them.
    """

    counts: Mapping[str, int]
    positions: Mapping[tuple[str, Place], Ints]


class Balance(Recorded):
    """Groups that are balanced together; see `fxprune.analysis.grouping.steps.Balanced`.

    Args:
        analysis: of the graph.
        members: the groups, by index.
    """

    def __init__(self, analysis: Analysis, members: frozenset[int]) -> None:
        self.names = frozenset(analysis.groups[i].name for i in members)
        positions = _positions(analysis, members)
        super().__init__(analysis, members, positions, reduce(gcd, map(len, positions.values())))
        self.all: Sequence[Balance] = (self,)  # of the analysis, that tables are made for together
        self._fits: dict[int, Fit | None] = {}
        self._tabled = set[int]()  # which of `_spread` were tried for all sets together

    def counts(self, part: int) -> Mapping[str, int] | None:
        """None if the smaller model is not of the same form."""
        fit = self.fit(part)
        return None if fit is None else fit.counts

    def nearest(self, part: int) -> int:
        """A possible part near the given one; `step`, which keeps everything, if there is no other.

        Each part that is tried costs a recording, so only the neighbours are, and then those that `parts` tries.
        """
        return next(p for p in self.candidates(part) if self.counts(p) is not None)

    def candidates(self, part: int) -> list[int]:
        """Parts to try in place of the given one, the nearest first."""
        close = (p for p in range(part - _NEIGHBOURS, part + _NEIGHBOURS + 1) if 0 < p <= self.step)
        return [p for some in (close, self._spread) for p in sorted(some, key=lambda p: abs(p - part))]

    def parts(self) -> list[int]:
        """Parts that are possible, evenly spread; each one tried costs a recording, so not all are."""
        return [p for k, p in enumerate(self._spread) if self._is_possible(k)]

    def following(self, part: int) -> int:
        return next(p for k, p in enumerate(self._spread) if (p >= part or p == self.step) and self._is_possible(k))

    def _is_possible(self, k: int) -> bool:
        """Whether the k-th part of `_spread` is possible, asked for all sets that have as many of them together."""
        alike = [b for b in self.all if len(b._spread) == len(self._spread)]
        if len(alike) > 1 and k not in self._tabled:
            everywhere({b: b._spread[k] for b in alike}, fit_together)
            for b in alike:
                b._tabled.add(k)  # what was not tried then is not tried now
        part = self._spread[k]
        return (self.knows(part) or k not in self._tabled) and self.counts(part) is not None

    @cached_property
    def _spread(self) -> list[int]:
        """Parts to try, up to `step`."""
        return np.unique(-(-self.step * np.arange(1, _TRIED + 1) // _TRIED)).tolist()  # type: ignore[no-any-return]

    def table(self, names: Sequence[str]) -> Ints:
        """Channels of the named groups at each part, of shape (groups, step + 1); 0 where the part is not possible."""
        table = np.zeros((len(names), self.step + 1), dtype=np.int64)
        for part in self.parts():
            counts = self.counts(part) or {}
            table[:, part] = [counts[name] for name in names]
        return table

    def part_of(self, counts: Mapping[str, int]) -> int | None:
        """Which part has these counts."""
        sizes = sum(g.size for g in self._groups())
        asked = {name: counts[name] for name in self.names}
        part = round(sum(asked.values()) / sizes * self.step)
        near = (p for p in (part, part - 1, part + 1) if 1 <= p <= self.step)
        return next((p for p in near if self.counts(p) == asked), None)

    def _groups(self) -> list[Any]:
        return [self.analysis.groups[i] for i in sorted(self.members)]

    def fit(self, part: int) -> Fit | None:
        if part not in self._fits:
            self._fits[part] = self._everything() if part == self.step else self._fit(part)
        return self._fits[part]

    def _everything(self) -> Fit:
        positions = {(g.name, (s.tensor, s.dim)): self.analysis.by_channel(s) for g in self._groups() for s in g.slots}
        return Fit({g.name: g.size for g in self._groups()}, positions)

    def _fit(self, part: int) -> Fit | None:
        """Record the model with the smaller widths, and match its groups with the present ones."""
        small = recorded({self: part})
        of = None if small is None else self.originals(small, self.members)
        return None if small is None or of is None else self.matched(small, of, part)

    def note(self, part: int, fit: Fit) -> None:
        self._fits[part] = fit

    def knows(self, part: int) -> bool:
        return part == self.step or part in self._fits

    def originals(self, small: Analysis, changed: frozenset[int]) -> list[int] | None:
        """The group that each one of the smaller model was, by index; None if it is not of the same form.

        Args:
            small: of the smaller model.
            changed: the groups that keep fewer channels there.
        """
        mine = {int(s): i for i, s in enumerate(self.analysis.signatures)}
        found = [mine.get(int(s), -1) for s in small.signatures]
        for g, i in zip(small.groups, found, strict=True):
            size = self.analysis.groups[i].size
            if i < 0 or g.size > size or (i not in changed and g.size != size):
                return None
        return found if self._in_order(small, np.isin(found, list(changed)), changed) else None

    def matched(self, small: Analysis, originals: Sequence[int], part: int) -> Fit | None:
        """The fit from a recording of the smaller model; None if other positions are left."""
        counts = dict.fromkeys(self.names, 0)
        found: dict[tuple[str, Place], Ints] = {}
        for g, i in zip(small.groups, originals, strict=True):
            if i in self.members:
                name = self.analysis.groups[i].name
                counts[name] = g.size
                found |= {(name, (s.tensor, s.dim)): small.by_channel(s) for s in g.slots}
        held: dict[Place, int] = {}
        for (_, place), positions in found.items():
            held[place] = held.get(place, 0) + positions.size
        whole = all(held.get(p) == self.shorter(len(q), part) for p, q in self.positions.items())
        return Fit(counts, found) if whole else None

    def _in_order(self, small: Analysis, balanced: npt.NDArray[np.bool_], changed: frozenset[int]) -> bool:
        """Whether what is not balanced lies in the same order as at full size: `orders` leaves it so.

        The k-th of a dim stands for the k-th; that must be the same component wherever either of them lies.

        Args:
            small: of the smaller model.
            balanced: of each of its groups, whether it is.
            changed: which groups of the full-size model are.
        """
        dims = {(id(self._dims[at]), id(labels)): (self._dims[at], labels) for at, labels in _dims(small).items()}
        before, now = zip(*dims.values(), strict=True)  # equated dims have the very same array, and count once
        mine = np.isin(np.arange(len(self.analysis.groups)), list(changed))
        (x, many), (y, left) = _others(self.analysis, mine, before), _others(small, balanced, now)
        if not np.array_equal(many, left):
            return False
        matched = np.unique(x * (1 + y.max(initial=0)) + y)
        return len(np.unique(x)) == len(np.unique(y)) == len(matched)

    @cached_property
    def _dims(self) -> dict[tuple[str, int, int], Labels]:
        return _dims(self.analysis)

    def orders(self, kept: Mapping[str, npt.ArrayLike]) -> dict[Place, Ints]:
        """The indices that each dim keeps of the balanced channels and all others, in the smaller model's order."""
        part = self.part_of({g.name: np.size(kept.get(g.name, np.arange(g.size))) for g in self._groups()})
        fit = None if part is None else self.fit(part)
        if fit is None or part == self.step:
            return {}
        orders = {}
        for place, positions in self.positions.items():
            length = self.analysis.labelling.graph.tensors[place[0]].shape[place[1]]
            order = np.full(length - len(positions) + self.shorter(len(positions), part or 0), -1)
            for g in self._groups():
                for s in (s for s in g.slots if (s.tensor, s.dim) == place and fit.counts[g.name]):
                    stays = np.sort(np.asarray(kept[g.name]))
                    order[fit.positions[g.name, place]] = self.analysis.by_channel(s)[stays]
            order[order < 0] = np.setdiff1d(np.arange(length), positions)
            orders[place] = order
        return orders


def _positions(analysis: Analysis, members: frozenset[int]) -> dict[Place, Ints]:
    """The positions of all balanced channels in each dim that they touch."""
    found: dict[Place, list[Ints]] = {}
    for i in sorted(members):
        for s in analysis.groups[i].slots:
            found.setdefault((s.tensor, s.dim), []).append(s.positions)
    return {place: np.sort(np.concatenate(parts)) for place, parts in found.items()}


def fit_together(parts: Mapping[Any, int]) -> bool:
    """Fit several sets from one recording; whether all of them could be fitted."""
    unknown = {b: p for b, p in parts.items() if not b.knows(p)}
    if len(unknown) > 1 and not _fitted(unknown):
        return False
    return all(b.counts(p) is not None for b, p in parts.items())


def _fitted(parts: Mapping[Any, int]) -> bool:
    """Note the fits that one recording gives; nothing if it does not give all."""
    small, first = recorded(parts), next(iter(parts))
    of = None if small is None else first.originals(small, frozenset[int]().union(*(b.members for b in parts)))
    fits = [None if small is None or of is None else b.matched(small, of, p) for b, p in parts.items()]
    for (b, p), fit in zip(parts.items(), fits, strict=True):
        if fit is not None and None not in fits:
            b.note(p, fit)
    return None not in fits


def nearest_of(asked: Mapping[Steps, int]) -> dict[Steps, int]:
    """For each set a possible part near the one that is asked for."""
    sets = [s for s in asked if isinstance(s, Balance)]
    found = near({b: b.candidates(asked[b]) for b in sets}, fit_together)
    return {steps: found.get(steps) or steps.nearest(part) for steps, part in asked.items()}  # type: ignore[call-overload]


def _dims(analysis: Analysis) -> dict[tuple[str, int, int], Labels]:
    """The labels of the dims of all tensors that hold or make channels, by tensor, number among several, and dim."""
    labelling = analysis.labelling
    holding: dict[str, Sequence[Axes]] = {name: [axes] for name, axes in labelling.parameter_axes.items()}
    making = {n.name: several(axes) for n, axes in labelling.axes.items() if _makes(n)}
    return {
        (name, k, dim): labels
        for name, results in (*holding.items(), *making.items())
        for k, axes in enumerate(results)
        for dim in range(len(axes))
        if isinstance(labels := axes.known(dim), np.ndarray)
    }


def _others(analysis: Analysis, balanced: npt.NDArray[np.bool_], dims: Sequence[Labels]) -> tuple[Ints, Ints]:
    """The components in some dims that are not balanced, one dim after another, and how many of each dim are not."""
    of = analysis.components.of[np.concatenate(dims)]
    other = ~np.append(balanced, False)[analysis.group_of[of]]  # -1: of no group
    ends = np.cumsum([len(labels) for labels in dims])
    return of[other], np.diff(np.append(0, np.cumsum(other))[[0, *ends]])


def _makes(node: fx.Node) -> bool:
    """Whether a tensor is given, or made of no other."""
    return node.op != "output" and not node.all_input_nodes


def analyse(graph: Graph, heads: Heads = "") -> Analysis:
    """The analysis of a graph: balanced where parts need to keep equally many indices only, and the code allows it."""
    plain = analysed(graph, heads)
    free = _coarse(plain) if graph.on_meta else frozenset()
    while free:
        try:
            analysis = analysed(graph, heads, free)
        except NotLooseError as error:
            free -= _alike(graph, str(error))
            continue
        sets = tuple(Balance(analysis, members) for members in analysis.balanced)
        for b in sets:
            b.all = sets
        halves = near({b: b.candidates(b.step // 2) for b in sets}, fit_together)
        if sets and all(b in halves or b.nearest(b.step // 2) < b.step for b in sets):
            return replace(analysis, balances=sets)
        break
    return plain


def _alike(graph: Graph, name: str) -> set[str]:
    """The named call, and those of the same op and shape: what the code does in one block it does in all."""
    made = {node.name: (node.target, node.meta.get("shape")) for node in graph.fx.nodes}
    return {other for other, what in made.items() if what == made[name]}


def _coarse(analysis: Analysis) -> frozenset[str]:
    """Equal splits and grids that tie more of a dim's indices to one another than they must."""
    of, lab = analysis.components.of, analysis.labelling.labeller
    found = [node.name for node, labels, parts in lab.splits if _most(of[labels]) > parts]
    for f, k in analysis.components.chosen.items():
        if _most(of[f.flat]) > len(f.flat) // (f.sizes[k] if k >= 0 else len(f.flat)):
            found.append(f.node.name)
    return frozenset(found)


def _most(components: Labels) -> int:
    """How often the most frequent one occurs."""
    return int(np.unique(components, return_counts=True)[1].max())
