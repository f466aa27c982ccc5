"""Unread: the part of a parameter that the recorded forward leaves out; another forward may need it in its place.

A table of positions, or a causal mask, of which the example takes the first rows: nothing is known of the others, so
they stay.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import fx

from fxprune.analysis.labels.dims import Fix, Labels

_PARTS = frozenset("slice split split_with_sizes unsafe_split unsafe_split_with_sizes unsafe_chunk".split())
# Ops that neither read nor reshape; all others read all that they get.
_MOVES = _PARTS | frozenset(
    "alias clone detach expand lift_fresh permute select squeeze t _to_copy transpose unsqueeze".split()
)


def unread(nodes: fx.graph._node_list, axes: Mapping[fx.Node, Any]) -> Iterator[Fix]:
    """For each parameter or buffer that is read in part, the labels of the rest."""
    for node in nodes:
        if node.op == "get_attr" and any(_name(user) in _MOVES for user in node.users):
            left, read = _followed(node, axes)
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
            if user.target is operator.getitem or _name(user) in _MOVES:
                ahead.append(user)
            if _name(user) in _PARTS:
                left += _labels(axes[node])
            elif user.target is not operator.getitem and _name(user) not in _MOVES:
                read += _labels(axes[node])
    return left, read


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "_opname", ""))


def _labels(tensor: Any) -> list[Labels]:
    dims = (tensor.known(i) for i in range(len(tensor)))
    return [d for d in dims if isinstance(d, np.ndarray)]
