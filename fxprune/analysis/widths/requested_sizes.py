"""Asked: the sizes that the model's own code asks for in a call, and the numbers that it gives it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from fxprune.analysis.ops import pointwise

aten = torch.ops.aten


def reshaped(func: Any, args: Any) -> list[int | None]:
    """The sizes that a call of reshape or unflatten asks for."""
    if func is Tensor.unflatten:
        x, dim, sizes = args
        shape = [*x.shape[: dim % x.dim()], *sizes, *x.shape[dim % x.dim() + 1 :]]
    else:
        shape = list(args[1] if isinstance(args[1], list | tuple) else args[1:])
    return [None if n == -1 else int(n) for n in shape]


# Which argument of an ATen call holds the sizes that the code asks for.
_SIZES = {"view": 1, "_unsafe_view": 1, "_reshape_alias": 1, "expand": 1, "new_zeros": 1, "new_full": 1, "zeros": 0}


def asked(node: fx.Node, args: Any) -> list[int | None]:
    if node.target is aten.split_with_sizes.default:
        dim = (args[2] if len(args) > 2 else 0) % args[0].dim()
        return [size if i == dim else n for size in args[1] for i, n in enumerate(args[0].shape)]
    if node.target is aten.split.Tensor:
        return _parts(node, *args)
    at = _SIZES.get(node.target._opname)  # type: ignore[union-attr]
    return [] if at is None else [None if n == -1 else int(n) for n in args[at]]


# Calls whose numbers are no sizes, but values.
_VALUED = frozenset("full new_full scalar_tensor addmm baddbmm constant_pad_nd".split()).union(pointwise.RULES)


def numbers(node: fx.Node, args: Any, kwargs: Any) -> Iterator[tuple[float, float]]:
    """The numbers that a call takes as values: the recorded one and the present one."""
    if node.target._opname.rstrip("_") in _VALUED:  # type: ignore[union-attr]
        pairs = [*zip(node.args, args, strict=False), *((node.kwargs.get(k), v) for k, v in kwargs.items())]
        yield from ((a, b) for a, b in pairs if _is_number(a) and _is_number(b))  # type: ignore[misc]


def differ(a: float, b: float) -> bool:
    """Whether two numbers differ; no NaN differs from another."""
    return a != b and (a == a or b == b)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _parts(node: fx.Node, x: Tensor, size: int, dim: int = 0) -> list[int | None]:
    """Equal parts of the size that the code asks for; the last is what is left."""
    dim, shapes = dim % x.dim(), node.meta["shape"]
    sizes = [size if shape[dim] == shapes[0][dim] else None for shape in shapes]
    return [part if i == dim else n for part in sizes for i, n in enumerate(x.shape)]
