"""Answer the commonest ATen calls on meta tensors at once.

PyTorch answers them itself, but many through Python decompositions that take up to a millisecond each. Only shape
and dtype matter here, and for these ops both follow from the arguments in a line. Whenever the arguments are not the
plain case (shapes that do not match, an unusual dtype), the function returns None and PyTorch answers, or complains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
Answer = Callable[..., Any]
_META = torch.device("meta")  # made once: a device given by name is looked up at each call


def answer(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of `op` on meta tensors."""
    quick = ANSWERS.get(op)
    if quick is not None:
        result = quick(*args, **kwargs)
        if result is not None:
            return result
    return op(*args, **kwargs)


def _like(x: Tensor) -> Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=_META)


def _new(x: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device=_META)


def _same(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return _like(x)


def _in_place(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


def _binary(x: Any, y: Any, **_: Any) -> Tensor | None:
    if not isinstance(y, Tensor):
        plain = isinstance(x, Tensor) and (x.dtype.is_floating_point or isinstance(y, int))
        return _like(x) if plain else None
    plain = isinstance(x, Tensor) and x.shape == y.shape and x.dtype == y.dtype and x.is_meta
    return _like(x) if plain else None


def _binary_in_place(x: Tensor, y: Any, **_: Any) -> Tensor | None:
    return x if not isinstance(y, Tensor) or x.shape == y.shape else None


def _batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *rest: Any) -> tuple[Tensor, ...] | None:
    tensors = [t for t in (weight, bias, *rest[:2]) if isinstance(t, Tensor)]
    if x.dim() < 2 or any(t.shape != x.shape[1:2] for t in tensors):
        return None
    return _like(x), _new(x, (0,)), _new(x, (0,))


def _layer_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None, *_: Any) -> tuple[Tensor, ...] | None:
    if tuple(x.shape[-len(shape) :]) != tuple(shape) or (weight is not None and weight.shape != tuple(shape)):
        return None
    lead = (*x.shape[: -len(shape)], *([1] * len(shape)))
    return _new(x, x.shape), _new(x, lead), _new(x, lead)


def _convolution(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor | None:
    n = w.dim() - 2
    if transposed or x.dim() != n + 2 or x.shape[1] != w.shape[1] * groups or x.dtype != w.dtype or w.shape[0] % groups:
        return None
    if bias is not None and bias.shape != w.shape[:1]:
        return None
    s, p, d = (list(v) * n if len(v) == 1 else v for v in (stride, padding, dilation))
    size = [(x.shape[i + 2] + 2 * p[i] - d[i] * (w.shape[i + 2] - 1) - 1) // s[i] + 1 for i in range(n)]
    return _new(x, (x.shape[0], w.shape[0], *size)) if min(size) > 0 else None


def _mm(a: Tensor, b: Tensor) -> Tensor | None:
    return _new(a, (a.shape[0], b.shape[1])) if a.shape[1] == b.shape[0] and a.dtype == b.dtype else None


def _addmm(bias: Tensor, a: Tensor, b: Tensor, **_: Any) -> Tensor | None:
    return _mm(a, b) if bias.shape == b.shape[1:] else None


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first = tensors[0]
    dim = dim % first.dim() if first.dim() else 0
    rest = [(*t.shape[:dim], *t.shape[dim + 1 :]) for t in tensors if t.dim() == first.dim()]
    if len(rest) != len(tensors) or any(r != rest[0] for r in rest) or any(t.dtype != first.dtype for t in tensors):
        return None
    return _new(first, (*first.shape[:dim], sum(t.shape[dim] for t in tensors), *first.shape[dim + 1 :]))


def _mean(x: Tensor, dim: Sequence[int] | None, keepdim: bool = False, **kwargs: Any) -> Tensor | None:
    if not dim or kwargs.get("dtype") or not x.dtype.is_floating_point:
        return None
    gone = {d % x.dim() for d in dim}
    kept = [(1 if i in gone else n) for i, n in enumerate(x.shape) if keepdim or i not in gone]
    return _new(x, kept)


def _max_pool(x: Tensor, kernel: Sequence[int], *rest: Any) -> tuple[Tensor, Tensor] | None:
    defaults: tuple[Any, ...] = ((), (0,), (1,), False)
    stride, padding, dilation, ceil = (*rest, *defaults[len(rest) :])
    k, s, p, d = (list(v) * 2 if len(v) == 1 else v for v in (kernel, stride or kernel, padding, dilation))
    if ceil or len(k) != 2 or x.dim() != 4:
        return None
    size = [(x.shape[i + 2] + 2 * p[i] - d[i] * (k[i] - 1) - 1) // s[i] + 1 for i in range(2)]
    out = _new(x, (*x.shape[:2], *size)) if min(size) > 0 else None
    return None if out is None else (out, torch.empty(out.shape, dtype=torch.int64, device=_META))


def _empty(size: Sequence[int], *, device: Any = None, dtype: Any = None, **_: Any) -> Tensor | None:
    """BatchNorm asks for an empty reserve tensor at each call."""
    return torch.empty(0, dtype=dtype, device=_META) if list(size) == [0] and device == _META else None


_SAME = (
    *(aten.relu.default, aten.silu.default, aten.gelu.default, aten.hardswish.default, aten.hardsigmoid.default),
    *(aten.sigmoid.default, aten.tanh.default, aten.hardtanh.default, aten.leaky_relu.default, aten.elu.default),
    *(aten.neg.default, aten._softmax.default, aten._safe_softmax.default, aten.masked_fill.Scalar, aten.roll.default),
)
_IN_PLACE = (
    *(aten.relu_.default, aten.silu_.default, aten.hardswish_.default, aten.hardsigmoid_.default),
    *(aten.hardtanh_.default, aten.leaky_relu_.default, aten.sigmoid_.default, aten.bernoulli_.float),
)
ANSWERS: dict[Any, Answer] = {
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(_IN_PLACE, _in_place),
    **dict.fromkeys((aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.mul.Scalar), _binary),
    **dict.fromkeys((aten.add_.Tensor, aten.mul_.Tensor), _binary_in_place),
    aten.native_batch_norm.default: _batch_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten.convolution.default: _convolution,
    aten.mm.default: _mm,
    aten.addmm.default: _addmm,
    aten.cat.default: _cat,
    aten.mean.dim: _mean,
    aten.max_pool2d_with_indices.default: _max_pool,
    aten.empty.memory_format: _empty,
}
