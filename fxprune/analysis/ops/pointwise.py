"""Ops that work element by element: dims aligned by broadcasting live or die together."""

from __future__ import annotations

from typing import Any

from fxprune.analysis.labels.dims import Dim
from fxprune.analysis.labels.labels import Axes, Call, Rule


def pointwise(call: Call, *args: Any, **kwargs: Any) -> list[Dim]:
    """Equate the broadcast-aligned dims of all tensor arguments."""
    if call.node.target._opname in ("mul", "div") and any(isinstance(a, float) for a in args):  # type: ignore[union-attr]
        call.lab.suspect()
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
    if call.node.target._opname == "lift_fresh" and not call.shape:  # type: ignore[union-attr]
        call.lab.suspect()  # a number in the model's code
    if call.shape and isinstance(call.shape[0], tuple):
        return [x.dims() if s == x.shape else [None] * len(s) for s in call.shape]
    return x.dims()


def softmax(call: Call, x: Axes, dim: int, *_: Any, **__: Any) -> list[Dim]:
    call.lab.mix(x[dim])
    return x.dims()


_POINTWISE = """
abs acos add addcdiv addcmul asin atan atan2 bitwise_and bitwise_not bitwise_or bitwise_xor __and__ __or__ ceil celu
clamp clamp_max clamp_min copy cos cosh div elu eq erf erfc exp exp2 expm1 floor floor_divide fmod frac ge gelu glu_jvp
gt hardshrink hardsigmoid hardswish hardtanh heaviside isfinite isinf isnan le leaky_relu lerp log log10 log1p log2
logical_and logical_not logical_or logical_xor logit lt masked_fill maximum minimum mish mul ne neg
nan_to_num pow prelu _prelu_kernel reciprocal relu relu6 remainder round rrelu_with_noise rsqrt rsub sgn
sigmoid sign silu sin sinh softplus softshrink sqrt square sub tan tanh threshold true_divide
trunc where xlogy fill zero
""".split()
_FIRST = """
alias bernoulli clone log_sigmoid_forward contiguous detach dropout native_dropout empty_like full_like lift
lift_fresh lift_fresh_copy normal ones_like rand_like randn_like _to_copy to uniform
zeros_like
""".split()

_SOFTMAX = ["_softmax", "_safe_softmax", "_log_softmax", "softmax", "log_softmax"]

RULES: dict[str, Rule] = {
    **dict.fromkeys(_POINTWISE, pointwise),
    **dict.fromkeys(_FIRST, first),
    **dict.fromkeys(_SOFTMAX, softmax),
}
