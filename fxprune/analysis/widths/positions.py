"""Positions: reshapes that lay channels over the positions of an image, in parts as long as the image happens to be.

A module that reads (positions, channels) as (channels, height, width) cuts the channels by the size of the input. What
goes for the size that was recorded would be wrong for any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import fx

from fxprune.analysis.labels.dims import MODEL_INPUT, SPATIAL, Factoring
from fxprune.analysis.ops.table import spec_of_node
from fxprune.analysis.widths.forms import Forms, Labelled, leaves


def divided_channels(forms: Forms, grids: Sequence[Factoring], source: Any, dim: Any) -> Iterator[Labelled]:
    """The channels that a reshape divides by the number of positions, given the dims that it sees as `grids`, and the
    `source` of the length of a dim of its result.
    """
    split = [f for f in grids if f.split and any(dim is factor for factor in f.factors)]
    if split and any(_follows(forms, leaf) for leaf in leaves(source)):
        yield from (Labelled(f.flat, len(f.flat)) for f in split)


def _follows(forms: Forms, source: Any) -> bool:
    """Whether a number follows the positions of an input."""
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
