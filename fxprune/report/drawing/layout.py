"""A layered layout: items in rows, every edge from a row to a later one, few crossings, nothing overlaps.

The steps are Sugiyama's (1981): rows by longest path, with at most so many boxes a row; a way through each row that an
edge passes, shared by the edges of one source; order within rows by barycentres; then coordinates that lie as close to
the neighbours' mean as the order allows (isotonic regression).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
SIDE_GAP = 18.0  # between two boxes of a row
WAY_GAP = 11.0  # beside an edge that passes a row
_LOW, _HIGH = 26.0, 50.0  # between two rows
_SWEEPS = 24
_TO_THE_MIDDLE = 0.02  # pull of the drawing's middle on each item, at first; an edge pulls with 1
_IDLE = 1e-6  # the same, later


class Size(NamedTuple):
    """Width and height of an item; small items (joints) do not count towards the boxes of a row."""

    width: float
    height: float
    small: bool = False


class Line(NamedTuple):
    """An edge of the layout, from a higher row to a lower one; `kind` keeps the ways of different edges apart."""

    upper: str
    lower: str
    kind: str = ""


class Box(NamedTuple):
    """A rectangle: its centre's x, its top, and its size."""

    x: float
    top: float
    width: float
    height: float

    @property
    def bottom(self) -> float:
        return self.top + self.height


class Point(NamedTuple):
    x: float
    y: float


@dataclass(frozen=True)
class Layout:
    """Where everything lies.

    Attributes:
        boxes: the items' rectangles.
        ways: for each line the points that it passes, from the upper item's bottom to the lower one's top: straight
            down, across a gap between rows, straight down, and so on (always an even number of points).
        width: the extent, from 0.
        height: the extent, from 0.
    """

    boxes: Mapping[str, Box]
    ways: Mapping[Line, Sequence[Point]]
    width: float
    height: float


def layout(items: Mapping[str, Size], lines: Sequence[Line], row_width: float, port: float = 0.0) -> Layout:
    """Lay out `items`.

    Args:
        items: sizes by key, in the order in which they should be read where edges leave a choice.
        lines: an acyclic graph on the keys.
        row_width: rows are not filled further than this with boxes.
        port: lines with a `kind` meet their items this part of the width right of the middle.
    """
    row = _assign_rows(items, lines, row_width)
    sizes, row, chains = _with_ways(items, lines, row)
    rows = _ordered(row, chains)
    neighbours = _neighbours(chains)
    x = _coordinates(rows, neighbours, sizes, items)
    bands = _bands(rows, neighbours, sizes, x)
    boxes = {k: _centred(x[k], bands[row[k]], size) for k, size in items.items()}
    ways = {
        line: _points(line, chain, boxes, x, [bands[row[k]] for k in chain], port) for line, chain in chains.items()
    }
    width = max((b.x + b.width / 2 for b in boxes.values()), default=0.0)
    width = max([width, *(p.x for way in ways.values() for p in way)])
    return Layout(boxes, ways, width, bands[-1].bottom if bands else 0.0)


def _assign_rows(items: Mapping[str, Size], lines: Sequence[Line], row_width: float) -> dict[str, int]:
    """Each item goes below all that feed it, into the first row with room; unfed ones go beside the one before."""
    order = {k: i for i, k in enumerate(items)}
    import networkx as nx

    graph = nx.DiGraph()
    graph.add_nodes_from(items)
    graph.add_edges_from((line.upper, line.lower) for line in lines)
    row: dict[str, int] = {}
    used: Counter[int] = Counter()
    last = 0
    for k in nx.lexicographical_topological_sort(graph, key=order.__getitem__):
        r = max((row[above] + 1 for above in graph.predecessors(k)), default=last)
        if not items[k].small:
            room = round(items[k].width + SIDE_GAP)
            while used[r] and used[r] + room > row_width:
                r += 1
            used[r] += room
            last = r
        row[k] = r
    return row


