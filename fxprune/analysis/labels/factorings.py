"""Resolve the factorings: decide for each grid which factor shrinks, all together, and unite the labels accordingly.

The kept set of a grid must stay a rectangle, so exactly one factor shrinks and the others are fixed. Grids share
factors (both ends of a grouped convolution share its groups) and labels (one stream under many GroupNorms), so the
choice is made in one pass over all grids with common marks, and repeated only while something new became fixed. Of the
factors that nothing fixes:

1. the only one along which the flat labels vary, while along the others they are tied to one another; otherwise, among
   those along which they vary (among all, if there are none):
2. one that another grid has chosen already;
3. the one that was asked for, by the caller where a reshape splits a dim into heads and head width;
4. the finer one (more indices), the last of equals.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fxprune.analysis.labels.dims import Dim, Factoring, Fix, Labels
from fxprune.analysis.labels.labels import Labeller
from fxprune.module.names import fits

_SHRINKS, _STAYS = 1, 2

GRID = ROWS, COLUMNS = "rows", "columns"
# "head_dim", "num_heads" or "" (whichever is finer) for all modules, or (module name pattern, choice) pairs. For grids
# that no reshape has made, as groups of a norm, the analysis itself may choose `ROWS` or `COLUMNS` of a module.
Heads = str | tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class Components:
    """Every label's component, and for each component whether and why it must stay.

    Attributes:
        of: component of each label, of shape (labels,).
        fix: index into `fixes` of the first reason per component, -1 where it may go.
        fixes: all reasons.
        chosen: the factor that shrinks, for each factoring; -1 if none can.
        open: the factorings of which another factor could have been chosen.
    """

    of: Labels
    fix: Labels
    fixes: tuple[Fix, ...]
    chosen: dict[Factoring, int]
    open: frozenset[Factoring]


def resolve(lab: Labeller, heads: Heads = "") -> Components:
    """The components of all labels after every factoring has been decided."""
    of = connected(lab.count, [*lab.edges, *_tied_by_splits(lab), *_tied_along_fixed(lab.factorings)])
    fixes = list(lab.fixes)
    chosen: dict[Factoring, int] = {}
    several = set[Factoring]()
    while pending := [f for f in lab.factorings if f not in chosen]:
        edges: list[tuple[Labels, Labels]] = []
        marks = _marks(of, fixes, chosen)
        first, splits = _leading(pending, of, marks) if heads else ([], [])
        for factoring in _apart(first or splits or sorted(pending, key=lambda f: _evident(f, of) is None), of):
            asked = _chosen_for(factoring, heads) if not factoring.split or (splits and not first) else ""
            able = _candidates(factoring, of, marks)
            several |= {factoring} if len(able) > 1 else set()
            chosen[factoring] = _choice(factoring, able, of, marks, asked)
            _follow(factoring, chosen[factoring], of, marks, edges, fixes)
        of = connected(of.max() + 1, [(of[a], of[b]) for a, b in edges])[of]
    fixes += _collapsed(lab.factorings, of)
    because = _first_fix(of, fixes)
    return Components(of, because, tuple(_told(fixes, of, because, chosen)), chosen, frozenset(several))


def _tied_by_splits(lab: Labeller) -> Iterator[tuple[Labels, Labels]]:
    """The same indices of equal parts live or die together."""
    for _, labels, count in lab.splits:
        first, *others = np.split(labels, count)
        yield from ((first, part) for part in others)


def _tied_along_fixed(factorings: list[Factoring]) -> Iterator[tuple[Labels, Labels]]:
    """A factor that must stay ties the flat indices along it: they go together or not at all."""
    for f in factorings:
        grid = f.flat.reshape(f.sizes)
        for k, factor in enumerate(f.factors):
            if not isinstance(factor, np.ndarray):
                yield f.flat, np.broadcast_to(grid.take([0], axis=k), f.sizes).reshape(-1)


def _leading(
    pending: list[Factoring], of: Labels, marks: npt.NDArray[np.int8]
) -> tuple[list[Factoring], list[Factoring]]:
    """What to decide first, so that the caller's choice counts for the splits that it is meant for, and for no other.

    Returns:
        Grids that leave no choice, and splits; both of dims that no other split has made.
    """
    made = np.zeros(of.max(initial=-1) + 1, dtype=bool)
    before = -1
    while before < (before := int(made.sum())):
        for f in pending:
            if f.split or any(made[of[d]].any() for d in _arrays(f.factors)):
                for labels in _arrays(f.factors if f.split else [f.flat]):
                    made[of[labels]] = marks[of[labels]] != _STAYS
    own = [f for f in pending if not any(made[of[d]].any() for d in _arrays([f.flat] if f.split else f.factors))]
    forced = [f for f in own if _evident(f, of) is not None or len(_able(f, of, marks)) < 2]
    return forced, [f for f in own if f.split]


def _arrays(dims: Iterable[Dim]) -> list[Labels]:
    return [d for d in dims if isinstance(d, np.ndarray)]


def connected(count: int, edges: list[tuple[Labels, Labels]]) -> Labels:
    """For each label, the number of its component."""
    if not edges:
        return np.arange(count)
    import scipy.sparse as sp  # here, because it takes a while to import
    from scipy.sparse.csgraph import connected_components

    a, b = (np.concatenate([np.ravel(e[k]) for e in edges]) for k in (0, 1))
    graph = sp.coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _first_fix(of: Labels, fixes: list[Fix]) -> Labels:
    first = np.full(of.max(initial=-1) + 1, -1)
    for k in range(len(fixes) - 1, -1, -1):
        first[of[fixes[k].labels]] = k
    return first


def _marks(of: Labels, fixes: list[Fix], chosen: dict[Factoring, int]) -> npt.NDArray[np.int8]:
    marks = np.zeros(of.max(initial=-1) + 1, dtype=np.int8)
    for factoring, k in chosen.items():
        if k >= 0:
            marks[of[factoring.labels_of(k)]] = _SHRINKS
    if fixes:
        marks[of[np.concatenate([f.labels for f in fixes])]] = _STAYS
    return marks


def _apart(pending: Iterable[Factoring], of: Labels) -> Iterator[Factoring]:
    """Those that can be decided together: of grids of unlike sizes over the same channels, the first ones.

    What one of them ties, the others must see.
    """
    grid = np.full(of.max(initial=-1) + 1, -1)
    numbers: dict[tuple[int, ...], int] = {}
    for f in pending:
        mine, number = of[f.flat], numbers.setdefault(f.sizes, len(numbers))
        if ((grid[mine] == -1) | (grid[mine] == number)).all():
            grid[mine] = number
            yield f


def _evident(f: Factoring, of: Labels) -> int | None:
    """The only factor along which the flat labels vary, if there is just one."""
    varying = _varying(f, of)
    return varying[0] if len(varying) == 1 else None


def _varying(f: Factoring, of: Labels) -> list[int]:
    """The factors along which the flat labels vary; along the others they are tied to one another."""
    grid = of[f.flat].reshape(f.sizes)
    return [k for k in range(grid.ndim) if not (grid == grid.take([0], axis=k)).all()]


def _follow(
    f: Factoring,
    k: int,
    of: Labels,
    marks: npt.NDArray[np.int8],
    edges: list[tuple[Labels, Labels]],
    fixes: list[Fix],
) -> None:
    """Let factor `k` shrink and no other; mark the factors so that the next grid's choice agrees."""
    for i, factor in enumerate(f.factors):
        if not isinstance(factor, np.ndarray):
            continue
        if i == k:
            edges.append(_along(f, i))
            marks[of[factor]] = np.maximum(marks[of[factor]], _SHRINKS)
        else:
            fixes.append(Fix(factor, _another(f), f.node))
            marks[of[factor]] = _STAYS
    if k < 0:
        fixes.append(Fix(f.flat, _none(f), f.node))


