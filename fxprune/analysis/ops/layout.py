"""Ops that only rearrange: views, permutations, concatenation, slices. Labels move with the data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from torch import fx

from fxprune.analysis.labels.dims import Dim, Fixed, Loose
from fxprune.analysis.labels.labels import Axes, Call, fixed_result
from fxprune.analysis.ops import zeros
from fxprune.analysis.ops.spec import Move, OpSpec


def reshape(call: Call, x: Axes, *_: Any, **__: Any) -> list[Dim]:
    """Dims whose lengths multiply to the same product form a block; each block is moved, split or merged."""
    result: list[Dim] = []
    for old, new in _blocks(x.shape, call.shape):
        before = [(x.shape[i], x[i]) for i in old if x.shape[i] > 1]
        sizes = [call.shape[i] for i in new if call.shape[i] > 1]
        moved = iter(_regrouped(call, before, sizes))
        result += [next(moved) if call.shape[i] > 1 else None for i in new]
    if any(isinstance(d, np.ndarray) for d in result):
        call.lab.suspect()
    return result


def _blocks(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Split both shapes into the shortest runs of equal product."""
    # An empty dim (no detection) stands for any length; a prime that no other dims multiply to keeps its place.
    old, new = ([n or 2**31 - 1 for n in shape] for shape in (old, new))
    i = j = 0
    while i < len(old) or j < len(new):
        a: list[int] = []
        b: list[int] = []
        p = q = 1
        while (p != q or not (a or b)) and (i < len(old) or j < len(new)):
            if (p <= q and i < len(old)) or j >= len(new):
                p *= old[i]
                a.append(i)
                i += 1
            else:
                q *= new[j]
                b.append(j)
                j += 1
        while i < len(old) and old[i] == 1:
            a.append(i)
            i += 1
        while j < len(new) and new[j] == 1:
            b.append(j)
            j += 1
        yield a, b


def _regrouped(call: Call, before: list[tuple[int, Dim]], sizes: list[int]) -> list[Dim]:
    """The dims of a block after the reshape: old ones are split where a new one ends inside, and the parts merged.

    So heads that are merged with a batch and split off again are the same dims whatever the batch. Where a new dim ends
    inside an old one at no whole index, all are merged and split anew.
    """
    if math.prod(n for n, _ in before) != math.prod(sizes):
        for _, dim in before:
            call.lab.fix(dim, _EMPTY)
        return [Fixed(_EMPTY)] * len(sizes)
    parts = _common_parts([n for n, _ in before], sizes)
    if parts is None or call.lab.is_free() or any(isinstance(d, Loose) for _, d in before):
        return _split(call, _merge(call, before), sizes)
    ends = set(np.cumprod(sizes).tolist())
    result: list[Dim] = []
    pieces: list[tuple[int, Dim]] = []
    done = 1
    for (_, dim), lengths in zip(before, parts, strict=True):
        for n, piece in zip(lengths, _split(call, dim, lengths), strict=True):
            pieces.append((n, piece))
            done *= n
            if done in ends:
                result.append(_merge(call, pieces))
                pieces = []
    return result


_EMPTY = "reshaped while it is empty"


