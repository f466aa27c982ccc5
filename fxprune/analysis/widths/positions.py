"""Positions: reshapes that lay channels over the positions of an image, in parts as long as the image happens to be.

A module that reads (positions, channels) as (channels, height, width) cuts the channels by the size of the input. What
goes for the size that was recorded would be wrong for any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import fx

from fxprune.analysis.labels.dims import MODEL_INPUT, SPATIAL
from fxprune.analysis.ops.table import spec_of_node
from fxprune.analysis.widths.equations import Facts
from fxprune.analysis.widths.forms import Forms, Labelled, operands
from fxprune.analysis.widths.script import recorded_calls
from fxprune.tracing.provenance import Computed, Dim, Site

_LAID = "a reshape that divides these channels by the size of the input"


def laid_over_positions(forms: Forms, facts: Facts) -> Iterator[tuple[Any, Site, str]]:
    """The channels that a reshape divides by the number of positions, where, and how, as `Facts.escapes`."""
    nodes = recorded_calls(forms.analysis.labelling.graph.fx)
    splits = [f for f in forms.analysis.labelling.labeller.factorings if f.split]
    for source, carried, call in facts.lengths if splits else ():
        inside = {nodes[i] for i in call.nodes}
        for f in splits:
            if f.node in inside and any(carried is factor for factor in f.factors) and _follows(forms, source):
                yield Labelled(f.flat, len(f.flat)), call.site, _LAID


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
