"""Reductions drop a dim, or keep it with length 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fxprune.analysis.labels.dims import Dim
from fxprune.analysis.labels.labels import UNSET, Axes, Call, fixed_result
from fxprune.analysis.ops import zeros
from fxprune.analysis.ops.spec import OpSpec
from fxprune.analysis.ops.terms import mixed


def reduce(call: Call, x: Axes, dim: Any = None, keepdim: bool = False, **_: Any) -> list[Dim]:
    """Means, products, extrema: the other dims keep their labels."""
    for i in _gone(x, dim):
        call.lab.mix(x[i])
    return _left(call, x, dim)


def add_up(call: Call, x: Axes, dim: Any = None, keepdim: bool = False, **_: Any) -> list[Dim]:
    """Sums and norms, which zeros do not change; a parameter that nothing else has read stays untouched."""
    for i in _gone(x, dim):
        if x.known(i) is not UNSET:
            call.lab.sum(x[i], call.node.args[0])
    return _left(call, x, dim)


def _gone(x: Axes, dim: Any) -> set[int]:
    """The dims that are reduced."""
    if not isinstance(dim, int | list) or isinstance(dim, bool) or dim == []:
        return set(range(len(x)))
    return {d % len(x) for d in ([dim] if isinstance(dim, int) else dim)}


def _left(call: Call, x: Axes, dim: Any) -> list[Dim]:
    gone = _gone(x, dim)
    if len(call.shape) == len(x):
        return [None if i in gone else x[i] for i in range(len(x))]
    return [x[i] for i in range(len(x)) if i not in gone]


def vector_norm(call: Call, x: Axes, order: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> list[Dim]:
    """A norm of negative order is a minimum."""
    smallest = isinstance(order, int | float) and order < 0
    return (reduce if smallest else add_up)(call, x, dim, keepdim)


def variance(call: Call, x: Axes, dim: Any = None, *_: Any, **kwargs: Any) -> Any:
    if call.shape and isinstance(call.shape[0], tuple):
        return [reduce(Call(call.lab, call.node, s), x, dim) for s in call.shape]
    return reduce(call, x, dim)


def positional(call: Call, x: Axes, *args: Any, **kwargs: Any) -> Any:
    """The result holds positions along the dim (argmax, sort, top-k) or depends on their order (cumsum)."""
    ints = [a for a in (*args, kwargs.get("dim")) if isinstance(a, int) and not isinstance(a, bool)]
    dim = ints[-1] if ints else None
    if dim is None or not -len(x) <= dim < len(x):
        return fixed_result(call.lab, [x], call.shape, f"positions along dims matter to {call.node.target}")
    call.lab.fix(x[dim], f"positions along the dim matter to {call.node.target}")
    shapes: Sequence[Any] = call.shape if call.shape and isinstance(call.shape[0], tuple) else (call.shape,)
    dims = [_without(x, dim % len(x), s) for s in shapes]
    return dims if shapes is call.shape else dims[0]


def extremum(call: Call, x: Axes, *args: Any, **kwargs: Any) -> Any:
    """The positions of a largest or smallest element matter only where somebody uses them."""
    pair = len(call.shape) == 2 and isinstance(call.shape[0], tuple)
    if pair and all(user.args[1] == 0 for user in call.node.users):
        return [reduce(Call(call.lab, call.node, s), x, *args, **kwargs) for s in call.shape]
    return positional(call, x, *args, **kwargs)


def _without(x: Axes, gone: int, shape: Sequence[int]) -> list[Dim]:
    if len(shape) == len(x):
        return [None if n == 1 else x[i] for i, n in enumerate(shape)]
    return [x[i] for i in range(len(x)) if i != gone]


_POSITIONAL = "argmax argmin argsort cumprod cummax cummin sort mode median".split()

OPS: dict[str, OpSpec] = {
    **dict.fromkeys("amax amin all prod".split(), OpSpec(reduce, zeros.first)),
    "mean": OpSpec(reduce, zeros.first, terms=mixed),
    "logsumexp": OpSpec(reduce),
    "sum": OpSpec(add_up, zeros.first, terms=mixed),
    **dict.fromkeys("nansum any count_nonzero".split(), OpSpec(add_up, zeros.first)),
    **dict.fromkeys(["linalg_vector_norm", "norm"], OpSpec(vector_norm, zeros.first)),
    **dict.fromkeys(_POSITIONAL, OpSpec(positional)),
    "cumsum": OpSpec(positional, terms=mixed),
    **dict.fromkeys(["max", "min"], OpSpec(extremum)),
    **dict.fromkeys(["var", "std", "var_mean", "std_mean", "aminmax"], OpSpec(variance)),
}
