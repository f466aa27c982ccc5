"""Answer the commonest ATen calls on meta tensors at once.

PyTorch answers them itself, but many through Python decompositions that take up to a millisecond each. Only shape
and dtype matter here, and for these ops both follow from the arguments in a line. Whenever the arguments are not the
plain case (shapes that do not match, an unusual dtype), the function returns None and PyTorch answers, or complains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
Answer = Callable[..., Any]
_EMPTY = aten.empty.memory_format
_META = torch.device("meta")  # made once: a device given by name is looked up at each call


def answer(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of `op` on meta tensors."""
    result = quick_answer(op, args, kwargs)
    return op(*args, **kwargs) if result is None else result


def quick_answer(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of `op` on meta tensors; None where only PyTorch knows it."""
    quick = ANSWERS.get(op)
    return None if quick is None else quick(*args, **kwargs)


def is_void(op: Any, args: tuple[Any, ...]) -> bool:
    """Whether the call has no tensor, as marks of a profiler have none, or makes an empty one, as BatchNorm does."""
    return (op is _EMPTY and list(args[0]) == [0]) or _without_tensors(op)


@cache
def _without_tensors(op: Any) -> bool:
    kinds = [str(v.type) for v in (*op._schema.arguments, *op._schema.returns)]
    return not any("Tensor" in kind for kind in kinds)


def _like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor | None:
    """What an elementwise op on `x` makes: dense, with the dims in the order in which they lie in `x`."""
    if x.is_contiguous():
        return _plain(x, x.shape, dtype)
    strides, step = list(x.stride()), 1
    if 0 in strides:
        return None
    for i in sorted(range(len(strides)), key=lambda i: (strides[i], x.shape[i])):
        strides[i], step = step, step * x.shape[i]
    return torch.empty_strided(x.shape, strides, dtype=dtype or x.dtype, device=_META)


def _plain(x: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """A contiguous tensor."""
    return torch.empty(shape, dtype=dtype or x.dtype, device=_META)


def _channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _image(x: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """What an op makes that keeps the memory format of images."""
    if len(shape) == 4 and _channels_last(x):
        return torch.empty(shape, dtype=dtype or x.dtype, device=_META, memory_format=torch.channels_last)
    return _plain(x, shape, dtype)


def _same(x: Tensor, *_: Any, **__: Any) -> Tensor | None:
    return _like(x)


def _same_float(x: Tensor, *_: Any, **__: Any) -> Tensor | None:
    """Scalar arguments leave a float's type as it is; integers may become floats."""
    return _like(x) if x.dtype.is_floating_point else None


def _in_place(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


def _comparison(x: Tensor, *_: Any) -> Tensor | None:
    return _like(x, torch.bool)


def _softmax(x: Tensor, _: int, half_to_float: Any = False) -> Tensor | None:
    return _plain(x, x.shape) if x.dtype.is_floating_point and half_to_float is False else None


def _masked_fill(x: Tensor, mask: Tensor, _: Any) -> Tensor | None:
    return _plain(x, x.shape) if x.shape == mask.shape else None


def _roll(x: Tensor, *_: Any) -> Tensor | None:
    return _plain(x, x.shape) if x.is_contiguous() else None


def _clone(x: Tensor, *, memory_format: torch.memory_format | None = None) -> Tensor | None:
    contiguous = memory_format is torch.contiguous_format
    return _plain(x, x.shape) if contiguous else None if memory_format else _like(x)


def _rounded(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """PyTorch has no answer of its own."""
    return torch.empty_like(x), torch.empty_like(x, dtype=torch.bool)


def _broadcast(a: Sequence[int], b: Sequence[int]) -> list[int] | None:
    if len(a) < len(b):
        a, b = b, a
    lead = len(a) - len(b)
    if any(n != m and n != 1 and m != 1 for n, m in zip(a[lead:], b, strict=True)):
        return None
    return [*a[:lead], *(m if n == 1 else n for n, m in zip(a[lead:], b, strict=True))]


def _binary(x: Any, y: Any, **_: Any) -> Tensor | None:
    if not isinstance(y, Tensor):
        plain = isinstance(x, Tensor) and (x.dtype.is_floating_point or type(y) is int)
        return _like(x) if plain and type(y) is not complex else None
    if not isinstance(x, Tensor) or x.dtype != y.dtype or not (x.is_meta and y.is_meta):
        return None
    if x.shape == y.shape:
        return _like(x)
    shape = _broadcast(x.shape, y.shape)
    for full, other in ((x, y), (y, x)):
        if shape == [*full.shape] and sum(n > 1 for n in other.shape) <= 1:
            return _like(full)  # a scale of one dim has no say in the order of the dims
    return _plain(x, shape) if shape is not None and x.is_contiguous() and y.is_contiguous() else None


def _quotient(x: Any, y: Any) -> Tensor | None:
    """Integers divide into floats."""
    return _binary(x, y) if isinstance(x, Tensor) and x.dtype.is_floating_point else None


def _binary_in_place(x: Tensor, y: Any, **_: Any) -> Tensor | None:
    if not isinstance(y, Tensor):
        return x
    return x if x.dtype == y.dtype and (x.shape == y.shape or _broadcast(x.shape, y.shape) == [*x.shape]) else None


def _batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *rest: Any) -> tuple[Tensor, ...] | None:
    tensors = [t for t in (weight, bias, *rest[:2]) if isinstance(t, Tensor)]
    if x.dim() < 2 or any(t.shape != x.shape[1:2] for t in tensors):
        return None
    return _image(x, x.shape), _plain(x, (0,)), _plain(x, (0,))


def _layer_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None, *_: Any) -> tuple[Tensor, ...] | None:
    if tuple(x.shape[-len(shape) :]) != tuple(shape) or (weight is not None and weight.shape != tuple(shape)):
        return None
    lead = (*x.shape[: -len(shape)], *([1] * len(shape)))
    return _plain(x, x.shape), _plain(x, lead), _plain(x, lead)


def _swept(
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil: bool = False,
) -> list[int] | None:
    """How often a window fits into each spatial dim; arguments of length 1 hold for all dims."""
    n = len(sizes)
    k, s, p, d = ([*v] * n if len(v) == 1 else [*v] for v in (kernel, stride, padding, dilation))
    fits = [_fits(sizes[i], k[i], s[i], p[i], d[i], ceil) for i in range(n)]
    return fits if min(fits) > 0 else None


def _fits(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> int:
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil:
        return room // stride + 1
    last = -(-room // stride)
    return last + 1 if last * stride < size + padding else last  # no window starts in the padding behind


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
    if transposed or x.dim() != w.dim() or x.shape[1] != w.shape[1] * groups or x.dtype != w.dtype:
        return None
    if w.shape[0] % groups or (bias is not None and bias.shape != w.shape[:1]):
        return None
    sizes = _swept(x.shape[2:], w.shape[2:], stride, padding, dilation)
    return None if sizes is None else _image(x, (x.shape[0], w.shape[0], *sizes))


def _max_pool(x: Tensor, kernel: Sequence[int], *rest: Any) -> tuple[Tensor, Tensor] | None:
    defaults: tuple[Any, ...] = ((), (0,), (1,), False)
    stride, padding, dilation, ceil = (*rest, *defaults[len(rest) :])
    sizes = _swept(x.shape[2:], kernel, stride or kernel, padding, dilation, ceil) if x.dim() == 4 else None
    shape = None if sizes is None else (*x.shape[:2], *sizes)
    return None if shape is None else (_image(x, shape), _image(x, shape, torch.int64))


def _avg_pool(x: Tensor, kernel: Sequence[int], *rest: Any) -> Tensor | None:
    defaults: tuple[Any, ...] = ((), (0,), False)
    stride, padding, ceil = (*rest[:3], *defaults[len(rest) :])
    sizes = _swept(x.shape[2:], kernel, stride or kernel, padding, (1,), ceil) if x.dim() == 4 else None
    return None if sizes is None else _image(x, (*x.shape[:2], *sizes))


def _upsample(x: Tensor, size: Sequence[int], *_: Any) -> Tensor | None:
    """PyTorch's own answers run the whole interpolation, on tensors without data."""
    plain = x.dim() == 4 and len(size) == 2 and min(size) > 0 and x.numel() > 0
    return _image(x, (*x.shape[:2], *size)) if plain else None


def _grid_sample(x: Tensor, grid: Tensor, *_: Any) -> Tensor | None:
    fit = x.dim() == grid.dim() == 4 and x.shape[0] == grid.shape[0] and grid.shape[3] == 2 and x.dtype == grid.dtype
    return _plain(x, (*x.shape[:2], *grid.shape[1:3])) if fit and x.numel() > 0 else None


def _mm(a: Tensor, b: Tensor) -> Tensor | None:
    return _plain(a, (a.shape[0], b.shape[1])) if a.shape[1] == b.shape[0] and a.dtype == b.dtype else None


def _addmm(bias: Tensor, a: Tensor, b: Tensor, **_: Any) -> Tensor | None:
    return _mm(a, b) if bias.shape == b.shape[1:] else None


def _bmm(a: Tensor, b: Tensor) -> Tensor | None:
    fit = a.shape[0] == b.shape[0] and a.shape[2] == b.shape[1] and a.dtype == b.dtype
    return _plain(a, (a.shape[0], a.shape[1], b.shape[2])) if fit else None


def _grouped_mm(a: Tensor, b: Tensor, ends: Tensor | None = None, **_: Any) -> Tensor | None:
    """PyTorch's own answer refuses types that the CPU multiplies."""
    fit = a.dim() == 2 and b.dim() == 3 and ends is not None and a.shape[1] == b.shape[1] and a.dtype == b.dtype
    return _plain(a, (a.shape[0], b.shape[2])) if fit else None


def _pack(x: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor] | None:
    """The elements of sequences, time after time, and how many sequences go on at each time."""
    if not x.is_meta or lengths.is_meta:
        return None
    times = torch.arange(int(lengths.max()))
    sizes = (lengths[None] > times[:, None]).sum(1)
    fit = lengths.numel() == x.shape[0 if batch_first else 1] and int(lengths.min()) > 0
    return (_plain(x, (int(sizes.sum()), *x.shape[2:])), sizes) if fit else None


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first = tensors[0]
    dim = dim % first.dim() if first.dim() else 0
    rest = [(*t.shape[:dim], *t.shape[dim + 1 :]) for t in tensors if t.dim() == first.dim()]
    if len(rest) != len(tensors) or any(r != rest[0] for r in rest) or any(t.dtype != first.dtype for t in tensors):
        return None
    shape = (*first.shape[:dim], sum(t.shape[dim] for t in tensors), *first.shape[dim + 1 :])
    return _image(first, shape) if all(map(_channels_last, tensors)) else _plain(first, shape)


def _reduction(x: Tensor, dim: Sequence[int] | None = None, keepdim: bool = False, **kwargs: Any) -> Tensor | None:
    if not dim or kwargs.get("dtype") or not x.dtype.is_floating_point or not all(-x.dim() <= d < x.dim() for d in dim):
        return None
    gone = {d % x.dim() for d in dim}
    return _plain(x, [1 if i in gone else n for i, n in enumerate(x.shape) if keepdim or i not in gone])


def _vector_norm(x: Tensor, _: float = 2, *args: Any, **kwargs: Any) -> Tensor | None:
    return None if x.is_complex() else _reduction(x, *args, **kwargs)


def _index(x: Tensor, indices: Sequence[Tensor | None]) -> Tensor | None:
    """Rows picked from a table."""
    rows = indices[0] if len(indices) == 1 else None
    return None if rows is None or rows.dtype != torch.int64 else _plain(x, (*rows.shape, *x.shape[1:]))


def _new_zeros(x: Tensor, size: Sequence[int], **kwargs: Any) -> Tensor | None:
    return None if any(kwargs.values()) else _plain(x, size)


def _empty(size: Sequence[int], *, device: Any = None, dtype: Any = None, **_: Any) -> Tensor | None:
    return torch.empty(0, dtype=dtype, device=_META) if list(size) == [0] and device == _META else None


_SAME_FLOAT = (
    *(aten.silu.default, aten.gelu.default, aten.hardswish.default, aten.hardsigmoid.default, aten.sigmoid.default),
    *(aten.tanh.default, aten.hardtanh.default, aten.leaky_relu.default, aten.elu.default, aten.exp.default),
    *(aten.clamp.default, aten.clamp_min.default),
)
_IN_PLACE = (
    *(aten.relu_.default, aten.silu_.default, aten.hardswish_.default, aten.hardsigmoid_.default),
    *(aten.hardtanh_.default, aten.leaky_relu_.default, aten.sigmoid_.default, aten.bernoulli_.float),
)
ANSWERS: dict[Any, Answer] = {
    **dict.fromkeys((aten.relu.default, aten.neg.default), _same),
    **dict.fromkeys(_SAME_FLOAT, _same_float),
    **dict.fromkeys(_IN_PLACE, _in_place),
    **dict.fromkeys((aten.eq.Scalar, aten.ne.Scalar), _comparison),
    **dict.fromkeys((aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.mul.Scalar), _binary),
    **dict.fromkeys((aten.add_.Tensor, aten.mul_.Tensor), _binary_in_place),
    **dict.fromkeys((aten.mean.dim, aten.sum.dim_IntList), _reduction),
    aten.div.Tensor: _quotient,
    **dict.fromkeys((aten._softmax.default, aten._safe_softmax.default), _softmax),
    aten.roll.default: _roll,
    aten.masked_fill.Scalar: _masked_fill,
    aten.clone.default: _clone,
    aten.fake_quantize_per_tensor_affine_cachemask.default: _rounded,
    aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default: _rounded,
    aten.fake_quantize_per_channel_affine_cachemask.default: _rounded,
    aten._fused_moving_avg_obs_fq_helper.default: _rounded,
    aten.native_batch_norm.default: _batch_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten.convolution.default: _convolution,
    aten.max_pool2d_with_indices.default: _max_pool,
    aten.avg_pool2d.default: _avg_pool,
    **dict.fromkeys((aten.upsample_bilinear2d.default, aten.upsample_bicubic2d.default), _upsample),
    aten.grid_sampler_2d.default: _grid_sample,
    aten.mm.default: _mm,
    aten.addmm.default: _addmm,
    aten.bmm.default: _bmm,
    **({aten._grouped_mm.default: _grouped_mm} if hasattr(aten, "_grouped_mm") else {}),  # newer than others
    aten._pack_padded_sequence.default: _pack,
    aten.cat.default: _cat,
    aten.linalg_vector_norm.default: _vector_norm,
    aten.index.Tensor: _index,
    aten.new_zeros.default: _new_zeros,
    _EMPTY: _empty,
}
# Ops of which some arguments are read on the CPU while others are on meta: lengths of sequences.
MIXED = frozenset([aten._pack_padded_sequence.default])
# What `Variable(x)` and `torch.Tensor(x)` call, which are no functions of PyTorch's.
OF_CONSTRUCTORS = frozenset([aten.detach.default, aten.alias.default])
