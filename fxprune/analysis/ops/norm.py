"""Normalisation: scale, shift and statistics live or die with the normalised channels."""

from __future__ import annotations

from typing import Any, NamedTuple

from fxprune.analysis.labels.dims import Dim, Fixed
from fxprune.analysis.labels.labels import Axes, Call, Rule


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
        lab.suspect()
    else:
        lab.mix(x[1])
    return [x.dims(), *([[x[0], None if groups == 1 else rows]] * 2)]


def rms_norm(call: Call, x: Axes, shape: Any, weight: Axes | None = None, *_: Any) -> Any:
    dims = layer_norm(Call(call.lab, call.node, (x.shape,)), x, shape, weight)[0]
    return [dims, [*dims[: len(x) - len(shape)], *([None] * len(shape))]] if isinstance(call.shape[0], tuple) else dims


class BatchNorm(NamedTuple):
    """What a batch norm multiplies and shifts each channel by, as numbers of its arguments."""

    epsilon: int
    scale: int = 1
    shift: int = 2
    mean: int = 3
    variance: int = 4


BATCH_NORMS: dict[str, BatchNorm] = {
    "native_batch_norm": BatchNorm(epsilon=7),
    "_native_batch_norm_legit": BatchNorm(epsilon=7),
    "_native_batch_norm_legit_no_training": BatchNorm(epsilon=6),
    "_batch_norm_with_update": BatchNorm(epsilon=6),
    "_batch_norm_no_update": BatchNorm(epsilon=6),
    "cudnn_batch_norm": BatchNorm(epsilon=7),
    "miopen_batch_norm": BatchNorm(epsilon=7),
}

RULES: dict[str, Rule] = {
    **dict.fromkeys(BATCH_NORMS, batch_norm),
    "native_layer_norm": layer_norm,
    "native_group_norm": group_norm,
    "_fused_rms_norm": rms_norm,
    "rms_norm": rms_norm,
}