def _with_ways(
    items: Mapping[str, Size], lines: Sequence[Line], row: Mapping[str, int]
) -> tuple[dict[str, Size], dict[str, int], dict[Line, list[str]]]:
    """Add the ways through rows as items without a size: all lines of one kind from one item share theirs."""
    sizes, rows = dict(items), dict(row)
    chains: dict[Line, list[str]] = {}
    for line in lines:
        passed = range(row[line.upper] + 1, row[line.lower])
        names = [f"way {line.kind} {line.upper} {r}" for r in passed]
        sizes |= dict.fromkeys(names, Size(0, 0, small=True))
        rows |= dict(zip(names, passed, strict=True))
        chains[line] = [line.upper, *names, line.lower]
    return sizes, rows, chains


Neighbours = Mapping[str, tuple[list[str], list[str]]]


def _neighbours(chains: Mapping[Line, Sequence[str]]) -> Neighbours:
    """For each key those above and those below."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    pairs = dict.fromkeys(pair for chain in chains.values() for pair in pairwise(chain))
    for a, b in pairs:
        found.setdefault(a, ([], []))[1].append(b)
        found.setdefault(b, ([], []))[0].append(a)
    return found


def _ordered(row: Mapping[str, int], chains: Mapping[Line, Sequence[str]]) -> list[list[str]]:
    """Rows, each ordered by the barycentres of its neighbours; the sweep with the fewest crossings counts."""
    rows = _unordered(row, {k for chain in chains.values() for k in chain[1:-1]})
    neighbours = _neighbours(chains)
    best, fewest = [list(r) for r in rows], _crossings(rows, neighbours)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for r in range(1, len(rows)) if down else range(len(rows) - 2, -1, -1):
            place = {k: i for i, k in enumerate(rows[r - 1 if down else r + 1])}
            rows[r] = _by_barycentre(rows[r], neighbours, place, 0 if down else 1)
        crossings = _crossings(rows, neighbours)
        if crossings <= fewest:
            best, fewest = [list(r) for r in rows], crossings
    return best


def _unordered(row: Mapping[str, int], ways: Collection[str]) -> list[list[str]]:
    """Items in the given order, and the ways through a row in its middle: a trunk with branches on both sides."""
    rows: list[list[str]] = [[] for _ in range(1 + max(row.values(), default=-1))]
    for k, r in row.items():
        rows[r].append(k)
    for i, keys in enumerate(rows):
        items, passing = [k for k in keys if k not in ways], [k for k in keys if k in ways]
        rows[i] = [*items[: len(items) // 2], *passing, *items[len(items) // 2 :]]
    return rows


def _by_barycentre(keys: Sequence[str], neighbours: Neighbours, place: Mapping[str, int], side: int) -> list[str]:
    """Items without neighbours on that side keep their places."""
    score = {}
    for i, k in enumerate(keys):
        others = neighbours[k][side] if k in neighbours else []
        score[k] = sum(place[o] for o in others) / len(others) if others else i * len(place) / len(keys)
    return sorted(keys, key=score.__getitem__)


def _crossings(rows: Sequence[Sequence[str]], neighbours: Neighbours) -> int:
    total = 0
    for upper, lower in pairwise(rows):
        place = {k: i for i, k in enumerate(lower)}
        ends = np.array(
            [place[b] for a in upper if a in neighbours for b in sorted(neighbours[a][1], key=place.__getitem__)]
        )
        total += int(np.triu(ends[:, None] > ends[None, :], 1).sum()) if len(ends) else 0
    return total


def _coordinates(
    rows: Sequence[Sequence[str]], neighbours: Neighbours, sizes: Mapping[str, Size], items: Mapping[str, Size]
) -> dict[str, float]:
    """Middles, from 0 to the right: each as near to its neighbours' mean as order and widths allow.

    Ways pull at ways eight times as hard, so that long edges become straight.
    """
    x: dict[str, float] = {}
    for keys in rows:
        places = np.cumsum(_distances(keys, sizes))
        x |= dict(zip(keys, (places - places.mean()).tolist(), strict=True))
    for sweep in range(2 * _SWEEPS):
        sides = ((0,), (1,))[sweep % 2] if sweep < _SWEEPS else (0, 1)
        to_the_middle = _TO_THE_MIDDLE if sweep < _SWEEPS else _IDLE
        middle = sum(x.values()) / max(len(x), 1)
        for keys in rows if sweep % 2 == 0 else reversed(rows):
            wanted, weights = np.array([x[k] for k in keys]), np.full(len(keys), to_the_middle)
            for i, k in enumerate(keys):
                near = [n for side in sides for n in neighbours[k][side]] if k in neighbours else []
                pull = [8.0 if n not in items and k not in items else 1.0 for n in near]
                pulled = zip(near, pull, strict=True)
                weights[i] += sum(pull)
                wanted[i] = (to_the_middle * middle + sum(p * x[n] for n, p in pulled)) / weights[i]
            x |= dict(zip(keys, _spread(wanted, weights, _distances(keys, sizes)), strict=True))
    left = min((x[k] - sizes[k].width / 2 for k in x), default=0.0)
    return {k: v - left for k, v in x.items()}


def _distances(keys: Sequence[str], sizes: Mapping[str, Size]) -> Floats:
    """The least distance between the middles of each item and the one before; 0 for the first."""
    half = np.array([sizes[k].width / 2 for k in keys])
    gap = np.array([WAY_GAP if sizes[k].small else SIDE_GAP for k in keys])
    return np.concatenate([[0.0], half[1:] + half[:-1] + np.maximum(gap[1:], gap[:-1])])


def _spread(wanted: Floats, weights: Floats, distances: Floats) -> list[float]:
    """Coordinates with at least `distances` between them, at the least weighted squared distance from `wanted`.

    Isotonic regression (pool adjacent violators) of what is wanted less the accumulated distances.
    """
    offsets = np.cumsum(distances)
    pools: list[tuple[float, float, int]] = []  # mean, weight, count
    for mean, weight in zip((wanted - offsets).tolist(), weights.tolist(), strict=True):
        count = 1
        while pools and pools[-1][0] > mean:
            before, its_weight, its_count = pools.pop()
            mean = (mean * weight + before * its_weight) / (weight + its_weight)
            weight, count = weight + its_weight, count + its_count
        pools.append((mean, weight, count))
    flat = np.repeat([m for m, *_ in pools], [n for *_, n in pools])
    return [float(v) for v in flat + offsets]


class _Band(NamedTuple):
    """The vertical extent of a row."""

    top: float
    bottom: float


def _bands(
    rows: Sequence[Sequence[str]], neighbours: Neighbours, sizes: Mapping[str, Size], x: Mapping[str, float]
) -> list[_Band]:
    """Rows from the top; the gap below a row grows with how far its edges run sideways."""
    bands, top = [], 0.0
    for keys in rows:
        bands.append(_Band(top, top + max(sizes[k].height for k in keys)))
        far = max((abs(x[k] - x[b]) for k in keys if k in neighbours for b in neighbours[k][1]), default=0.0)
        top = bands[-1].bottom + min(_HIGH, _LOW + 0.06 * far)
    return bands


def _centred(x: float, band: _Band, size: Size) -> Box:
    return Box(x, (band.top + band.bottom - size.height) / 2, size.width, size.height)


def _points(
    line: Line,
    chain: Sequence[str],
    boxes: Mapping[str, Box],
    x: Mapping[str, float],
    bands: Sequence[_Band],
    port: float,
) -> list[Point]:
    upper, lower = boxes[line.upper], boxes[line.lower]
    start = upper.x + (port * upper.width if line.kind else 0.0)
    end = lower.x + (port * lower.width if line.kind else 0.0)
    points = [Point(start, upper.bottom), Point(start, bands[0].bottom)]
    for key, band in zip(chain[1:-1], bands[1:-1], strict=True):
        points += [Point(x[key], band.top), Point(x[key], band.bottom)]
    return [*points, Point(end, bands[-1].top), Point(end, lower.top)]
