"""Convolutions and lookups in tables of weights: contracted dims are equated, the others move to the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from fxprune.analysis.labels.dims import SPATIAL, Dim, Fixed
from fxprune.analysis.labels.labels import Axes, Call
from fxprune.analysis.ops import terms
from fxprune.analysis.ops.spec import Length, OpSpec, Weight
from fxprune.analysis.ops.zeros import MaskedCall

_KERNEL = Fixed("kernel size of a convolution")


def convolution(
    call: Call,
    x: Axes,
    w: Axes,
    bias: Axes | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> list[Dim]:
    """w is (out, in/groups, *kernel), transposed (in, out/groups, *kernel).

    Spatial dims are fixed, but where the kernel is 1, the stride 1 and nothing padded: indices there stay apart, and
    the dim may be anything (a layer over tokens has channels there). A single filter that keeps the length of what it
    sweeps may run along channels too (channel attention): each sees its neighbours, whichever they are.
    """
    lab, channel = call.lab, len(x) - len(w) + 1
    apart = [*_apart(w.shape[2:], stride, padding, output_padding)]
    single = not transposed and tuple(w.shape[:2]) == (1, 1) and _keeps_length(w.shape[2:], stride, padding, dilation)
    for i in (i for i in range(channel + 1, len(x)) if not apart[i - channel - 1]):
        if single:
            lab.mix(x[i])
        else:
            lab.fix(x[i], "spatial dim of a convolution")
    for i in range(2, len(w)):
        lab.fix_axes(Axes(lab, w.shape[i : i + 1], [w.known(i)]), _KERNEL.reason)
        w.adopt(i, None if w.shape[i] == 1 else _KERNEL)
    out = _plain(call, x, w, channel, transposed) if groups == 1 else _grouped(call, x, w, channel, transposed, groups)
    lab.sum(x[channel], *call.node.args[:2])
    if bias is not None:
        out = lab.unite(Axes(lab, (call.shape[channel],), [out]), 0, bias, 0)
    swept = [None if n == 1 else SPATIAL for n in call.shape[channel + 1 :]]
    kept = x.dims()[channel + 1 :]
    passed = [k if alone or single else s for k, s, alone in zip(kept, swept, apart, strict=True)]
    return [*x.dims()[:channel], out, *passed]


def _apart(kernel: Sequence[int], *settings: Sequence[int]) -> Iterator[bool]:
    """For each spatial dim, whether no index of the result sees two of the input's, nor anything else."""
    for i, n in enumerate(kernel):
        stride, padding, more = (s[i if len(s) > 1 else 0] for s in settings)
        yield (n, stride, padding, more) == (1, 1, 0, 0)


def _keeps_length(kernel: Sequence[int], *settings: Sequence[int]) -> bool:
    """Whether the result is as long as the input, of whatever length."""
    for i, n in enumerate(kernel):
        stride, padding, dilation = (s[i if len(s) > 1 else 0] for s in settings)
        if stride != 1 or 2 * padding != dilation * (n - 1):
            return False
    return True


def _plain(call: Call, x: Axes, w: Axes, channel: int, transposed: bool) -> Dim:
    call.lab.unite(x, channel, w, 0 if transposed else 1)
    return w[1 if transposed else 0]


def _grouped(call: Call, x: Axes, w: Axes, channel: int, transposed: bool, groups: int) -> Dim:
    """Input and output are grids (group, channel in the group) that share the group axis.

    The first dim of `w` is a grid as well: the output's, or, transposed, the input's; its second dim is the length of
    the other grid's rows. Depthwise is the grid with rows of length 1.
    """
    lab = call.lab
    n_in, n_out = x.shape[channel] // groups, call.shape[channel] // groups
    if transposed:
        flat_in, flat_out = lab.unite(x, channel, w, 0), lab.fresh(groups * n_out)
        inner_in, inner_out = lab.fresh(n_in), w[1]
    else:
        flat_in, flat_out = x[channel], w[0]
        inner_in, inner_out = w[1], lab.fresh(n_out)
    rows = flat_in if n_in == 1 else lab.fresh(groups)
    lab.factor(flat_in, [(groups, rows), (n_in, inner_in)])
    lab.factor(flat_out, [(groups, rows), (n_out, inner_out)])
    lab.width("groups", rows)
    lab.suspect(*([rows] if isinstance(rows, np.ndarray) else []))
    return flat_out


