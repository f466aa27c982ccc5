"""Ops that work element by element: dims aligned by broadcasting live or die together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import fx

from fxprune.analysis.labels.dims import Dim
from fxprune.analysis.labels.labels import Axes, Call
from fxprune.analysis.ops import zeros
from fxprune.analysis.ops.spec import Move, OpSpec
from fxprune.analysis.ops.terms import added, divided, multiplied
from fxprune.analysis.ops.zeros import MaskedCall, Zeros, between, nothing


def pointwise(call: Call, *args: Any, **kwargs: Any) -> list[Dim]:
    """Equate the broadcast-aligned dims of all tensor arguments."""
    operands = [a for a in (*args, *kwargs.values()) if isinstance(a, Axes)]
    if len(operands) == 1 and operands[0].shape == call.shape:
        return operands[0].dims()
    return [_aligned(call, operands, i) for i in range(len(call.shape))]


def _aligned(call: Call, operands: list[Axes], i: int) -> Dim:
    """Dim `i` of the result: the operands' dims that are not broadcast there, equated."""
    size = call.shape[i]
    cells = [(a, i - len(call.shape) + len(a)) for a in operands]
    cells = [(a, j) for a, j in cells if j >= 0 and a.shape[j] == size and size > 1]
    if not cells:
        return None
    (first, i0), *rest = cells
    for a, j in rest:
        call.lab.unite(first, i0, a, j)
    return first[i0]


def first(call: Call, x: Axes, *_: Any, **__: Any) -> Any:
    """The result has the dims of the first argument; others carry no labels (dropout, clone, casts)."""
    if call.shape and isinstance(call.shape[0], tuple):
        return [x.dims() if s == x.shape else [None] * len(s) for s in call.shape]
    return x.dims()


def fake_quantize_channels(call: Call, x: Axes, scale: Axes, zero_point: Axes, axis: int, *_: Any) -> list[list[Dim]]:
    """Rounded as integers would be, with a scale and a zero point for each index of a dim; and what was in reach."""
    call.lab.unite(x, axis, scale, 0)
    zero_point.adopt(0, x[axis])  # integers, but no indices
    return [x.dims(), x.dims()]


def observe_and_fake_quantize(
    call: Call,
    x: Axes,
    _observes: Axes,
    _quantises: Axes,
    low: Axes,
    high: Axes,
    scale: Axes,
    zero_point: Axes,
    *how: Any,
) -> list[list[Dim]]:
    """The same with a scale from the least and the largest number so far, of all x or of each index of a dim."""
    axis, by_index = how[3] % len(x), len(how) > 4 and how[4]
    for i in range(len(x)):
        if not (by_index and i == axis):
            call.lab.mix(x[i])
    for numbers in (low, high, scale) if by_index else ():
        call.lab.unite(x, axis, numbers, 0)
    if by_index:
        zero_point.adopt(0, x[axis])  # integers, but no indices
    return [x.dims(), x.dims()]


def glu(call: Call, x: Axes, dim: int = -1) -> list[Dim]:
    """a·σ(b) of the two halves (a, b) of a dim: the same indices of both live or die together."""
    dims = x.dims()
    labels = dims[dim]
    if call.shape[dim] == 1:
        call.lab.fix(labels, "split into single channels")
        dims[dim] = None
    elif isinstance(labels, np.ndarray):
        call.lab.splits.append((call.node, labels, 2))
        dims[dim] = labels[: call.shape[dim]]
    return dims


def softmax(call: Call, x: Axes, dim: int, *_: Any, **__: Any) -> list[Dim]:
    call.lab.mix(x[dim])
    return x.dims()


def _argument(i: int, name: str, default: Any = 0) -> Callable[[MaskedCall], Any]:
    return lambda call: call.argument(i, name, default)


def _elementwise(names: str, zero: Zeros = zeros.never, **more: Any) -> dict[str, OpSpec]:
    return dict.fromkeys(names.split(), OpSpec(pointwise, zero, values=True, **more))


def _exponent(node: fx.Node) -> float | None:
    return node.args[1] if isinstance(node.args[1], int | float) else None


def _chance(args: Sequence[Any]) -> float:
    return args[1] if len(args) > 1 and isinstance(args[1], int | float) else 0.5


