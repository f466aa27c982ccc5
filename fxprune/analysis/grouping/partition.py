"""Partition: which components touch the same places, and are one group's channels therefore."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from fxprune.analysis.grouping.traces import Keys, key, traces
from fxprune.analysis.labels.dims import Labels
from fxprune.analysis.labels.factorings import Components
from fxprune.analysis.labels.labels import Labelling, several

Places = Iterator[tuple[str, int, Labels]]


def stations(labelling: Labelling, components: Components) -> Places:
    """Where balanced channels pass: only those that pass the same places can stand for one another."""
    balances = labelling.labeller.balances
    if not balances:
        return
    mine = np.zeros(len(components.fix), dtype=bool)
    mine[components.of[np.concatenate(balances)]] = True
    yield from _traced(labelling, components, mine)
    for node, axes in labelling.axes.items():
        for k, a in enumerate(several(axes)):
            for i in range(len(a)):
                labels = a.known(i)
                if node.op == "call_function" and isinstance(labels, np.ndarray):
                    yield f"{node.name}:{k}", i, labels[mine[components.of[labels]]]


def _traced(labelling: Labelling, components: Components, mine: npt.NDArray[np.bool_]) -> Places:
    """The labels of each trace: in which rows and parts a channel lies is part of where it passes."""
    found = traces(labelling, components)
    labels = np.flatnonzero(mine[components.of])
    for trace in np.unique(found[labels]):
        yield f"trace:{trace}", 0, labels[found[labels] == trace]


def marks(components: Components, parts: Sequence[Labels]) -> Places:
    """Places that only the components of each part touch: one label stands for a component."""
    first = np.unique(components.of, return_index=True)[1]
    for i, part in enumerate(parts):
        yield f"part:{i}", 0, first[part]


def partition(components: Components, places: Sequence[tuple[str, int, Labels]]) -> tuple[Labels, Labels, Keys]:
    """Group components that touch the same places equally often; number the channels by first appearance.

    A component's signature is the sum of one 64-bit key per touch: equal multisets of places have equal sums, and
    different ones differ but for a chance of about 1e-13 (10^3 groups).

    Returns:
        The group and the channel of each component, and the signature of each group.
    """
    count = len(components.fix)
    group_of, channel_of = np.full(count, -1), np.full(count, -1)
    if not places:
        return group_of, channel_of, np.empty(0, dtype=np.uint64)
    # Equated dims have the very same label array: one key, the sum of theirs.
    arrays = {id(labels): labels for *_, labels in places}
    number = {array: i for i, array in enumerate(arrays)}
    keys = np.zeros(len(arrays), dtype=np.uint64)
    own = np.array([key(f"{name}:{dim}") for name, dim, _ in places], dtype=np.uint64)
    np.add.at(keys, [number[id(labels)] for *_, labels in places], own)
    touched = components.of[np.concatenate(list(arrays.values()))]
    signature = np.zeros(count, dtype=np.uint64)
    np.add.at(signature, touched, np.repeat(keys, [len(labels) for labels in arrays.values()]))
    first = np.full(count, len(touched))
    first[touched[::-1]] = np.arange(len(touched))[::-1]
    free = np.flatnonzero((first < len(touched)) & (components.fix < 0))
    free = free[np.argsort(first[free])]
    found, start, inverse, counts = np.unique(
        signature[free], return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.argsort(np.argsort(start))
    group_of[free] = rank[inverse]
    order = np.argsort(inverse, kind="stable")
    channel_of[free[order]] = np.arange(len(free)) - np.repeat(np.cumsum(counts) - counts, counts)
    return group_of, channel_of, found[np.argsort(start)]
