"""Ops that take a part of a tensor: slices and splits move labels, an index in the model's code fixes the dim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fxprune.analysis.labels.dims import Dim, Fixed
from fxprune.analysis.labels.labels import Axes, Call, fixed_result
from fxprune.analysis.ops import zeros
from fxprune.analysis.ops.spec import Move, OpSpec


def slice_(call: Call, x: Axes, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> list[Dim]:
    dims = x.dims()
    dim %= len(x)
    labels = dims[dim]
    if isinstance(labels, np.ndarray) and call.shape != x.shape:
        call.lab.suspect(*_bounds(labels, start, end))
        if call.shape[dim] <= 1:
            fix = call.lab.fix_read if start in (0, None, -1) else call.lab.fix  # the others may be out of range
            fix(labels, "one index is taken by the model's code")
        dims[dim] = _stepped(call, labels, start, end, step) if call.shape[dim] > 1 else None
    elif call.shape[dim] == 1:
        dims[dim] = None
    return dims


def _stepped(call: Call, labels: Any, start: Any, end: Any, step: int) -> Dim:
    """One index of every `step`: a column of the grid (length / step, step), of which rows may go."""
    rows, rest = divmod(len(labels), step)
    if step == 1:
        return labels[start:end]
    if rest or len(range(*slice(start, end, step).indices(len(labels)))) < rows:
        call.lab.fix_read(labels, "sliced with a step")
        return labels[start:end:step]
    kept = call.lab.fresh(rows)
    call.lab.factor(labels, [(rows, kept), (step, Fixed("sliced with a step"))])
    return kept


def _bounds(labels: Any, start: Any, end: Any) -> list[Any]:
    """The labels that the bounds of a slice count."""
    return [labels[:b] for b in (start, end) if isinstance(b, int) and 0 < b < len(labels)]


def select(call: Call, x: Axes, dim: int, index: int) -> list[Dim]:
    dim %= len(x)
    if index not in (0, -1) or not _is_uniform(call.node.args[0]):
        call.lab.fix_read(x[dim], "one index is taken by the model's code")
    return [x[i] for i in range(len(x)) if i != dim]


def _is_uniform(source: Any) -> bool:
    """Whether a tensor was filled with one number, and nothing but this selection reads or changes it."""
    return getattr(source.target, "_opname", "") in _FILLED and len(source.users) == 1


_FILLED = frozenset(
    ["zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"]
)


def unbind(call: Call, x: Axes, dim: int = 0) -> list[list[Dim]]:
    dims = select(call, x, dim, 0)
    return [list(dims) for _ in call.shape]


def split(call: Call, x: Axes, sizes: Any, dim: int = 0) -> list[list[Dim]]:
    """Equal parts are the grid (parts, length): the same indices of every part live or die together."""
    dim %= len(x)
    labels = x[dim]
    lengths = [s[dim] for s in call.shape]
    if isinstance(labels, np.ndarray) and len(lengths) > 1:
        call.lab.suspect()
        return _labelled_split(call, x, dim, labels, lengths)
    return [[None if s[dim] == 1 and i == dim else d for i, d in enumerate(x.dims())] for s in call.shape]


def _labelled_split(call: Call, x: Axes, dim: int, labels: Any, lengths: list[int]) -> list[list[Dim]]:
    parts = np.split(labels, np.cumsum(lengths)[:-1])
    if min(lengths) == 1:
        call.lab.fix(labels, "split into single channels")
    elif len(set(lengths)) == 1 and not call.lab.balance(labels):
        call.lab.splits.append((call.node, labels, len(parts)))
    rest = x.dims()
    return [[*rest[:dim], p if len(p) > 1 else None, *rest[dim + 1 :]] for p in parts]


def diagonal(call: Call, x: Axes, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """The diagonal of a square: row i and column i live or die together."""
    i, j = dim1 % len(x), dim2 % len(x)
    if offset or x.shape[i] != x.shape[j]:
        return fixed_result(call.lab, [x], call.shape, "positions beside a diagonal")
    along = call.lab.unite(x, i, x, j)
    return [*(x[k] for k in range(len(x)) if k not in (i, j)), along]


def diag_embed(call: Call, x: Axes, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    """A square with `x` on its diagonal, and zeros elsewhere."""
    if offset:
        return fixed_result(call.lab, [x], call.shape, "positions beside a diagonal")
    *dims, along = x.dims()
    for i in sorted((dim1 % len(call.shape), dim2 % len(call.shape))):
        dims.insert(i, along)
    return dims


def index(call: Call, x: Axes, indices: Sequence[Any]) -> Any:
    """`x[:, i, j]` with integer tensors or masks: indexed dims are fixed, the others keep their labels."""
    layout = _layout(call, x, indices)
    _fix_indexed(call, x, indices)
    dims: list[Dim] = [Fixed("addressed by an index tensor") if d is None else x[d] for d in layout]
    return [None if n == 1 else d for n, d in zip(call.shape, dims, strict=True)]


def _taken(call: Call, indices: Sequence[Any]) -> list[tuple[int, Axes, bool]]:
    """The dims that index tensors take, each with its tensor, and whether that is a mask, which takes all its dims."""
    nodes: Any = call.node.args[1]
    found: list[tuple[int, Axes, bool]] = []
    at = 0
    for node, chosen in zip(nodes, indices, strict=True):
        is_mask = chosen is not None and node.meta["dtype"] in (torch.bool, torch.uint8)
        width = len(chosen) if is_mask else 1
        found += [(at + i, chosen, is_mask) for i in range(width) if chosen is not None]
        at += width
    return found


def _layout(call: Call, x: Axes, indices: Sequence[Any]) -> list[int | None]:
    """Which dim of `x` each dim of `x[indices]` is; None for the dims that the index tensors bring."""
    taken = _taken(call, indices)
    where = [d for d, *_ in taken]
    rest: list[int | None] = [d for d in range(len(x)) if d not in where]
    at = where[0] if where == list(range(where[0], where[-1] + 1)) else 0
    brought = max(1 if is_mask else len(chosen) for _, chosen, is_mask in taken)
    return [*rest[:at], *([None] * brought), *rest[at:]]


def _fix_indexed(call: Call, x: Axes, indices: Sequence[Any]) -> None:
    for d, chosen, is_mask in _taken(call, indices):
        call.lab.fix(x[d], "selected by a mask" if is_mask else "addressed by an index tensor")
        call.lab.fix_axes(chosen, "index tensor")


def index_select(call: Call, x: Axes, dim: int, chosen: Axes) -> list[Dim]:
    """Indices that a buffer holds for this op alone may go, with what is read through them; the source stays."""
    dims = x.dims()
    call.lab.fix(dims[dim], "addressed by an index tensor")
    dims[dim] = None if call.shape[dim] == 1 else Fixed("addressed by an index tensor")
    if _selects_only(call.node.args[2]) and call.shape[dim] > 1:
        if not isinstance(chosen.known(0), np.ndarray):
            chosen.adopt(0, call.lab.fresh(call.shape[dim]))
        dims[dim] = chosen[0]
    else:
        call.lab.fix_axes(chosen, "index tensor")
    return dims


def _selects_only(source: Any) -> bool:
    held = source.op == "get_attr" and not source.meta.get("constant")
    return held and all(user.target._opname == "index_select" and user.args[2] is source for user in source.users)


def index_put(call: Call, x: Axes, indices: Sequence[Any], values: Axes, *_: Any) -> Any:
    """`x[i] = values`: indexed dims are fixed, the others are equated with those of the values. Where a mask names what
    gets one value (`x[x > 3] = 3`), its dims are those of `x`.
    """
    layout = _layout(call, x, indices)[-len(values) :] if len(values) else []
    start = len(values) - len(layout)
    one = all(values.shape[i] == 1 for i, d in enumerate(layout, start) if d is None)
    taken = _taken(call, indices)
    if one and all(is_mask and chosen is taken[0][1] for _, chosen, is_mask in taken):
        for i, at in enumerate(t[0] for t in taken):
            call.lab.unite(x, at, taken[i][1], i)
    else:
        _fix_indexed(call, x, indices)
    for i, d in enumerate(layout, start):
        if d is not None and values.shape[i] == x.shape[d]:
            call.lab.unite(x, d, values, i)
        elif values.shape[i] > 1:
            call.lab.fix(values[i], "addressed by an index tensor")
    return x.dims()


def masked_scatter(call: Call, x: Axes, mask: Axes, source: Axes) -> list[Dim]:
    """Rows of `source` take the places that a mask names: the last dims, along which the mask is the same throughout,
    are read in step.
    """
    same = 0
    while same < min(len(x), len(source)) and _is_same(call, x, mask, source, same + 1):
        same += 1
    for i in range(1, len(x) + 1):
        if i > same:
            call.lab.fix(x[len(x) - i], "selected by a mask")
        else:
            call.lab.unite(x, len(x) - i, source, len(source) - i)
        if i <= len(mask) and mask.shape[-i] == x.shape[-i]:
            call.lab.unite(x, len(x) - i, mask, len(mask) - i)
    for i in range(len(source) - same):
        call.lab.fix(source[i], "selected by a mask")
    return x.dims()


def _is_same(call: Call, x: Axes, mask: Axes, source: Axes, i: int) -> bool:
    """Whether a mask is the same all along the dim that is number `i` from the end."""
    if x.shape[-i] != source.shape[-i]:
        return False
    node: Any = call.node.args[1]
    while len(node.meta["shape"]) >= i and node.meta["shape"][-i] > 1:
        name = getattr(node.target, "_opname", "")
        if name not in _SAME:
            return False
        node = node.args[0]
    return True


_SAME = frozenset(["expand", "_to_copy", "clone", "alias", "detach"])


def data_dependent(call: Call, *args: Any, **kwargs: Any) -> Any:
    """The result's values or length depend on data: nothing that enters may shrink."""
    return fixed_result(call.lab, (*args, *kwargs.values()), call.shape, f"{call.node.target} depends on values")


