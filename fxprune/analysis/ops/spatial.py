"""Pooling, resampling and patches: the last dims are spatial and fixed, those before keep their labels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from fxprune.analysis.labels.dims import SPATIAL, Dim, Fixed
from fxprune.analysis.labels.labels import Axes, Call, fixed_result
from fxprune.analysis.ops.spec import OpSpec
from fxprune.analysis.ops.zeros import first


def spatial(n: int, call: Call, x: Axes, *_: Any, **__: Any) -> Any:
    """`n` trailing spatial dims."""
    return _windows(call, x, range(len(x) - n, len(x)))


def pooled(n: int, call: Call, x: Axes, kernel: Any, stride: Any = (), padding: Any = 0, *_: Any) -> Any:
    """Pooling over windows of the last `n` dims; a dim whose windows hold one index each stays as it is."""
    windows = zip(*(_each(n, given) for given in (kernel, stride or kernel, padding)), strict=True)
    return _windows(call, x, [len(x) - n + i for i, window in enumerate(windows) if window != (1, 1, 0)])


def _each(n: int, given: Any) -> list[int]:
    """A number for each of `n` dims; one alone stands for all."""
    numbers = [given] if isinstance(given, int) else list(given)
    return numbers * n if len(numbers) == 1 else numbers


def _windows(call: Call, x: Axes, dims: Sequence[int]) -> Any:
    """The given dims are spatial."""
    for i in dims:
        call.lab.fix(x[i], f"spatial dim of {call.node.target}")

    def after(shape: tuple[int, ...]) -> list[Dim]:
        return [x[i] if i not in dims else None if n == 1 else SPATIAL for i, n in enumerate(shape)]

    several = isinstance(call.shape[0], tuple)
    return [after(s) for s in call.shape] if several else after(call.shape)


def grid_sample(call: Call, x: Axes, grid: Axes, *_: Any) -> Any:
    call.lab.fix_axes(grid, "sampling positions")
    return spatial(len(x) - 2, call, x)


def affine_grid(call: Call, theta: Axes, *_: Any) -> list[Dim]:
    """One position for each place of an image; the channels of the image's size do not count."""
    call.lab.fix_axes(theta, "sampling positions")
    return [theta[0], *[SPATIAL] * (len(call.shape) - 2), Fixed("sampling positions")]


def fractional(n: int, call: Call, x: Axes, kernel: Any, size: Any, samples: Axes) -> Any:
    """Random positions, one set a channel."""
    call.lab.unite(x, len(x) - n - 1, samples, 1)
    return spatial(n, call, x)


def max_unpool(n: int, call: Call, x: Axes, indices: Axes, *_: Any) -> Any:
    """Each element goes to the place of its channel's map that its index tells."""
    for i in range(len(x) - n):
        call.lab.unite(x, i, indices, i)
    for i in range(len(x) - n, len(x)):
        call.lab.fix(indices[i], "index tensor")
    return spatial(n, call, x)


def im2col(call: Call, x: Axes, *_: Any) -> list[Dim]:
    """(n, c, h, w) → (n, c·kernel, positions): each channel's label once per kernel element."""
    spatial_dims = len(x) - 2
    for i in range(len(x) - spatial_dims, len(x)):
        call.lab.fix(x[i], "spatial dim of unfold")
    channel = x[len(x) - 3]
    times = call.shape[-2] // x.shape[len(x) - 3]
    rows: Dim = np.repeat(channel, times) if isinstance(channel, np.ndarray) else SPATIAL
    return [*x.dims()[:-3], rows, SPATIAL]


