"""Reductions drop a dim, or keep it with length 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fxprune.analysis.labels.dims import Dim
from fxprune.analysis.labels.labels import UNSET, Axes, Call, Rule, fixed_result
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
        call.lab.add_up(x, i)
        if x.known(i) is not UNSET:
            call.lab.sum(x[i], call.node.args[0])
    return _left(call, x, dim)


def of_classes(call: Call, x: Axes, target: Axes, *more: Any, **_: Any) -> Any:
    """A loss whose targets are numbers of classes."""
    return fixed_result(call.lab, [x, target, *more], call.shape, "classes of a loss")


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


def difference(at: int) -> Rule:
    """A loss, of two tensors of one shape: added up, or their mean, unless argument `at` is 0."""

    def rule(call: Call, x: Axes, target: Axes, *more: Any, **_: Any) -> list[Dim]:
        dims = [call.lab.unite(x, i, target, i) for i in range(len(x))] if x.shape == target.shape else None
        for other in more:
            if isinstance(other, Axes):
                call.lab.fix_axes(other, "weights of a loss")
        if dims is None:
            return fixed_result(call.lab, [x, target], call.shape, "a loss of unlike shapes")  # type: ignore[no-any-return]
        if len(more) > at - 2 and more[at - 2] == 0:
            return dims
        for d in dims:
            call.lab.mix(d)
        return []

    return rule


def distances(call: Call, a: Axes, b: Axes, p: float = 2.0, *_: Any, **__: Any) -> list[Dim]:
    """Between all rows of `a` and all of `b`: norms of what they differ by, over their last dim."""
    last = len(a) - 1
    gone = call.lab.unite(a, last, b, len(b) - 1)
    if p < 0:
        call.lab.mix(gone)
    for node in call.node.args[:2] if p >= 0 else ():
        call.lab.sum(gone, node)
    batch = [_common(call, (a, b), i) for i in range(len(call.shape) - 2)]
    return [*batch, a[last - 1], b[len(b) - 2]]


def _common(call: Call, tensors: Sequence[Axes], i: int) -> Dim:
    """Dim `i` of a result of which two tensors share the first dims, as far as they are not broadcast."""
    places = [(t, i - len(call.shape) + len(t)) for t in tensors]
    (x, j), *others = [(t, j) for t, j in places if j >= 0 and t.shape[j] > 1] or [(tensors[0], i)]
    for y, k in others:
        call.lab.unite(x, j, y, k)
    return x[j] if call.shape[i] > 1 else None


def positional(call: Call, x: Axes, *args: Any, **kwargs: Any) -> Any:
    """The result holds positions along the dim (argmax, sort, top-k) or depends on their order (cumsum)."""
    dim = _argument(call, "dim", args, kwargs)
    if dim is None or not -len(x) <= dim < len(x):
        return fixed_result(call.lab, [x], call.shape, f"positions along dims matter to {call.node.target}")
    call.lab.fix(x[dim], f"positions along the dim matter to {call.node.target}")
    shapes: Sequence[Any] = call.shape if call.shape and isinstance(call.shape[0], tuple) else (call.shape,)
    dims = [_without(x, dim % len(x), s) for s in shapes]
    return dims if shapes is call.shape else dims[0]


def _argument(call: Call, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a call gives an argument after the first, or the default of its operator; None if that has no such one."""
    declared = call.node.target._schema.arguments[1:]  # type: ignore[union-attr]
    given = {**{a.name: v for a, v in zip(declared, args, strict=False)}, **kwargs}
    return given.get(name, next((a.default_value for a in declared if a.name == name), None))


def extremum(call: Call, x: Axes, *args: Any, **kwargs: Any) -> Any:
    """The positions of a largest or smallest element matter only where somebody uses them."""
    if not args and not kwargs:  # of all elements, without a position
        return reduce(call, x)
    pair = len(call.shape) == 2 and isinstance(call.shape[0], tuple)
    if pair and all(user.args[1] == 0 for user in call.node.users):
        return [reduce(Call(call.lab, call.node, s), x, *args, **kwargs) for s in call.shape]
    return positional(call, x, *args, **kwargs)


def _without(x: Axes, gone: int, shape: Sequence[int]) -> list[Dim]:
    if len(shape) == len(x):
        return [None if n == 1 else x[i] for i, n in enumerate(shape)]
    return [x[i] for i in range(len(x)) if i != gone]


_POSITIONAL = "argmax argmin argsort cumprod cummax cummin kthvalue logcumsumexp nanmedian sort mode median".split()

_OF_CLASSES = "nll_loss_forward nll_loss2d_forward multi_margin_loss multilabel_margin_loss_forward".split()
_LOSSES = {"mse_loss": 2, "smooth_l1_loss": 2, "huber_loss": 2, "soft_margin_loss": 2, "binary_cross_entropy": 3}

OPS: dict[str, OpSpec] = {
    **{name: OpSpec(difference(at)) for name, at in {**_LOSSES, "binary_cross_entropy_with_logits": 4}.items()},
    **dict.fromkeys(_OF_CLASSES, OpSpec(of_classes)),
    **dict.fromkeys(["cdist", "_cdist_forward", "_euclidean_dist"], OpSpec(distances)),
    **dict.fromkeys("amax amin all _is_all_true _is_any_true prod".split(), OpSpec(reduce, zeros.first)),
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
