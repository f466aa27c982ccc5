"""Partial reads: the part of a parameter that the recorded forward leaves out, or that another forward may replace or
read.

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
from fxprune.tracing.training_runs import code_asks_for_mode, may_be_cut

NOT_READ = "not read by the recorded forward"
REPLACED = "the forward's code may put another tensor in its place"
UNTRAINED = "training reads more of the module, and fails on these inputs"


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


def untrained(labelling: Labelling) -> Iterator[Fix]:
    """The labels of the tensors of modules that hold others which only training may read, where training mode failed.

    Such as the statistics of parts of a batch, for an example of one image.
    """
    graph = labelling.graph
    if not graph.untrained:
        return
    in_part = {str(fix.node.target) for fix in never_read(labelling) if fix.node is not None}
    nodes = {str(node.target): node for node in graph.fx.nodes if node.op == "get_attr"}
    for path, module in walk(graph.model):
        held = [f"{path}.{name}".lstrip(".") for name in (*module._parameters, *module._buffers)]
        known = [name for name in held if name in graph.tensors and may_be_cut(graph.tensors[name])]
        read = [nodes[name] for name in known if name in nodes]
        in_full = len(read) == len(known) and in_part.isdisjoint(known)
        if not in_full and code_asks_for_mode([type(module)]):
            for node in read:
                yield from (Fix(labels, UNTRAINED, node) for labels in _labels(labelling.axes[node]))


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
