"""Which sizes of its result a call asks for: the functions that the table of ops refers to.

Each receives the recorded call and present arguments. It returns one size for each dim of the result, None where the
arguments leave it open; several results follow one another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx


def at(i: int) -> Callable[[fx.Node, Any], list[int | None]]:
    """Argument `i` holds all sizes; -1 leaves one open."""
    return lambda _, args: [None if n == -1 else int(n) for n in args[i]]


def parts(_: fx.Node, args: Any) -> list[int | None]:
    """The length of each part of a split."""
    dim = (args[2] if len(args) > 2 else 0) % args[0].dim()
    return [size if i == dim else n for size in args[1] for i, n in enumerate(args[0].shape)]


def equal_parts(node: fx.Node, args: Any) -> list[int | None]:
    """Equal parts of the length that the code asks for; the last is what is left."""
    x, size, dim = (*args, 0)[:3]
    dim, shapes = dim % x.dim(), node.meta["shape"]
    sizes = [size if shape[dim] == shapes[0][dim] else None for shape in shapes]
    return [part if i == dim else n for part in sizes for i, n in enumerate(x.shape)]