def _another(f: Factoring) -> str:
    return f"another factor of the grid {'×'.join(map(str, f.sizes))} shrinks"


def _none(f: Factoring) -> str:
    return f"no factor of the grid {'×'.join(map(str, f.sizes))} may shrink"


def _told(fixes: list[Fix], of: Labels, first: Labels, chosen: dict[Factoring, int]) -> Iterator[Fix]:
    """The reasons as they have come out: a factor that was chosen may be held by something else after all."""
    stay = [f for f, k in chosen.items() if k >= 0 and (first[of[f.labels_of(k)]] >= 0).all()]
    reasons = {(f.node, _another(f)): _none(f) for f in stay}
    for fix in fixes:
        yield replace(fix, reason=reasons.get((fix.node, fix.reason), fix.reason))  # type: ignore[arg-type]


def _able(f: Factoring, of: Labels, marks: npt.NDArray[np.int8]) -> list[int]:
    """The factors that nothing fixes."""
    return [k for k, d in enumerate(f.factors) if isinstance(d, np.ndarray) and (marks[of[d]] != _STAYS).any()]


def _candidates(f: Factoring, of: Labels, marks: npt.NDArray[np.int8]) -> list[int]:
    """The factors that may shrink, by the first rule of this module."""
    able = _able(f, of, marks)
    able = [k for k in able if _can_part(of[f.labels_of(k)])] or able
    return [k for k in _varying(f, of) if k in able] or able if len(able) > 1 else able


def _choice(f: Factoring, able: list[int], of: Labels, marks: npt.NDArray[np.int8], heads: str) -> int:
    if len(able) < 2:
        return able[0] if able else -1
    agreed = [k for k in able if (marks[of[f.labels_of(k)]] == _SHRINKS).any()]
    if not agreed and heads:
        return able[-1] if heads in ("head_dim", COLUMNS) else able[-2]
    return max(agreed or able, key=lambda k: (f.sizes[k], k))


def _can_part(factor: Labels) -> bool:
    """Whether some indices of a factor can go while others stay: they are not all tied into one."""
    return len(factor) == 1 or bool((factor != factor[0]).any())


def _chosen_for(f: Factoring, heads: Heads) -> str:
    """What was chosen to shrink: of a reshape, heads or their width; of another grid, if anything, rows or columns."""
    if isinstance(heads, str):
        return heads if f.split else ""
    found = (choice for pattern, choice in heads if fits(f.node.meta["module"], pattern))
    return next((choice for choice in found if (choice in GRID) != f.split), "")


def _along(f: Factoring, k: int) -> tuple[Labels, Labels]:
    """Edges that give every flat index the label of its position along factor `k`."""
    shape = [-1 if i == k else 1 for i in range(len(f.sizes))]
    factor = f.labels_of(k).reshape(shape)
    return f.flat, np.broadcast_to(factor, f.sizes).reshape(-1)


def _collapsed(factorings: list[Factoring], of: Labels) -> list[Fix]:
    """Grids that tie all their indices into one: nothing can be removed without removing everything."""
    return [
        Fix(f.flat, "reshapes tie all its channels to one another", f.node)
        for f in factorings
        if (of[f.flat] == of[f.flat[0]]).all()
    ]
