"""Reductions drop a dim, or keep it with length 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fxprune.analysis.labels.dims import Dim
from fxprune.analysis.labels.labels import Axes, Call, Rule, fixed_result


def reduce(call: Call, x: Axes, dim: Any = None, keepdim: bool = False, **_: Any) -> list[Dim]:
    """Sums, means, extrema: the other dims keep their labels."""
    if not isinstance(dim, int | list) or dim == []:
        gone = set(range(len(x)))
    else:
        gone = {d % len(x) for d in ([dim] if isinstance(dim, int) else dim)}
    if call.node.target._opname not in _EXACT:  # type: ignore[union-attr]
        for i in gone:
            call.lab.mix(x[i])
    if len(call.shape) == len(x):
        return [None if i in gone else x[i] for i in range(len(x))]
    return [x[i] for i in range(len(x)) if i not in gone]


def vector_norm(call: Call, x: Axes, order: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> list[Dim]:
    return reduce(call, x, dim, keepdim)


def variance(call: Call, x: Axes, dim: Any = None, *_: Any, **kwargs: Any) -> Any:
    if call.shape and isinstance(call.shape[0], tuple):
        return [reduce(Call(call.lab, call.node, s), x, dim) for s in call.shape]
    return reduce(call, x, dim)


def positional(call: Call, x: Axes, *args: Any, **kwargs: Any) -> Any:
    """The result holds positions along the dim (argmax, sort, top-k) or depends on their order (cumsum)."""
    if _only_values(call):
        return [reduce(Call(call.lab, call.node, s), x, *args, **kwargs) for s in call.shape]
    ints = [a for a in (*args, kwargs.get("dim")) if isinstance(a, int) and not isinstance(a, bool)]
    dim = ints[-1] if ints else None
    if dim is None or not -len(x) <= dim < len(x):
        return fixed_result(call.lab, [x], call.shape, f"positions along dims matter to {call.node.target}")
    call.lab.fix(x[dim], f"positions along the dim matter to {call.node.target}")
    shapes: Sequence[Any] = call.shape if call.shape and isinstance(call.shape[0], tuple) else (call.shape,)
    dims = [_without(x, dim % len(x), s) for s in shapes]
    return dims if shapes is call.shape else dims[0]


def _only_values(call: Call) -> bool:
    """Whether of an extremum along a dim nobody uses the positions."""
    extremum = call.node.target._opname in ("max", "min")  # type: ignore[union-attr]
    pair = len(call.shape) == 2 and isinstance(call.shape[0], tuple)
    return extremum and pair and all(user.args[1] == 0 for user in call.node.users)


def _without(x: Axes, gone: int, shape: Sequence[int]) -> list[Dim]:
    if len(shape) == len(x):
        return [None if n == 1 else x[i] for i, n in enumerate(shape)]
    return [x[i] for i in range(len(x)) if i != gone]


# Zeros change neither sums nor norms.
_EXACT = frozenset(["sum", "nansum", "linalg_vector_norm", "norm", "any", "count_nonzero"])
_REDUCE = "amax amin all any mean prod sum logsumexp count_nonzero nansum".split()
_POSITIONAL = "argmax argmin argsort cumsum cumprod cummax cummin sort max min mode median".split()

RULES: dict[str, Rule] = {
    **dict.fromkeys(_REDUCE, reduce),
    **dict.fromkeys(_POSITIONAL, positional),
    "linalg_vector_norm": vector_norm,
    "norm": vector_norm,
    "var": variance,
    "std": variance,
    "var_mean": variance,
}
