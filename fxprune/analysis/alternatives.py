"""Alternatives: where the model's code holds what was chosen to shrink, another choice that it does not hold.

What the labels leave open is chosen before the widths in the code are known: which factor of a split shrinks, heads or
their width, and whether equal parts keep the same indices or equally many. If the code then holds such a group, the
other choice is tried as well, and the one that leaves more free is taken; so it is where choices for several splits
have contradicted one another. Channels that the code cuts by numbers (`x[:, : c // 4]`) are parted where that frees
them; what is balanced cannot be parted, so then it is also tried without a balance. What the caller has chosen stays.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fxprune.analysis.grouping.balance import analyse
from fxprune.analysis.grouping.components import Analysis, analysed, parted
from fxprune.analysis.ignored import Ignored
from fxprune.analysis.labels.factorings import COLUMNS, ROWS, Heads
from fxprune.analysis.widths import Held, held_by_code
from fxprune.tracing.trace import Graph

Known = tuple[Analysis, Held]


def settled(graph: Graph, heads: Heads, ignored: Ignored, *, rewrite_code: bool) -> Known:
    """The analysis of a graph and what the code holds, for the choice that leaves most free.

    Args:
        graph: the recorded forward.
        heads: what the caller has chosen.
        ignored: what the caller wants kept.
        rewrite_code: whether literals in the code of a module may be mended.
    """

    def once(analysis: Analysis) -> Known:
        return analysis, held_by_code(analysis, ignored(analysis), rewrite_code=rewrite_code)

    def known(analysis: Analysis) -> Known:
        found = once(analysis)
        cuts = () if analysis.balances else found[1].cuts
        return max(found, once(parted(analysis, cuts)), key=_freed) if cuts else found

    best = known(analyse(graph, heads))
    refused = _refused(best, ignored.asked(best[0]))
    if best[0].balances and (best[1].cuts or any(b.names & refused for b in best[0].balances)):
        best = max(best, known(analysed(graph, heads)), key=_freed)
        refused = _refused(best, ignored.asked(best[0]))
    others = dict.fromkeys((*_turned(best[0], refused), *_agreed(best[0])) if heads == "" else ())
    return max([best, *(known(analyse(graph, other)) for other in others if other)], key=_freed)


def _refused(known: Known, ignored: set[str]) -> set[str]:
    """The groups that the code holds."""
    return known[1].fixed.keys() - ignored


def _freed(known: Known) -> int:
    """How many indices of parameters may go."""
    analysis, held = known
    return sum(len(s.positions) for g in analysis.groups if g.name not in held.fixed for s in g.slots)


def _turned(analysis: Analysis, refused: set[str]) -> Iterator[tuple[tuple[str, str], ...]]:
    """For each module that splits a dim whose groups are held: the factor that was not chosen.

    A module may split several dims (into heads, and their width into pairs), and then each of two choices is one.
    """
    found: dict[str, dict[str, None]] = {}
    for module, choice in _others(analysis, refused):
        found.setdefault(module, {})[choice] = None
    for k in (0, -1):
        yield tuple((module, list(choices)[k]) for module, choices in found.items())


def _others(analysis: Analysis, refused: set[str]) -> Iterator[tuple[str, str]]:
    of, members = analysis.components.of, {analysis.index[name] for name in refused}
    for f, k in analysis.components.chosen.items():
        other = len(f.sizes) - 2 if k == len(f.sizes) - 1 else len(f.sizes) - 1
        if f.split and k >= 0 and f.sizes[other] > 1 and isinstance(f.factors[other], np.ndarray):
            owners = np.unique(analysis.group_of[of[f.flat]]).tolist()
            if members.intersection(owners):
                yield f.node.meta["module"], "head_dim" if other == len(f.sizes) - 1 else "num_heads"


def _agreed(analysis: Analysis) -> list[tuple[tuple[str, str], ...]]:
    """The same choice for all grids of modules in which unlike ones have tied all channels to one another."""
    of = analysis.components.of
    tied = {(f.node.meta["module"], f.split) for f in analysis.components.chosen if len(np.unique(of[f.flat])) == 1}
    pairs = (("head_dim", COLUMNS), ("num_heads", ROWS))
    return [tuple((module, split if is_split else grid) for module, is_split in sorted(tied)) for split, grid in pairs]
