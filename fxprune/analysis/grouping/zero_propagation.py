"""Zeros: which tensors are zero in masked channels, and which calls therefore tell a masked channel from a removed one.

A masked channel is zero where it is made, and stays zero through most ops; but sigmoid(0) is 0.5. A sum, a norm or a
product of activations that runs over such channels gives another result once they are removed.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import fx

from fxprune.analysis.labels.dims import Fix
from fxprune.analysis.labels.labels import Labelling
from fxprune.analysis.ops.layout import unturned
from fxprune.analysis.ops.table import spec_of
from fxprune.analysis.ops.zeros import MaskedCall


def told_apart(labelling: Labelling, channels: npt.NDArray[np.bool_]) -> Iterator[Fix]:
    """The calls that add up over labelled dims whose masked channels are not zero, with the labels concerned.

    Args:
        labelling: of the graph.
        channels: for each label, whether it belongs to channels that may go, of shape (labels,).
    """
    sums = labelling.labeller.sums
    if not any(map(_writes_to_parameters, labelling.graph.fx.nodes)):
        sums = [(fix, factors) for fix, factors in sums if not _by_parameters(factors, labelling)]
    zero = _zero(labelling, channels) if sums else {}
    return (fix for fix, factors in sums if not any(zero[f] for f in factors))


def _by_parameters(factors: Iterable[fx.Node], labelling: Labelling) -> bool:
    """Whether a factor is a parameter that is masked, as the weight of nearly every layer: that is known at once."""
    sources = (unturned(f)[0] for f in factors)
    return any(source.op == "get_attr" and _has_channels(source, labelling) for source in sources)


def sums_of_weights(labelling: Labelling) -> Iterator[Fix]:
    """Sums and norms of weights, not of activations: nobody masks the weights that read a channel, as nobody removes
    them but fxprune, and what the weights that stay are divided by changes.
    """
    made: set[fx.Node] = set()
    for node in labelling.graph.fx.nodes if labelling.labeller.added_up else ():
        inside = node.all_input_nodes
        if node.op == "get_attr" or (node.op == "call_function" and inside and made.issuperset(inside)):
            made.add(node)
    for axes, i, node in labelling.labeller.added_up:
        labels = axes.known(i)
        if node in made and isinstance(labels, np.ndarray):
            yield Fix(labels, str(node.target), node)


def _zero(labelling: Labelling, channels: npt.NDArray[np.bool_]) -> dict[fx.Node, bool]:
    """For each node, whether its tensor is zero in masked channels."""
    zero: dict[fx.Node, bool] = {}
    for node in labelling.graph.fx.nodes:
        if node.op == "get_attr":
            zero[node] = _has_channels(node, labelling)
        elif node.target is operator.getitem:
            zero[node] = zero[node.args[0]]  # type: ignore[index]
        else:
            zero[node] = node.op == "call_function" and _stays_zero(MaskedCall(node, zero, labelling.axes, channels))
            if not zero[node] and _writes(node):
                zero |= dict.fromkeys(_sharing(node.args[0]) & zero.keys(), False)
    return zero


def _writes(node: fx.Node) -> bool:
    """Whether a call writes into its first tensor."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable and bool(node.args) and isinstance(node.args[0], fx.Node)


def _writes_to_parameters(node: fx.Node) -> bool:
    return _writes(node) and any(n.op == "get_attr" for n in _sharing(node.args[0]))


def _sharing(node: Any) -> set[fx.Node]:
    """The tensors that may have a tensor's memory: what it was rearranged from, and what was from that."""
    while _is_moved(node):
        node = node.all_input_nodes[0]
    found, ahead = set[fx.Node](), [node]
    while ahead:
        node = ahead.pop()
        if node not in found:
            found.add(node)
            ahead += filter(_is_moved, node.users)
    return found


def _is_moved(node: fx.Node) -> bool:
    spec = spec_of(node.target)
    return node.target is operator.getitem or (spec is not None and spec.move is not None)


def _has_channels(node: fx.Node, labelling: Labelling) -> bool:
    """Whether a parameter is masked where it has channels; one number for all of them is not."""
    axes: Any = labelling.axes[node]
    return any(isinstance(axes.known(i), np.ndarray) for i in range(len(axes)))


def _stays_zero(call: MaskedCall) -> bool:
    spec = spec_of(call.node.target)
    return spec is not None and spec.zeros(call)