# f(0) = 0.
_KEEPING_ZERO = """
_prelu_kernel abs asin asinh atan atanh ceil celu deg2rad elu erf erfinv expm1 floor gelu hardshrink hardswish
leaky_relu log1p mish prelu rad2deg relu relu6 round rrelu_with_noise sgn sign silu sin sinh softshrink square tan
tanh trunc
"""
_OTHER = """
acos acosh addcdiv addcmul __and__ atan2 bitwise_not bitwise_or bitwise_xor copysign cos cosh digamma eq erfc exp exp2
floor_divide fmod frac ge glu_jvp gt hardsigmoid heaviside i0 isfinite isinf isnan isneginf isposinf ldexp le lgamma
log log10 log2 logaddexp logaddexp2 logical_not logical_or logical_xor logit lt nan_to_num ne __or__ remainder sigmoid
signbit sinc softplus threshold true_divide where xlogy
"""
_FIRST = "lift lift_fresh_copy log_sigmoid_forward to".split()
_DRAWN = "cauchy exponential geometric log_normal normal poisson uniform".split()
_LIKE = "empty_like full_like ones_like rand_like randint_like randn_like".split()

_FAKE_QUANTIZE = (
    "fake_quantize_per_tensor_affine_cachemask",
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
)

OPS: dict[str, OpSpec] = {
    **_elementwise(_KEEPING_ZERO, zeros.first),
    **_elementwise(_OTHER),
    **_elementwise("logical_and bitwise_and", zeros.any_factor),
    **_elementwise("neg", zeros.first, terms=multiplied),
    **_elementwise("sub rsub", zeros.added, terms=added),
    **_elementwise("add", zeros.added, terms=added, adds=True),
    **_elementwise("copy fmax fmin hypot maximum minimum lerp", zeros.all_terms),
    **_elementwise("masked_fill", zeros.filled),
    **_elementwise("fill", zeros.overwritten),
    **_elementwise("zero", zeros.always),
    **_elementwise("pow", zeros.powered, power=_exponent),
    **_elementwise("sqrt", zeros.first, power=lambda _: 0.5),
    **_elementwise("rsqrt", power=lambda _: -0.5),
    **_elementwise("reciprocal", power=lambda _: -1.0),
    **_elementwise("hardtanh", between(_argument(1, "min_val", -1), _argument(2, "max_val", 1))),
    **_elementwise("clamp", between(_argument(1, "min"), _argument(2, "max"))),
    **_elementwise("clamp_min", between(_argument(1, "min"), nothing)),
    **_elementwise("clamp_max", between(nothing, _argument(1, "max"))),
    "glu": OpSpec(glu, zeros.first),
    "mul": OpSpec(pointwise, zeros.any_factor, values=True, scaling=1, terms=multiplied),
    "div": OpSpec(pointwise, zeros.first_throughout, values=True, scaling=-1, terms=divided),
    **dict.fromkeys(["clone", "contiguous", "alias", "detach"], OpSpec(first, zeros.first, move=Move.COPY)),
    "lift_fresh": OpSpec(first, zeros.first, move=Move.COPY, values=True),
    "_to_copy": OpSpec(first, zeros.first, move=Move.CAST, values=True),
    **dict.fromkeys(["dropout", "native_dropout"], OpSpec(first, zeros.first, values=True)),
    **dict.fromkeys(_FAKE_QUANTIZE, OpSpec(first, zeros.first, values=True)),
    "_fused_moving_avg_obs_fq_helper": OpSpec(observe_and_fake_quantize, zeros.first),
    "fake_quantize_per_channel_affine_cachemask": OpSpec(fake_quantize_channels, zeros.first),
    "zeros_like": OpSpec(first, zeros.always, values=True, unread=True),
    **dict.fromkeys(_LIKE, OpSpec(first, values=True, unread=True)),
    "bernoulli": OpSpec(first, values=True, expected=_chance),
    **dict.fromkeys([*_FIRST, *_DRAWN], OpSpec(first, values=True)),
    **dict.fromkeys(["_softmax", "_safe_softmax", "_log_softmax", "softmax", "log_softmax"], OpSpec(softmax)),
}
