"""Positions: reshapes that lay channels over the positions of an image, in parts as long as the image happens to be.

A module that reads (positions, channels) as (channels, height, width) cuts the channels by the size of the input. What
goes for the size that was recorded would be wrong for any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import fx

from fxprune.analysis.labels.dims import MODEL_INPUT, SPATIAL, Factoring
from fxprune.analysis.ops.table import spec_of_node
from fxprune.analysis.widths.forms import Forms, Labelled, operands
from fxprune.analysis.widths.script import recorded_calls
from fxprune.tracing.functions import SIZED, SizeArguments, Takes
from fxprune.tracing.provenance import Computed, Dim, Reference, Run, Site, SizedCall

_LAID = "a reshape that divides these channels by the size of the input"


def laid_over_positions(forms: Forms, run: Run) -> Iterator[tuple[Any, Site, str]]:
    """The channels that a reshape divides by the number of positions, where, and how, as `Facts.escapes`."""
    nodes = recorded_calls(forms.analysis.labelling.graph.fx)
    splits: dict[fx.Node, list[Factoring]] = {}
    for f in forms.analysis.labelling.labeller.factorings:
        if f.split:
            splits.setdefault(f.node, []).append(f)
    for call in run.calls if splits else ():
        here = [f for i in call.nodes for f in splits.get(nodes[i], ())]
        if here and call.name in SIZED and call.results:
            parts = _laid(forms, call, SIZED[call.name])
            for f in here:
                if any(part is factor for part in parts for factor in f.factors):
                    yield Labelled(f.flat, len(f.flat)), call.site, _LAID


def _laid(forms: Forms, call: SizedCall, where: SizeArguments) -> list[Any]:
    """What the dims of a reshape's result carry whose lengths follow the positions of an input."""
    axes = forms.axes(call.results[0])
    given = next((call.kwargs[n] for n in where.names if n in call.kwargs), call.args[where.first :])
    if axes is None:
        return []
    if where.takes is Takes.LIKE:
        other = given[0] if type(given) is tuple else given
        sizes = [Dim(other, i, n) for i, n in enumerate(axes.shape)] if isinstance(other, Reference) else []
        start = 0
    elif where.takes in (Takes.SHAPE, Takes.UNFLATTENED):
        sizes = given[0] if given and type(given[0]) is tuple else given
        start = 0 if where.takes is Takes.SHAPE else _unflattened(forms, call)
    else:
        return []
    return [axes.known(i) for i, size in enumerate(sizes, start) if i < len(axes) and _follows(forms, size)]


def _unflattened(forms: Forms, call: SizedCall) -> int:
    """The dim that becomes several."""
    axes, dim = forms.axes(call.args[0]), call.args[1] if len(call.args) > 1 else call.kwargs.get("dim")
    return int(dim) % len(axes) if axes is not None and type(dim) is int else 0


def _follows(forms: Forms, source: Any) -> bool:
    """Whether a number follows the positions of an input."""
    if isinstance(source, Computed):
        return any(_follows(forms, side) for side in operands(source))
    if not isinstance(source, Dim):
        return False
    carried = forms.labels_of(source)
    if isinstance(carried, np.ndarray) or carried not in (SPATIAL, MODEL_INPUT):
        return False
    return not _is_read(source.tensor.node, source.axis)


def _is_read(node: Any, axis: int) -> bool:
    """Whether a convolution reads a dim of an input as channels, whose number is always the same."""
    for user in node.users if isinstance(node, fx.Node) else ():
        spec, arguments = spec_of_node(user), user.args
        for weight in spec.weights(user) if spec and arguments[0] is node else ():
            read: Any = arguments[weight[0]]
            if axis == len(node.meta["shape"]) - len(read.meta["shape"]) + 1:
                return True
    return False