def _common_parts(old: list[int], new: list[int]) -> list[list[int]] | None:
    """The lengths of the parts of each old dim that both shapes are made of; None if there are no such parts."""
    ends = sorted({*np.cumprod(old).tolist(), *np.cumprod(new).tolist()})
    if any(b % a for a, b in pairwise(ends)):
        return None
    parts: list[list[int]] = []
    last = 1
    for end in np.cumprod(old).tolist():
        inside = [e for e in ends if last < e <= end]
        parts.append([b // a for a, b in pairwise([last, *inside])])
        last = end
    return parts


def _merge(call: Call, dims: list[tuple[int, Dim]]) -> Dim:
    """One dim from several: labels repeat along fixed neighbours; with two labelled dims it is a factoring."""
    if len(dims) == 1:
        return dims[0][1]
    moved = call.lab.close(dims)
    if moved is not None:
        return moved
    labelled = [k for k, (_, d) in enumerate(dims) if isinstance(d, np.ndarray)]
    if not labelled:
        return next((d for _, d in dims if d is not None), None)
    sizes = [n for n, _ in dims]
    if len(labelled) == 1:
        (k,) = labelled
        grid = np.reshape(dims[k][1], [-1 if i == k else 1 for i in range(len(sizes))])  # type: ignore[arg-type]
        return np.broadcast_to(grid, sizes).reshape(-1)
    flat = call.lab.fresh(math.prod(sizes))
    call.lab.factor(flat, dims)
    return flat


def _split(call: Call, flat: Dim, sizes: list[int]) -> list[Dim]:
    """Several dims from one; where the labels already repeat along all factors but one, that one takes them."""
    if not isinstance(flat, np.ndarray):
        return [flat] * len(sizes)
    if len(sizes) <= 1:
        return [flat] * len(sizes)
    grid = flat.reshape(sizes)
    varying = [k for k in range(len(sizes)) if not (grid == grid.take([0], axis=k)).all()]
    if len(varying) == 1:
        (k,) = varying
        return [_line(grid, k) if i == k else Fixed("split off a labelled dim") for i in range(len(sizes))]
    if call.lab.balance(flat):
        return [Loose(flat, tuple(sizes), i, call.node.name) for i in range(len(sizes))]
    parts = [call.lab.fresh(n) for n in sizes]
    call.lab.factor(flat, list(zip(sizes, parts, strict=True)), split=True)
    return parts


def _line(grid: Any, axis: int) -> Any:
    return np.moveaxis(grid, axis, 0).reshape(grid.shape[axis], -1)[:, 0]


def permute(call: Call, x: Axes, order: Sequence[int]) -> list[Dim]:
    return [x[d] for d in order]


def transpose(call: Call, x: Axes, a: int, b: int) -> list[Dim]:
    dims = x.dims()
    dims[a], dims[b] = dims[b], dims[a]
    return dims


def t(call: Call, x: Axes) -> list[Dim]:
    return x.dims()[::-1]


def unsqueeze(call: Call, x: Axes, dim: int) -> list[Dim]:
    dims = x.dims()
    dims.insert(dim if dim >= 0 else dim + len(x) + 1, None)
    return dims


def squeeze(call: Call, x: Axes, dim: Any = None) -> list[Dim]:
    asked = range(len(x)) if dim is None else [d % len(x) for d in ([dim] if isinstance(dim, int) else dim)]
    for i, n in enumerate(x.shape):
        if dim is None and n > 1:
            call.lab.multiple(x[i], 2)  # a single channel would be squeezed, too
    return [x[i] for i in range(len(x)) if not (i in asked and x.shape[i] == 1)]


def expand(call: Call, x: Axes, *_: Any, **__: Any) -> list[Dim]:
    """Broadcast dims get fresh labels: their length follows what they are combined with."""
    lead = len(call.shape) - len(x)
    dims = [
        x[i - lead] if i >= lead and x.shape[i - lead] == n else call.lab.fresh(n) for i, n in enumerate(call.shape)
    ]
    call.lab.suspect()
    return dims


def repeat(call: Call, x: Axes, times: Sequence[int]) -> list[Dim]:
    lead = len(call.shape) - len(x)
    return [_tiled(call, x[i - lead] if i >= lead else None, n, times[i]) for i, n in enumerate(call.shape)]


def _tiled(call: Call, dim: Dim, size: int, times: int) -> Dim:
    """Copies of a dim; of what the model holds, such as filters that every channel gets, there may be fewer copies."""
    held = call.node.args[0].op == "get_attr"  # type: ignore[union-attr]
    if isinstance(dim, np.ndarray) and held and times > 1 and len(dim) > 1:
        flat = call.lab.fresh(size)
        call.lab.factor(flat, [(times, call.lab.fresh(times)), (len(dim), dim)])
        call.lab.suspect()
        return flat
    if isinstance(dim, np.ndarray):
        return np.tile(dim, times)
    if isinstance(dim, Fixed) or size == 1:
        return dim
    call.lab.suspect()
    return call.lab.fresh(size)


def flip(call: Call, x: Axes, dims: Sequence[int]) -> list[Dim]:
    turned = {d % len(x) for d in dims}
    return [d[::-1] if i in turned and isinstance(d, np.ndarray) else d for i, d in enumerate(x.dims())]


def rot90(call: Call, x: Axes, k: int = 1, dims: Sequence[int] = (0, 1)) -> list[Dim]:
    """A flip of one dim, and both in each other's place; two of them are a flip of both."""
    i, j = (d % len(x) for d in dims)
    turned = flip(call, x, {1: [j], 2: [i, j], 3: [i]}.get(k % 4, []))
    if k % 2:
        turned[i], turned[j] = turned[j], turned[i]
    return turned


def roll(call: Call, x: Axes, shifts: Any, dims: Any = ()) -> list[Dim]:
    for d in dims or range(len(x)):
        call.lab.fix(x[d], "rolled by a number in the model's code")
    return x.dims()


def cat(call: Call, tensors: list[Axes], dim: int = 0) -> list[Dim]:
    """Label arrays are concatenated along `dim` and equated along the others."""
    parts = [x for x in tensors if len(x) == len(call.shape)]  # torch lets empty 1-d tensors pass
    dim %= len(call.shape)
    first, *rest = parts
    for x in rest:
        for i in range(len(x)):
            if i != dim:
                call.lab.unite(first, i, x, i)
    dims = first.dims()
    dims[dim] = _joined(call, [(x.shape[dim], x[dim]) for x in parts])
    return dims


def _joined(call: Call, parts: list[tuple[int, Dim]]) -> Dim:
    if not any(isinstance(d, np.ndarray) for _, d in parts):
        return next((d for _, d in parts if d is not None), Fixed("concatenated") if len(parts) > 1 else None)
    return np.concatenate([d if isinstance(d, np.ndarray) else _pinned(call, n, d) for n, d in parts])


def _pinned(call: Call, n: int, dim: Dim) -> Any:
    """Labels for a part that must stay, so that it can stand beside labelled parts."""
    labels = np.arange(call.lab.count, call.lab.count + n)
    call.lab.count += n
    call.lab.fix(labels, dim.reason if isinstance(dim, Fixed) else "concatenated single channel")
    return labels


def stack(call: Call, tensors: list[Axes], dim: int = 0) -> list[Dim]:
    first, *rest = tensors
    for x in rest:
        for i in range(len(x)):
            call.lab.unite(first, i, x, i)
    dims = first.dims()
    dims.insert(dim if dim >= 0 else dim + len(first) + 1, Fixed("stacked") if len(tensors) > 1 else None)
    return dims


def pad(call: Call, x: Axes, amounts: Sequence[int], *_: Any) -> list[Dim]:
    """Channels that a pad adds are ordinary new ones; the amount is a number in the model's code."""
    dims = x.dims()
    for k in range(len(amounts) // 2):
        before, after = amounts[2 * k], amounts[2 * k + 1]
        i = len(dims) - 1 - k
        dim = dims[i]
        if isinstance(dim, np.ndarray) and (before or after):
            dims[i] = _padded(call, dim, before, after)
        elif before or after:
            dims[i] = None if call.shape[i] == 1 else dim or Fixed("padded")
    return dims


def _padded(call: Call, labels: Any, before: int, after: int) -> Any:
    labels = labels[max(-before, 0) : len(labels) - max(-after, 0)]
    start = call.lab.count
    call.lab.count += max(before, 0) + max(after, 0)
    new = np.arange(start, call.lab.count)
    call.lab.suspect(*(part for part in (new[: max(before, 0)], new[max(before, 0) :]) if len(part)))
    return np.concatenate([new[: max(before, 0)], labels, new[max(before, 0) :]])


def as_strided(call: Call, x: Axes, *_: Any, **__: Any) -> Any:
    same = x.shape == call.shape
    return x.dims() if same else fixed_result(call.lab, [x], call.shape, "strides in the model's code")


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


_RESHAPE = OpSpec(reshape, zeros.first, move=Move.RESHAPE)
_COPIED = OpSpec(reshape, zeros.first)

OPS: dict[str, OpSpec] = {
    **dict.fromkeys(["view", "_unsafe_view", "reshape", "_reshape_alias"], _RESHAPE),
    **dict.fromkeys(["_reshape_copy", "view_copy"], _COPIED),
    "permute": OpSpec(permute, zeros.first, move=Move.TURN),
    "transpose": OpSpec(transpose, zeros.first, move=Move.TURN),
    "t": OpSpec(t, zeros.first, move=Move.TURN),
    "unsqueeze": OpSpec(unsqueeze, zeros.first, move=Move.STRETCH),
    "squeeze": OpSpec(squeeze, zeros.first, move=Move.STRETCH),
    "expand": OpSpec(expand, zeros.first_throughout, move=Move.STRETCH),
    "repeat": OpSpec(repeat, zeros.first_throughout),
    "flip": OpSpec(flip, zeros.first, move=Move.SHIFT),
    "rot90": OpSpec(rot90, zeros.first),
    "roll": OpSpec(roll, zeros.first, move=Move.SHIFT),
    "cat": OpSpec(cat, zeros.all_inputs, move=Move.JOIN),
    "stack": OpSpec(stack, zeros.all_inputs, move=Move.JOIN),
    "constant_pad_nd": OpSpec(pad, zeros.padded, values=True),
    "as_strided": OpSpec(as_strided, zeros.first),
}