def col2im(call: Call, x: Axes, *_: Any) -> list[Dim]:
    """(n, c·kernel, positions) → (n, c, h, w): the rows are a grid whose kernel factor is spatial."""
    call.lab.fix(x[len(x) - 1], "spatial dim of fold")
    channels, rows = call.shape[-3], x.shape[len(x) - 2]
    channel = call.lab.fresh(channels)
    call.lab.factor(x[len(x) - 2], [(channels, channel), (rows // channels, SPATIAL)])
    return [*x.dims()[:-2], channel, *(None if n == 1 else SPATIAL for n in call.shape[-2:])]


def unfold(call: Call, x: Axes, dim: int, *_: Any) -> list[Dim]:
    """Windows along one dim, which becomes (windows), and a last dim (places in the window)."""
    dims = x.dims()
    call.lab.fix(dims[dim], "cut into windows")
    dims[dim] = SPATIAL
    return [None if n == 1 else d for n, d in zip(call.shape, [*dims, SPATIAL], strict=True)]


def pixel_shuffle(call: Call, x: Axes, factor: int) -> list[Dim]:
    """(c·r², h, w) → (c, h·r, w·r): the channel dim is a grid whose r² factor is spatial."""
    channel = call.lab.fresh(call.shape[-3])
    call.lab.factor(x[len(x) - 3], [(call.shape[-3], channel), (factor**2, SPATIAL)])
    return [*x.dims()[:-3], channel, SPATIAL, SPATIAL]


def pixel_unshuffle(call: Call, x: Axes, factor: int) -> list[Dim]:
    channel = x[len(x) - 3]
    flat: Dim = np.repeat(channel, factor**2) if isinstance(channel, np.ndarray) else SPATIAL
    return [*x.dims()[:-3], flat, *(None if n == 1 else SPATIAL for n in call.shape[-2:])]


def roi_align(call: Call, x: Axes, boxes: Axes, *_: Any) -> Any:
    """Regions of a feature map: (boxes, channels, height, width)."""
    fixed_result(call.lab, [boxes], (), "coordinates of regions")
    for i in (2, 3):
        call.lab.fix(x[i], "spatial dim of region pooling")
    several = isinstance(call.shape[0], tuple)
    dims = [Fixed("regions"), x[1], SPATIAL, SPATIAL]
    return [dims, dims] if several else dims


def channel_shuffle(call: Call, x: Axes, groups: int) -> list[Dim]:
    """The grid (groups, c/groups) is transposed; the number of groups stands in the call."""
    lab, n = call.lab, x.shape[1]
    rows, columns = Fixed("groups of a channel shuffle") if groups > 1 else None, lab.fresh(n // groups)
    flat = lab.fresh(n)
    lab.factor(x[1], [(groups, rows), (n // groups, columns)])
    lab.factor(flat, [(n // groups, columns), (groups, rows)])
    return [x[0], flat, *x.dims()[2:]]


def _spatial(n: int) -> OpSpec:
    return OpSpec(partial(spatial, n), first)


_POOLS = ("avg_pool", "max_pool")
_ADAPTIVE_POOLS = ("adaptive_avg_pool", "_adaptive_avg_pool", "adaptive_max_pool")
_PADS = ("reflection_pad", "replication_pad")
_UPSAMPLES = ("bilinear2d", "bicubic2d", "nearest2d", "nearest1d", "nearest3d", "linear1d", "trilinear3d")

OPS: dict[str, OpSpec] = {
    **{
        f"{name}{n}d{tail}": OpSpec(partial(rule, n), first)
        for names, rule in ((_POOLS, pooled), (_ADAPTIVE_POOLS, spatial))
        for name in names
        for n in (1, 2, 3)
        for tail in ("", "_with_indices")
    },
    **{f"{name}{n}d": _spatial(n) for name in _PADS for n in (1, 2, 3)},
    **{f"upsample_{kind}": _spatial(int(kind[-2])) for kind in _UPSAMPLES},
    **{f"_upsample_{kind}_aa": _spatial(2) for kind in ("bilinear2d", "bicubic2d")},
    **{f"_upsample_nearest_exact{n}d": _spatial(n) for n in (1, 2, 3)},
    **{f"fractional_max_pool{n}d": OpSpec(partial(fractional, n), first) for n in (2, 3)},
    **{f"max_unpool{n}d": OpSpec(partial(max_unpool, n), first) for n in (2, 3)},
    **dict.fromkeys(["grid_sampler_2d", "grid_sampler_3d"], OpSpec(grid_sample, first)),
    "affine_grid_generator": OpSpec(affine_grid),
    "im2col": OpSpec(im2col, first),
    "col2im": OpSpec(col2im, first),
    "unfold": OpSpec(unfold, first),
    "pixel_shuffle": OpSpec(pixel_shuffle, first),
    "pixel_unshuffle": OpSpec(pixel_unshuffle, first),
    **dict.fromkeys(["channel_shuffle", "native_channel_shuffle"], OpSpec(channel_shuffle, first)),
    **dict.fromkeys(["torchvision::roi_align", "torchvision::roi_pool"], OpSpec(roi_align, first)),
}
