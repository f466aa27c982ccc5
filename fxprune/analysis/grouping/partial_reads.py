"""Partial reads: the part of a parameter that the recorded forward leaves out, or that another forward may replace.

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
from fxprune.module.held_tensors import stored_by_forward
from fxprune.module.tensors import walk

NOT_READ = "not read by the recorded forward"
REPLACED = "the forward's code may put another tensor in its place"


def never_read(labelling: Labelling) -> Iterator[Fix]:
    """For each parameter or buffer that is read in part, the labels of the rest."""
    for node in labelling.graph.fx.nodes:
        if node.op == "get_attr" and any(len(user.all_input_nodes) == 1 for user in node.users):
            left, read = _followed(node, labelling.axes)
            rest = np.setdiff1d(np.concatenate(left), np.concatenate(read)) if left and read else ()
            if len(rest):
                yield Fix(np.asarray(rest), NOT_READ, node)


def replaced(labelling: Labelling) -> Iterator[Fix]:
    """The labels of each buffer that the code of a forward may put another tensor in the place of: one that is made for
    a longer input, say, by code that knows nothing of a smaller width.
    """
    graph = labelling.graph
    kinds: dict[str, Any] = {path: type(module) for path, module in walk(graph.model)}
    for node in graph.fx.nodes:
        if node.op == "get_attr" and not node.meta.get("constant"):
            path, _, name = str(node.target).rpartition(".")
            if name in stored_by_forward(kinds[path]):
                for labels in _labels(labelling.axes[node]):
                    yield Fix(labels, REPLACED, node)


def _followed(source: fx.Node, axes: Mapping[fx.Node, Any]) -> tuple[list[Labels], list[Labels]]:
    """The labels of which parts are taken on the way from a parameter, and those that are read in the end.

    The way goes through calls on that tensor alone, as far as their results carry its labels: moves, a cosine.
    """
    left: list[Labels] = []
    read: list[Labels] = []
    ahead = [source]
    while ahead:
        node = ahead.pop()
        here = _labels(axes[node])
        for user in node.users:
            alone = user.op == "call_function" and len(user.all_input_nodes) == 1
            passed = np.concatenate([*_labels(axes[user]), _NOTHING]) if alone else _NOTHING
            if _move(user) is Move.PART:
                left += here
            elif user.target is not operator.getitem:
                read += [d for d in here if not np.isin(d, passed).all()]
            if len(passed):
                ahead.append(user)
    return left, read


_NOTHING = np.empty(0, dtype=np.int64)


def _move(node: fx.Node) -> Move | None:
    spec = spec_of_node(node)
    return None if spec is None else spec.move


def _labels(tensor: Any) -> list[Labels]:
    several = tensor if isinstance(tensor, tuple) else (tensor,)
    dims = (t.known(i) for t in several for i in range(len(t)))
    return [d for d in dims if isinstance(d, np.ndarray)]
