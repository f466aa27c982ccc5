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
from fxprune.analysis.labels.dims import Labels, NotLooseError
from fxprune.analysis.labels.factorings import Heads
from fxprune.analysis.labels.labels import Axes, several
from fxprune.plan.plan import Ints
from fxprune.tracing.trace import Graph, retrace

Place = tuple[str, int]
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


class Balance:
    """Groups that are balanced together; see `fxprune.analysis.grouping.steps.Balanced`.

    Args:
        analysis: of the graph.
        members: the groups, by index.
    """

    def __init__(self, analysis: Analysis, members: frozenset[int]) -> None:
        self.names = frozenset(analysis.groups[i].name for i in members)
        self._analysis, self._members = analysis, members
        self._fits: dict[int, Fit | None] = {}
        self.step = reduce(gcd, (len(p) for p in self._positions.values()))

    @cached_property
    def _positions(self) -> dict[Place, Ints]:
        """The positions of all balanced channels in each dim that they touch."""
        found: dict[Place, list[Ints]] = {}
        for i in sorted(self._members):
            for s in self._analysis.groups[i].slots:
                found.setdefault((s.tensor, s.dim), []).append(s.positions)
        return {place: np.sort(np.concatenate(parts)) for place, parts in found.items()}

    def counts(self, part: int) -> Mapping[str, int] | None:
        """None if the smaller model is not of the same form."""
        fit = self.fit(part)
        return None if fit is None else fit.counts

    def nearest(self, part: int) -> int:
        """A possible part near the given one; `step`, which keeps everything, if there is no other.

        Each part that is tried costs a recording, so only the neighbours are, and then those that `parts` tries.
        """
        close = (p for p in range(part - _NEIGHBOURS, part + _NEIGHBOURS + 1) if 0 < p <= self.step)
        tried = (p for some in (close, self._spread) for p in sorted(some, key=lambda p: abs(p - part)))
        return next(p for p in tried if self.counts(p) is not None)

    def parts(self) -> list[int]:
        """Parts that are possible, evenly spread; each one tried costs a recording, so not all are."""
        return [p for p in self._spread if self.counts(p) is not None]

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
        return [self._analysis.groups[i] for i in sorted(self._members)]

    def fit(self, part: int) -> Fit | None:
        if part not in self._fits:
            self._fits[part] = self._everything() if part == self.step else self._fit(part)
        return self._fits[part]

    def _everything(self) -> Fit:
        positions = {(g.name, (s.tensor, s.dim)): self._analysis.by_channel(s) for g in self._groups() for s in g.slots}
        return Fit({g.name: g.size for g in self._groups()}, positions)

    def _fit(self, part: int) -> Fit | None:
        """Record the model with the smaller widths, and match its groups with the present ones."""
        labelling = self._analysis.labelling
        try:
            graph = retrace(labelling.graph, self._shapes(part), self._attributes(part))
            small = analysed(graph, self._settled, labelling.labeller.free)
        except Exception:  # the model's own code may have anything against a width
            return None
        same = [n.target for n in graph.fx.nodes] == [n.target for n in labelling.graph.fx.nodes]
        return self._match(small, part) if same else None

    @cached_property
    def _settled(self) -> Heads:
        """What shrinks where a reshape splits a dim, as decided for full widths: smaller ones may tip the scale."""
        found: dict[str, set[str]] = {}
        for f, k in self._analysis.components.chosen.items():
            if k >= 0:
                found.setdefault(f.node.meta["module"], set()).add("head_dim" if k == len(f.sizes) - 1 else "num_heads")
        alike = [(module, *choices) for module, choices in found.items() if len(choices) == 1]
        heads = self._analysis.heads
        return (*alike, *([("*", heads)] if isinstance(heads, str) else heads))

    def _shorter(self, length: int, part: int) -> int:
        return length // self.step * part

    def _shapes(self, part: int) -> dict[str, tuple[int, ...]]:
        shapes = {name: list(t.shape) for name, t in self._analysis.labelling.graph.tensors.items()}
        for (tensor, dim), positions in self._positions.items():
            shapes[tensor][dim] += self._shorter(len(positions), part) - len(positions)
        return {name: tuple(shape) for name, shape in shapes.items()}

    def _attributes(self, part: int) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for use in self._analysis.labelling.labeller.widths:
            mine = int(np.isin(self._owners(use.labels), list(self._members)).sum())
            if mine:
                found.setdefault(use.module, {})[use.attribute] = len(use.labels) - mine + self._shorter(mine, part)
        return found

    def _owners(self, labels: Labels) -> Labels:
        return self._analysis.group_of[self._analysis.components.of[labels]]

    def _match(self, small: Analysis, part: int) -> Fit | None:
        mine = {int(s): i for i, s in enumerate(self._analysis.signatures)}
        counts = dict.fromkeys(self.names, 0)
        found: dict[tuple[str, Place], Ints] = {}
        for g, signature in zip(small.groups, small.signatures, strict=True):
            i = mine.get(int(signature), -1)
            original = self._analysis.groups[i]
            if i < 0 or g.size > original.size or (i not in self._members and g.size != original.size):
                return None
            if i in self._members:
                counts[original.name] = g.size
                found |= {(original.name, (s.tensor, s.dim)): small.by_channel(s) for s in g.slots}
        if not self._in_order(small, np.array([mine[int(s)] in self._members for s in small.signatures], dtype=bool)):
            return None
        held: dict[Place, int] = {}
        for (_, place), positions in found.items():
            held[place] = held.get(place, 0) + positions.size
        whole = all(held.get(p) == self._shorter(len(q), part) for p, q in self._positions.items())
        return Fit(counts, found) if whole else None

    def _in_order(self, small: Analysis, balanced: npt.NDArray[np.bool_]) -> bool:
        """Whether what is not balanced lies in the same order as at full size: `orders` leaves it so.

        The k-th of a dim stands for the k-th; that must be the same component wherever either of them lies.

        Args:
            small: of the smaller model.
            balanced: of each of its groups, whether it is.
        """
        dims = {(id(self._dims[at]), id(labels)): (self._dims[at], labels) for at, labels in _dims(small).items()}
        before, now = zip(*dims.values(), strict=True)  # equated dims have the very same array, and count once
        mine = np.isin(np.arange(len(self._analysis.groups)), list(self._members))
        (x, many), (y, left) = _others(self._analysis, mine, before), _others(small, balanced, now)
        if not np.array_equal(many, left):
            return False
        matched = np.unique(x * (1 + y.max(initial=0)) + y)
        return len(np.unique(x)) == len(np.unique(y)) == len(matched)

    @cached_property
    def _dims(self) -> dict[tuple[str, int, int], Labels]:
        return _dims(self._analysis)

    def orders(self, kept: Mapping[str, npt.ArrayLike]) -> dict[Place, Ints]:
        """The indices that each dim keeps of the balanced channels and all others, in the smaller model's order."""
        part = self.part_of({g.name: np.size(kept.get(g.name, np.arange(g.size))) for g in self._groups()})
        fit = None if part is None else self.fit(part)
        if fit is None or part == self.step:
            return {}
        orders = {}
        for place, positions in self._positions.items():
            length = self._analysis.labelling.graph.tensors[place[0]].shape[place[1]]
            order = np.full(length - len(positions) + self._shorter(len(positions), part or 0), -1)
            for g in self._groups():
                for s in (s for s in g.slots if (s.tensor, s.dim) == place and fit.counts[g.name]):
                    stays = np.sort(np.asarray(kept[g.name]))
                    order[fit.positions[g.name, place]] = self._analysis.by_channel(s)[stays]
            order[order < 0] = np.setdiff1d(np.arange(length), positions)
            orders[place] = order
        return orders


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
        if sets and all(b.nearest(b.step // 2) < b.step for b in sets):
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
