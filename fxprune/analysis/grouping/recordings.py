"""Recordings: the model, recorded once more with smaller widths for sets of balanced groups.

A recording costs as much as the first analysis. Sets that have no dim of a tensor in common are recorded together: what
each of them does to the order of its own dims does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np

from fxprune.analysis.grouping.components import Analysis, analysed
from fxprune.plan.plan import Ints
from fxprune.tracing.trace import retrace

Place = tuple[str, int]
_JOINT = 3  # candidates that are tried for all sets together, before each set looks for its own


class Recorded:
    """A set of balanced groups, and the recordings that it takes.

    Args:
        analysis: of the graph.
        members: the groups, by index.
        positions: of their channels in each dim that they touch.
        step: into how many equal parts all of these can be cut.
    """

    def __init__(self, analysis: Analysis, members: frozenset[int], positions: Mapping[Place, Ints], step: int) -> None:
        self.analysis, self.members, self.positions, self.step = analysis, members, positions, step

    def shorter(self, length: int, part: int) -> int:
        return length // self.step * part


def recorded(parts: Mapping[Recorded, int]) -> Analysis | None:
    """The analysis of the model when each set keeps a part; None if the model is not of the same form then."""
    first = next(iter(parts))
    labelling = first.analysis.labelling
    try:
        graph = retrace(labelling.graph, _shapes(first.analysis, parts), _attributes(first.analysis, parts))
        small = analysed(graph, first.analysis.choices, labelling.labeller.free)
    except Exception:  # the model's own code may have anything against a width
        return None
    same = [n.target for n in graph.fx.nodes] == [n.target for n in labelling.graph.fx.nodes]
    return small if same else None


def _shapes(analysis: Analysis, parts: Mapping[Recorded, int]) -> dict[str, tuple[int, ...]]:
    shapes = {name: list(t.shape) for name, t in analysis.labelling.graph.tensors.items()}
    for one, part in parts.items():
        for (tensor, dim), positions in one.positions.items():
            shapes[tensor][dim] += one.shorter(len(positions), part) - len(positions)
    return {name: tuple(shape) for name, shape in shapes.items()}


def _attributes(analysis: Analysis, parts: Mapping[Recorded, int]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for use in analysis.labelling.labeller.widths:
        owners = analysis.group_of[analysis.components.of[use.labels]]
        mine = {one: int(np.isin(owners, list(one.members)).sum()) for one in parts}
        if any(mine.values()):
            gone = sum(n - one.shorter(n, parts[one]) for one, n in mine.items())
            found.setdefault(use.module, {})[use.attribute] = len(use.labels) - gone
    return found


def apart(sets: Iterable[Recorded]) -> list[list[Recorded]]:
    """The sets, in batches in which no two have a dim of a tensor in common."""
    batches: list[tuple[list[Recorded], set[Place]]] = []
    for one in sets:
        mine, taken = next((b for b in batches if not b[1] & one.positions.keys()), ([], set()))
        if not mine:
            batches.append((mine, taken))
        mine.append(one)
        taken |= one.positions.keys()
    return [mine for mine, _ in batches]


Fits = Callable[[Mapping[Recorded, int]], bool]
"""Fits sets at the parts given for each, from one recording; whether that was possible."""


def near(candidates: Mapping[Recorded, Sequence[int]], fits: Fits) -> dict[Recorded, int]:
    """A possible part for each set, from few recordings; sets for which none was found are left out.

    Args:
        candidates: parts of each set, the best ones first.
        fits: see `Fits`.
    """
    found: dict[Recorded, int] = {}
    for batch in apart(candidates):
        for k in range(_JOINT):
            tried = {one: candidates[one][k] for one in batch if one not in found and k < len(candidates[one])}
            parts = {one: part for one, part in tried.items() if part < one.step}
            if len(parts) > 1 and fits(parts):
                found |= parts
    return found


def everywhere(parts: Mapping[Recorded, int], fits: Fits) -> None:
    """Fit sets at given parts, from few recordings; what is possible for some of one step only is left to these."""
    for batch in apart(parts):
        if not fits({one: parts[one] for one in batch}):
            for alike in _by_step(batch):
                if len(alike) == len(batch) or not fits({one: parts[one] for one in alike}):
                    _one_by_one(alike, parts, fits)


def _one_by_one(sets: Sequence[Recorded], parts: Mapping[Recorded, int], fits: Fits) -> None:
    """Where the first cannot be cut so, the others of its step, which are blocks like it, are not tried."""
    if fits({sets[0]: parts[sets[0]]}):
        for one in islice(sets, 1, None):
            fits({one: parts[one]})


def _by_step(sets: Iterable[Recorded]) -> Iterator[list[Recorded]]:
    found: dict[int, list[Recorded]] = {}
    for one in sets:
        found.setdefault(one.step, []).append(one)
    yield from found.values()
