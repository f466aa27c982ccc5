"""Normalisation: scale, shift and statistics live or die with the normalised channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fxprune.analysis.labels.dims import Dim, Fixed
from fxprune.analysis.labels.labels import Axes, Call, Rule
from fxprune.analysis.ops.spec import NormArguments, OpSpec, Statistics
from fxprune.analysis.ops.terms import normalised
from fxprune.analysis.ops.zeros import first


def batch_norm(call: Call, x: Axes, *rest: Any, **_: Any) -> list[list[Dim]]:
    """Weight, bias and running statistics share the channel dim; saved statistics are nobody's input.

    Statistics of the present input run over all other dims.
    """
    if next((a for a in rest if isinstance(a, bool)), False):
        for i in (i for i in range(len(x)) if i != 1):
            call.lab.mix(x[i])
    for t in rest:
        if isinstance(t, Axes) and len(t) == 1 and t.shape[0] == x.shape[1]:
            call.lab.unite(x, 1, t, 0)
    return [x.dims(), *([x[1] if n == x.shape[1] else Fixed("reserve") for n in s] for s in call.shape[1:])]


def layer_norm(call: Call, x: Axes, shape: Any, *rest: Any) -> list[list[Dim]]:
    lead = len(x) - len(shape)
    for i in range(lead, len(x)):
        call.lab.mix(x[i])
    for t in rest:
        if isinstance(t, Axes):
            for i in range(len(shape)):
                call.lab.unite(x, lead + i, t, i)
    call.lab.suspect()
    stat = [*x.dims()[:lead], *([None] * len(shape))]
    return [x.dims(), *([stat] * (len(call.shape) - 1))]


def group_norm(call: Call, x: Axes, w: Axes | None, b: Axes | None, *sizes: Any) -> list[list[Dim]]:
    """The channel dim is a grid (group, channel in the group)."""
    lab, groups = call.lab, sizes[3]
    for t in (w, b):
        if t is not None:
            lab.unite(x, 1, t, 0)
    if groups > 1:
        rows, columns = lab.fresh(groups), lab.fresh(x.shape[1] // groups)
        lab.factor(x[1], [(groups, rows), (x.shape[1] // groups, columns)])
        lab.mix(columns)
        lab.width("num_groups", rows)
        lab.suspect(*([rows] if isinstance(rows, np.ndarray) else []))
    else:
        lab.mix(x[1])
    return [x.dims(), *([[x[0], None if groups == 1 else rows]] * 2)]


def rms_norm(call: Call, x: Axes, shape: Any, weight: Axes | None = None, *_: Any) -> Any:
    dims = layer_norm(Call(call.lab, call.node, (x.shape,)), x, shape, weight)[0]
    return [dims, [*dims[: len(x) - len(shape)], *([None] * len(shape))]] if isinstance(call.shape[0], tuple) else dims


def weight_norm(call: Call, v: Axes, g: Axes, dim: int = 0) -> list[list[Dim]]:
    """g·v/‖v‖, with one norm for each index of a dim; and the norms."""
    dim %= len(v)
    for i in (i for i in range(len(v)) if i != dim):
        call.lab.sum(v[i], call.node.args[0])
        call.lab.add_up(v, i)
    call.lab.unite(v, dim, g, dim)
    return [v.dims(), [v[i] if i == dim else None for i in range(len(v))]]


def _normalised_shape(args: Any, shape: Any, _: Sequence[int]) -> Any:
    """The shape that is normalised."""
    return (args[0], list(shape(args[0])[-len(args[1]) :]), *args[2:])


def _group_count(args: Any, shape: Any, _: Sequence[int]) -> Any:
    """Channels, and as many groups as divide them."""
    channels = shape(args[0])[1]
    return (*args[:4], channels, args[5], math.gcd(channels, args[6]), *args[7:])


def _norm(labels: Rule, at: NormArguments, **more: Any) -> OpSpec:
    return OpSpec(labels, first, norm=at, terms=normalised(at.scale, at.shift, at.channel), **more)


def _batch_norm(epsilon: int) -> OpSpec:
    return _norm(batch_norm, NormArguments(1, 2, channel=1, statistics=Statistics(3, 4, epsilon)))


OPS: dict[str, OpSpec] = {
    "native_batch_norm": _batch_norm(7),
    "_native_batch_norm_legit": _batch_norm(7),
    "_native_batch_norm_legit_no_training": _batch_norm(6),
    "_batch_norm_with_update": _batch_norm(6),
    "_batch_norm_no_update": _batch_norm(6),
    "cudnn_batch_norm": _batch_norm(7),
    "miopen_batch_norm": _batch_norm(7),
    "native_layer_norm": _norm(layer_norm, NormArguments(2, 3, channel=-1), lengths=_normalised_shape),
    "native_group_norm": _norm(group_norm, NormArguments(1, 2, channel=1), lengths=_group_count),
    "_fused_rms_norm": _norm(rms_norm, NormArguments(2, None, channel=-1)),
    "_weight_norm_interface": OpSpec(weight_norm, first),
    "rms_norm": OpSpec(rms_norm, first),
}
