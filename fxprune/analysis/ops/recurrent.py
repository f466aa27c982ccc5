"""Recurrent layers that reach the dispatcher as one op, and sequences of several lengths."""

from __future__ import annotations

from typing import Any

import numpy as np

from fxprune.analysis.labels.dims import Dim, Fixed, free_where_one
from fxprune.analysis.labels.labels import Axes, Call
from fxprune.analysis.ops import zeros
from fxprune.analysis.ops.spec import OpSpec, Weight
from fxprune.analysis.ops.zeros import MaskedCall


def rnn_layer(call: Call, x: Axes, *args: Any) -> list[list[Dim]]:
    """One layer and direction: gates of `w x + b + u h + c`, each of them with one row a hidden channel."""
    lab, (w, u, b, c, h, cell), size = call.lab, args[:6], args[9]
    lab.unite(x, len(x) - 1, w, 1)
    gates = lab.unite(w, 0, u, 0)
    for bias in (b, c):
        lab.unite(w, 0, bias, 0)
    hidden = lab.unite(u, 1, h, len(h) - 1)
    lab.unite(u, 1, cell, len(cell) - 1)
    if isinstance(gates, np.ndarray):
        lab.splits.append((call.node, gates, len(gates) // size))
        lab.equate(hidden, gates[:size])
    lab.width("hidden_size", hidden)
    return [_ending(x, hidden, s) for s in call.shape]


def _ending(x: Axes, hidden: Dim, shape: tuple[int, ...]) -> list[Dim]:
    """The dims of a result whose last dim is the hidden channels; the workspace has others."""
    if not shape or len(shape) > len(x):
        return free_where_one([Fixed("workspace")] * len(shape), shape)
    return free_where_one([*x.dims()[len(x) - len(shape) : -1], hidden], shape)


def _rnn_zeros(call: MaskedCall) -> bool:
    """Weights and biases make all gates 1/2 or 0, so that a state of zero stays zero."""
    return all(call.is_zero(state) for state in call.node.args[5:7])


def pack(call: Call, x: Axes, lengths: Axes, *_: Any) -> list[list[Dim]]:
    """(batch, time, channels) becomes (elements, channels); lengths are values."""
    call.lab.fix_axes(lengths, "lengths of sequences")
    for i in (0, 1):
        call.lab.fix(x[i], "packed sequences")
    return [[Fixed("packed sequences"), *x.dims()[2:]], [Fixed("lengths of sequences")]]


OPS: dict[str, OpSpec] = {
    "mkldnn_rnn_layer": OpSpec(rnn_layer, _rnn_zeros, lambda _: [Weight(1, 0, 1), Weight(2, 0, 1)]),
    "_pack_padded_sequence": OpSpec(pack, zeros.first),
}
