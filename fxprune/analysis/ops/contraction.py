"""Convolutions and matrix products: the contracted dims are equated, the others move to the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import fx

from fxprune.analysis.labels.dims import Dim, Fixed
from fxprune.analysis.labels.labels import Axes, Call, Rule
from fxprune.analysis.ops.pointwise import pointwise

_KERNEL = Fixed("kernel size of a convolution")
_SPATIAL = Fixed("spatial")


def convolution(
    call: Call,
    x: Axes,
    w: Axes,
    bias: Axes | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> list[Dim]:
    """w is (out, in/groups, *kernel), transposed (in, out/groups, *kernel).

    Spatial dims are fixed, but where the kernel is 1, the stride 1 and nothing padded: indices there stay apart, and
    the dim may be anything (a layer over tokens has channels there).
    """
    lab, channel = call.lab, len(x) - len(w) + 1
    apart = [*_apart(w.shape[2:], stride, padding, output_padding)]
    for i in (i for i in range(channel + 1, len(x)) if not apart[i - channel - 1]):
        lab.fix(x[i], "spatial dim of a convolution")
    for i in range(2, len(w)):
        lab.fix_axes(Axes(lab, w.shape[i : i + 1], [w.known(i)]), _KERNEL.reason)
        w.adopt(i, None if w.shape[i] == 1 else _KERNEL)
    out = _plain(call, x, w, channel, transposed) if groups == 1 else _grouped(call, x, w, channel, transposed, groups)
    if bias is not None:
        out = lab.unite(Axes(lab, (call.shape[channel],), [out]), 0, bias, 0)
    swept = [None if n == 1 else _SPATIAL for n in call.shape[channel + 1 :]]
    kept = x.dims()[channel + 1 :]
    return [*x.dims()[:channel], out, *(k if alone else s for k, s, alone in zip(kept, swept, apart, strict=True))]


def _apart(kernel: Sequence[int], *settings: Sequence[int]) -> Iterator[bool]:
    """For each spatial dim, whether no index of the result sees two of the input's, nor anything else."""
    for i, n in enumerate(kernel):
        stride, padding, more = (s[i if len(s) > 1 else 0] for s in settings)
        yield (n, stride, padding, more) == (1, 1, 0, 0)


def _plain(call: Call, x: Axes, w: Axes, channel: int, transposed: bool) -> Dim:
    call.lab.unite(x, channel, w, 0 if transposed else 1)
    return w[1 if transposed else 0]


def _grouped(call: Call, x: Axes, w: Axes, channel: int, transposed: bool, groups: int) -> Dim:
    """Input and output are grids (group, channel in the group) that share the group axis.

    The first dim of `w` is a grid as well: the output's, or, transposed, the input's; its second dim is the length of
    the other grid's rows. Depthwise is the grid with rows of length 1.
    """
    lab = call.lab
    n_in, n_out = x.shape[channel] // groups, call.shape[channel] // groups
    if transposed:
        flat_in, flat_out = lab.unite(x, channel, w, 0), lab.fresh(groups * n_out)
        inner_in, inner_out = lab.fresh(n_in), w[1]
    else:
        flat_in, flat_out = x[channel], w[0]
        inner_in, inner_out = w[1], lab.fresh(n_out)
    rows = flat_in if n_in == 1 else lab.fresh(groups)
    lab.factor(flat_in, [(groups, rows), (n_in, inner_in)])
    lab.factor(flat_out, [(groups, rows), (n_out, inner_out)])
    lab.width("groups", rows)
    lab.suspect(*([rows] if isinstance(rows, np.ndarray) else []))
    return flat_out


def mm(call: Call, a: Axes, b: Axes, *_: Any, **__: Any) -> list[Dim]:
    call.lab.unite(a, 1, b, 0)
    return [a[0], b[1]]


def bmm(call: Call, a: Axes, b: Axes, *_: Any, **__: Any) -> list[Dim]:
    call.lab.unite(a, 2, b, 1)
    return [call.lab.unite(a, 0, b, 0), a[1], b[2]]


def addmm(call: Call, bias: Axes, a: Axes, b: Axes, **_: Any) -> list[Dim]:
    return pointwise(call, Axes(call.lab, call.shape, mm(call, a, b)), bias)


def baddbmm(call: Call, bias: Axes, a: Axes, b: Axes, **_: Any) -> list[Dim]:
    return pointwise(call, Axes(call.lab, call.shape, bmm(call, a, b)), bias)


def mv(call: Call, a: Axes, b: Axes) -> list[Dim]:
    call.lab.unite(a, 1, b, 0)
    return [a[0]]


def addmv(call: Call, bias: Axes, a: Axes, b: Axes, **_: Any) -> list[Dim]:
    return pointwise(call, Axes(call.lab, call.shape, mv(call, a, b)), bias)


def dot(call: Call, a: Axes, b: Axes) -> list[Dim]:
    call.lab.unite(a, 0, b, 0)
    return []


def linear(call: Call, x: Axes, w: Axes, bias: Axes | None = None) -> list[Dim]:
    call.lab.unite(x, len(x) - 1, w, 1)
    out = w[0]
    if bias is not None:
        out = call.lab.unite(Axes(call.lab, w.shape[:1], [out]), 0, bias, 0)
    return [*x.dims()[:-1], out]


def embedding(call: Call, w: Axes, index: Axes, *_: Any, **__: Any) -> list[Dim]:
    call.lab.fix(w[0], "rows of an embedding are addressed by value")
    return [*index.dims(), w[1]]


RULES: dict[str, Rule] = {
    "convolution": convolution,
    "mm": mm,
    "bmm": bmm,
    "addmm": addmm,
    "baddbmm": baddbmm,
    "mv": mv,
    "addmv": addmv,
    "dot": dot,
    "linear": linear,
    "embedding": embedding,
}


def _convolution_roles(node: fx.Node) -> list[tuple[int, int, int]]:
    depthwise = node.args[8] == node.args[1].meta["shape"][0] > 1  # type: ignore[union-attr]
    return [(1, 1, 0)] if node.args[6] and not depthwise else [(1, 0, 1)]


# Which argument of a contraction may be a weight, as (argument, dim that makes channels, dim that reads them).
ROLES: dict[str, Callable[[fx.Node], list[tuple[int, int, int]]]] = {
    "convolution": _convolution_roles,
    "mm": lambda _: [(0, 0, 1), (1, 1, 0)],
    "addmm": lambda _: [(1, 0, 1), (2, 1, 0)],
    "linear": lambda _: [(1, 0, 1)],
}


def unturned(node: fx.Node) -> tuple[fx.Node, bool]:
    """Look through the transposition that a linear layer, or code like `x @ w.T`, applies to its weight."""
    if node.op == "call_function" and turns(getattr(node.target, "_opname", ""), node.args, node.meta["shape"]):
        return node.args[0], True  # type: ignore[return-value]
    return node, False


def turns(op: str, args: Sequence[Any], shape: Sequence[Any]) -> bool:
    """Whether a call with a result of this shape transposes a matrix."""
    if op == "t" or len(shape) != 2:
        return op == "t"
    if op == "permute":
        return [d % 2 for d in args[1]] == [1, 0]
    return op == "transpose" and args[1] % 2 != args[2] % 2
