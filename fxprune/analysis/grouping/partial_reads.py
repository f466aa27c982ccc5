"""Partial reads: the part of a parameter that the recorded forward leaves out.

A table of positions, or a causal mask, of which the example takes the first rows: another forward may need the others
in their place. Nothing is known of them, so they stay.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import fx

from fxprune.analysis.labels.dims import Fix, Labels
from fxprune.analysis.labels.labels import Labelling
from fxprune.analysis.ops.spec import Move
from fxprune.analysis.ops.table import spec_of_node

# Moves that keep the dims apart; all other ops read all that they get.
_MOVES = frozenset(Move) - {Move.RESHAPE}


def never_read(labelling: Labelling) -> Iterator[Fix]:
    """For each parameter or buffer that is read in part, the labels of the rest."""
    for node in labelling.graph.fx.nodes:
        if node.op == "get_attr" and any(_move(user) in _MOVES for user in node.users):
            left, read = _followed(node, labelling.axes)
            rest = np.setdiff1d(np.concatenate(left), np.concatenate(read)) if left and read else ()
            if len(rest):
                yield Fix(np.asarray(rest), "not read by the recorded forward", node)


def _followed(source: fx.Node, axes: Mapping[fx.Node, Any]) -> tuple[list[Labels], list[Labels]]:
    """The labels of which parts are taken on the way from a parameter, and those that are read in the end."""
    left: list[Labels] = []
    read: list[Labels] = []
    ahead = [source]
    while ahead:
        node = ahead.pop()
        for user in node.users:
            if user.target is operator.getitem or _move(user) in _MOVES:
                ahead.append(user)
            if _move(user) is Move.PART:
                left += _labels(axes[node])
            elif user.target is not operator.getitem and _move(user) not in _MOVES:
                read += _labels(axes[node])
    return left, read


def _move(node: fx.Node) -> Move | None:
    spec = spec_of_node(node)
    return None if spec is None else spec.move


def _labels(tensor: Any) -> list[Labels]:
    dims = (tensor.known(i) for i in range(len(tensor)))
    return [d for d in dims if isinstance(d, np.ndarray)]
