"""Asked: the sizes that the model's own code asks for in a call, and the numbers that it gives it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx

from fxprune.analysis.ops.table import spec_of_node


def reshaped(func: Any, args: Any) -> list[int | None]:
    """The sizes that a call of reshape or unflatten asks for."""
    if func is Tensor.unflatten:
        x, dim, sizes = args
        shape = [*x.shape[: dim % x.dim()], *sizes, *x.shape[dim % x.dim() + 1 :]]
    else:
        shape = list(args[1] if isinstance(args[1], list | tuple) else args[1:])
    return [None if n == -1 else int(n) for n in shape]


def asked(node: fx.Node, args: Any) -> list[int | None]:
    """The sizes that a call asks for; see `OpSpec.sizes`."""
    spec = spec_of_node(node)
    return [] if spec is None or spec.sizes is None else spec.sizes(node, args)


def numbers(node: fx.Node, args: Any, kwargs: Any) -> Iterator[tuple[float, float]]:
    """The numbers that a call takes as values: the recorded one and the present one."""
    spec = spec_of_node(node)
    if spec is not None and spec.values:
        pairs = [*zip(node.args, args, strict=False), *((node.kwargs.get(k), v) for k, v in kwargs.items())]
        yield from ((a, b) for a, b in pairs if _is_number(a) and _is_number(b))  # type: ignore[misc]


def differ(a: float, b: float) -> bool:
    """Whether two numbers differ; no NaN differs from another."""
    return a != b and (a == a or b == b)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