def left_aligned(call: Call, tokens: Any, mask: Any) -> Any:
    """Whether a mask leaves out tokens at the end only: of the tokens the number counts, and not their channels."""
    return data_dependent(call, mask)


_DATA = """
_local_scalar_dense nonzero masked_select _unique2 bincount searchsorted bucketize histc equal item is_nonzero
repeat_interleave torchvision::nms
""".split()

_SPLIT = OpSpec(split, zeros.first, move=Move.PART)

OPS: dict[str, OpSpec] = {
    "slice": OpSpec(slice_, zeros.first, move=Move.PART),
    "select": OpSpec(select, zeros.first, move=Move.PICK),
    "unbind": OpSpec(unbind, zeros.first, move=Move.PICK),
    "split": OpSpec(split, zeros.first, move=Move.PART),
    "split_with_sizes": OpSpec(split, zeros.first, move=Move.PART),
    **dict.fromkeys(["unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk"], _SPLIT),
    **dict.fromkeys(["diagonal", "diagonal_copy"], OpSpec(diagonal, zeros.first)),
    "diag_embed": OpSpec(diag_embed, zeros.first),
    "index": OpSpec(index, zeros.first),
    "index_put": OpSpec(index_put),
    "masked_scatter": OpSpec(masked_scatter),
    "index_select": OpSpec(index_select, zeros.first),
    "_nested_tensor_from_mask_left_aligned": OpSpec(left_aligned),
    **dict.fromkeys(_DATA, OpSpec(data_dependent)),
}
