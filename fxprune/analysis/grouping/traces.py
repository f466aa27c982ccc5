"""Traces: where in the grids and splits of a graph the indices of one channel lie, so that they can be distinguished.

A channel may own several indices of one dim: one in each group of a convolution, one in each part of a split. In a
model of another width the same channel lies elsewhere; its index for the first group is the one that this group reads.
Labels that are equal element by element are one *strand*. The trace of a strand is a number that tells the row, or the
part, in which the strand lies in each grid and split.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fxprune.analysis.labels.dims import Factoring, Labels
from fxprune.analysis.labels.factorings import Components, connected
from fxprune.analysis.labels.labels import Labelling

Keys = npt.NDArray[np.uint64]


def key(text: str) -> int:
    """A number for a name; the same in every run, so that graphs of one model can be compared."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def traces(labelling: Labelling, components: Components) -> Keys:
    """The trace of every label, of shape (labels,)."""
    lab = labelling.labeller
    keys = np.zeros(lab.count, dtype=np.uint64)
    for name, flat, rows in _rows(labelling, components):
        np.add.at(keys, flat, _mixed(np.uint64(key(name)) + rows.astype(np.uint64)))
    strands = connected(lab.count, lab.edges)
    sums = np.zeros(strands.max(initial=-1) + 1, dtype=np.uint64)
    np.add.at(sums, strands, keys)
    return _mixed(sums)[strands]


def _rows(labelling: Labelling, components: Components) -> Iterator[tuple[str, Labels, Labels]]:
    """For each grid and split: a name, the labels, and in which row or part each of them lies."""
    seen: Counter[str] = Counter()
    for f in labelling.labeller.factorings:
        seen[f.node.name] += 1
        if components.chosen.get(f, -1) >= 0:
            yield f"{f.node.name}:{seen[f.node.name]}", f.flat, _place_beside(f, components.chosen[f])
    for node, labels, parts in labelling.labeller.splits:
        yield f"{node.name}:parts", labels, np.repeat(np.arange(parts), len(labels) // parts)


def _place_beside(f: Factoring, shrinks: int) -> Labels:
    """For each index of a grid, a number for its place along all factors but the one that shrinks."""
    sizes = [1 if i == shrinks else n for i, n in enumerate(f.sizes)]
    return np.broadcast_to(np.arange(np.prod(sizes)).reshape(sizes), f.sizes).reshape(-1)


def _mixed(keys: Keys) -> Keys:
    """Well-spread numbers (the finaliser of SplitMix64), so that sums of them tell sets of keys apart."""
    z = keys + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
