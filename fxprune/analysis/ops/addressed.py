"""Ops that read or write at places that values tell: the addressed dim is fixed, the others pass."""

from __future__ import annotations

from typing import Any

from fxprune.analysis.labels.dims import Dim, Fixed, free_where_one
from fxprune.analysis.labels.labels import Axes, Call, fixed_result
from fxprune.analysis.ops import zeros
from fxprune.analysis.ops.spec import OpSpec
from fxprune.analysis.ops.zeros import MaskedCall

_REASON = "addressed by an index tensor"


def gather(call: Call, x: Axes, dim: int, index: Axes, **_: Any) -> list[Dim]:
    """`out[i, j] = x[index[i, j], j]`: all dims but the addressed one are read in step."""
    if not len(x):
        return []
    dim %= len(x)
    dims = _in_step(call, x, dim, index)
    call.lab.fix(index[dim], "index tensor")
    return [
        (Fixed(_REASON) if i == dim else d) if n > 1 else None
        for i, (d, n) in enumerate(zip(dims, call.shape, strict=True))
    ]


def scatter(call: Call, x: Axes, dim: int, index: Axes, source: Any = None, *_: Any, **__: Any) -> list[Dim]:
    """`x[index[i, j], j] = source[i, j]`."""
    if not len(x):
        return []
    dim %= len(x)
    _in_step(call, x, dim, index)
    call.lab.fix(index[dim], "index tensor")
    if isinstance(source, Axes):
        _in_step(call, x, dim, source)
        call.lab.fix(source[dim], _REASON)
    return x.dims()


def _in_step(call: Call, x: Axes, dim: int, other: Axes) -> list[Dim]:
    """Unite all dims but one; where the other is shorter, it addresses the first indices of `x`."""
    call.lab.fix(x[dim], _REASON)
    dims: list[Dim] = []
    for i in range(len(x)):
        if i != dim and x.shape[i] == other.shape[i]:
            dims.append(call.lab.unite(x, i, other, i))
            continue
        if i != dim:
            call.lab.fix(x[i], "read in part")
            call.lab.fix(other[i], "read in part")
        dims.append(Fixed(_REASON))
    return dims


def index_add(call: Call, x: Axes, dim: int, index: Axes, source: Any, *_: Any, **__: Any) -> list[Dim]:
    """Rows of `source` are added to, or put in the place of, those of `x` that a list of indices names."""
    dim %= max(1, len(x))
    call.lab.fix_axes(index, "index tensor")
    if isinstance(source, Axes) and len(source) == len(x):
        _in_step(call, x, dim, source)
        call.lab.fix(source[dim], _REASON)
    else:
        call.lab.fix(x[dim], _REASON)
    return x.dims()


def topk(call: Call, x: Axes, k: int, dim: int = -1, *_: Any, **__: Any) -> list[list[Dim]]:
    """The largest elements along a dim, and where they are."""
    dim %= max(1, len(x))
    call.lab.fix(x[dim], f"positions along the dim matter to {call.node.target}")
    return [
        [
            (Fixed("ranks") if i == dim else d) if n > 1 else None
            for i, (d, n) in enumerate(zip(x.dims(), s, strict=True))
        ]
        for s in call.shape
    ]


def embedding_bag(call: Call, w: Axes, *rest: Any, **kwargs: Any) -> list[list[Dim]]:
    """Rows of a table, put together bag by bag."""
    call.lab.fix(w[0], "rows of an embedding are addressed by value")
    fixed_result(call.lab, [a for a in (*rest, *kwargs.values()) if isinstance(a, Axes)], (), "index tensor")
    fixed = Fixed("index tensor")
    others = [free_where_one([fixed] * len(s), s) for s in call.shape[1:]]
    return [free_where_one([Fixed("bags"), w[1]], call.shape[0]), *others]


def _written(call: MaskedCall) -> bool:
    """What is written must be zero as well."""
    source = call.node.args[3] if len(call.node.args) > 3 else call.node.kwargs.get("value", 1)
    return zeros.first(call) and (call.is_zero(source) or (isinstance(source, int | float) and source == 0))


OPS: dict[str, OpSpec] = {
    "gather": OpSpec(gather, zeros.first),
    **dict.fromkeys(["scatter", "scatter_add", "scatter_reduce"], OpSpec(scatter, _written)),
    **dict.fromkeys(["index_add", "index_copy", "index_fill", "index_reduce"], OpSpec(index_add, _written)),
    "topk": OpSpec(topk),
    **dict.fromkeys(["_embedding_bag", "_embedding_bag_forward_only"], OpSpec(embedding_bag)),
}