def embedding(call: Call, w: Axes, index: Axes, *_: Any, **__: Any) -> list[Dim]:
    call.lab.fix(w[0], "rows of an embedding are addressed by value")
    return [*index.dims(), w[1]]


def deformable(call: Call, x: Axes, w: Axes, offset: Axes, mask: Axes, bias: Axes, *settings: Any) -> list[Dim]:
    """A convolution whose kernel's places move: `offset` and `mask` tell where and how much, for parts of the input.

    After ten numbers for stride, padding, dilation, groups and parts comes whether `mask` counts.
    """
    lab, groups, parts = call.lab, settings[6], settings[7]
    for t in (offset, mask):
        lab.fix_axes(t, "offsets of a deformable convolution")
    for i in (2, 3):
        lab.fix(x[i], "spatial dim of a convolution")
        lab.fix_axes(Axes(lab, w.shape[i : i + 1], [w.known(i)]), _KERNEL.reason)
        w.adopt(i, None if w.shape[i] == 1 else _KERNEL)
    if parts > 1:
        lab.factor(
            x[1], [(parts, Fixed("parts of a deformable convolution")), (n := x.shape[1] // parts, lab.fresh(n))]
        )
    out = _plain(call, x, w, 1, False) if groups == 1 else _grouped(call, x, w, 1, False, groups)
    lab.sum(x[1], *call.node.args[:2])
    out = lab.unite(Axes(lab, (call.shape[1],), [out]), 0, bias, 0)
    return [x[0], out, *(None if n == 1 else SPATIAL for n in call.shape[2:])]


def _deformable_macs(node: fx.Node, axes: Mapping[fx.Node, Any]) -> Iterator[Length]:
    w, out = axes[node.args[1]], axes[node]  # type: ignore[index]
    yield from ((out.shape[i], out[i]) for i in range(len(out)) if i != 1)
    yield from ((w.shape[i], w[i]) for i in range(len(w)))


def _deformable_zeros(call: MaskedCall) -> bool:
    return call.is_zero(call.node.args[1]) and call.labelled() in ([], [1])


def grouped_mm(
    call: Call, a: Axes, b: Axes, ends: Axes | None = None, bias: Axes | None = None, *_: Any, **__: Any
) -> Any:
    """Rows of `a` in runs that end at `ends`, each with a matrix of its own, (experts, in, out).

    PyTorch's kernels refuse rows whose length is no multiple of 16 bytes.
    """
    if len(a) != 2 or len(b) != 3:
        return None
    lab = call.lab
    for dim in (a[1], b[1], b[2]):
        lab.multiple(dim, 16 // call.node.meta["dtype"].itemsize)
    lab.unite(a, 1, b, 1)
    lab.sum(a[1], *call.node.args[:2])
    lab.fix(b[0], "experts are addressed by value")
    lab.fix(a[0], "experts are addressed by value")
    out = b[2] if bias is None else lab.unite(b, 2, bias, len(bias) - 1)
    return [a[0], out]


def _grouped_macs(node: fx.Node, axes: Mapping[fx.Node, Any]) -> Iterator[Length]:
    a, b = axes[node.args[0]], axes[node.args[1]]  # type: ignore[index]
    yield from ((a.shape[i], a[i]) for i in range(len(a)))
    yield b.shape[len(b) - 1], b[len(b) - 1]


def trilinear(call: Call, a: Axes, b: Axes, c: Axes, *settings: Any) -> list[Dim]:
    """Three tensors, each with dims of length 1 put in, are multiplied and summed over some dims."""
    *put_in, gone = (list(s) for s in settings[:4])
    factors = [_stretched(call, t, dims) for t, dims in zip((a, b, c), put_in, strict=True)]
    total = len(factors[0])
    dims: list[Dim] = []
    for i in range(total):
        first, *others = [t for t in factors if t.shape[i] > 1] or factors[:1]
        for t in others:
            call.lab.unite(first, i, t, i)
        dims.append(first[i])
        if i in gone:
            call.lab.sum(first[i], *call.node.args[:3])
    return [d for i, d in enumerate(dims) if i not in gone]


def _trilinear_zeros(call: MaskedCall) -> bool:
    """The weights make the output's channels."""
    return any(call.is_zero(factor) for factor in call.node.args[:3])


def _stretched(call: Call, t: Axes, put_in: list[int]) -> Axes:
    dims, shape = t.dims(), list(t.shape)
    for i in sorted(put_in):
        dims.insert(i, None)
        shape.insert(i, 1)
    return Axes(call.lab, tuple(shape), dims)


def _trilinear_macs(node: fx.Node, axes: Mapping[fx.Node, Any]) -> Iterator[Length]:
    """Weights, once for each row."""
    x, w = axes[node.args[0]], axes[node.args[1]]  # type: ignore[index]
    yield x.shape[0], x[0]
    yield from ((w.shape[i], w[i]) for i in range(len(w)))


def _weights(node: fx.Node) -> list[Weight]:
    """The kernels; those of a depthwise convolution have one channel each, which they make."""
    depthwise = node.args[8] == node.args[1].meta["shape"][0] > 1  # type: ignore[union-attr]
    return [Weight(1, 1, 0)] if node.args[6] and not depthwise else [Weight(1, 0, 1)]


def _macs(node: fx.Node, axes: Mapping[fx.Node, Any]) -> Iterator[Length]:
    """Every position that the kernel is laid on, times the weights."""
    x, w, out = axes[node.args[0]], axes[node.args[1]], axes[node]  # type: ignore[index]
    swept = x if node.args[6] else out
    channel = len(x) - len(w) + 1
    yield from ((swept.shape[i], swept[i]) for i in range(len(swept)) if i != channel)
    yield from ((w.shape[i], w[i]) for i in range(len(w)))


def _zeros(call: MaskedCall) -> bool:
    """Weights and bias make the output's channels; other dims that carry labels are those of the input."""
    x, w, bias = call.node.args[:3]
    channel = len(x.meta["shape"]) - len(w.meta["shape"]) + 1  # type: ignore[union-attr]
    others = [i for i in call.labelled() if i != channel]
    return call.is_zero(w) and (bias is None or call.is_zero(bias)) and (not others or (call.is_zero(x) and not bias))


def _lengths(args: Any, shape: Any, result: Sequence[int]) -> Any:
    """The number of groups."""
    x, w = shape(args[0]), shape(args[1])
    groups = args[8] if args[8] == 1 else result[1] // w[1] if args[6] else x[1] // w[1]
    return (*args[:8], groups)


CONVOLUTION = torch.ops.aten.convolution.default
CONVOLUTION_BACKWARD = torch.ops.aten.convolution_backward.default

OPS: dict[str, OpSpec] = {
    "convolution": OpSpec(convolution, _zeros, _weights, _macs, lengths=_lengths, terms=terms.convolved),
    "torchvision::deform_conv2d": OpSpec(deformable, _deformable_zeros, lambda _: [Weight(1, 0, 1)], _deformable_macs),
    "_grouped_mm": OpSpec(grouped_mm, macs=_grouped_macs),
    "_trilinear": OpSpec(trilinear, _trilinear_zeros, lambda _: [Weight(1, 0, 1), Weight(1, 0, 2)], _trilinear_macs),
    "embedding": OpSpec(embedding, terms=terms.looked_up),
}
