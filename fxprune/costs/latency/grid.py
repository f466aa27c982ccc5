"""Grids: at which widths an op is measured, and how its time between them is read.

Kernels work on blocks of channels (a vector register, a tile of a matrix unit), so that time is a staircase: widths of
a whole number of blocks are quicker than those beside them. A grid therefore has the ends of blocks, and the widths
just behind them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from fxprune.costs.latency.calls import TimedCall

Floats = npt.NDArray[np.float64]
BLOCK = 16  # channels: the widest vector of float32 on CPUs, and the tile of matrix units
_MOST_BLOCKS = 8


def grid(call: TimedCall) -> tuple[tuple[int, ...], ...]:
    """The points of each axis of a call, ascending, from its least to its full width."""
    several = len(call.axes) > 1
    return tuple(_points(axis.least, axis.full, corners=not several) for axis in call.axes)


def _points(least: int, full: int, corners: bool) -> tuple[int, ...]:
    """
    Args:
        least: the smallest width.
        full: the largest.
        corners: also the last width before the end of a block.
    """
    blocks = max(1, full // BLOCK)
    ends = {round(blocks * k / _MOST_BLOCKS) for k in range(1, _MOST_BLOCKS + 1)} | {1, min(2, blocks)}
    inner = {BLOCK * k + d for k in ends - {0} for d in ((0, 1, -1) if corners else (0, 1))}
    return tuple(sorted({least, full} | {n for n in inner if least < n < full}))


def points(axes: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """All combinations of points, the full widths first."""
    return list(product(*(tuple(reversed(axis)) for axis in axes)))


def rising(values: Floats) -> Floats:
    """Values that never fall along any axis: halfway between the most before each point and the least behind it."""
    most = least = values
    for axis in range(values.ndim):
        most = np.maximum.accumulate(most, axis=axis)
        least = np.flip(np.minimum.accumulate(np.flip(least, axis), axis=axis), axis)
    return (most + least) / 2


@dataclass(frozen=True, eq=False)
class Surfaces:
    """Times of many calls as functions of kept counts, evaluated together.

    Every call has two axes, of which one or both may have a single point; between points, time is linear in each axis.

    Attributes:
        base: constant part of each axis's width, of shape (2, calls).
        weights: indices for each channel, of shape (2, calls, groups).
        starts: where each axis's look-up table begins, of shape (2, calls).
        longest: the last width of each look-up table, of shape (2, calls).
        below: number of the last point that is not above a width; the tables of all axes, one after another.
        part: where the width lies between that point and the next, in [0, 1].
        origins: where each call's times begin, of shape (calls,).
        strides: points of the second axis, of shape (calls,).
        times: seconds at all points, row by row; those of all calls, one after another.
        fits: whether a width is a multiple of what counts, in the order of `below`.
        stray: which calls count only where not all of their widths fit, of shape (calls,).
    """

    base: npt.NDArray[np.int64]
    weights: Floats
    starts: npt.NDArray[np.int64]
    longest: npt.NDArray[np.int64]
    below: npt.NDArray[np.int64]
    part: Floats
    origins: npt.NDArray[np.int64]
    strides: npt.NDArray[np.int64]
    times: Floats
    fits: npt.NDArray[np.bool_]
    stray: npt.NDArray[np.bool_]

    def scaled(self, factors: Floats) -> Surfaces:
        """The times of each call multiplied by a factor, of shape (calls,)."""
        sizes = np.diff([*self.origins, len(self.times)])
        return replace(self, times=self.times * np.repeat(factors, sizes))

    def blocked(self) -> Surfaces:
        """The same calls where each width is rounded up to whole blocks, as far as it goes."""
        index = np.arange(len(self.below))
        for at, widths in self._tables():
            index[at] = at.start + np.minimum(-(-widths // BLOCK) * BLOCK, widths[-1])
        return replace(self, below=self.below[index], part=self.part[index])

    def strays(self, multiple: int) -> Surfaces:
        """The same calls, which take time only where one of their widths is not a multiple of a number."""
        fits = np.ones(len(self.below), dtype=bool)
        for at, widths in self._tables():
            fits[at] = widths % multiple == 0
        return replace(self, fits=fits, stray=np.ones_like(self.stray))

    def _tables(self) -> Iterator[tuple[slice, npt.NDArray[np.int64]]]:
        """Where each axis's look-up table lies, and its widths."""
        for start, longest in zip(self.starts.ravel().tolist(), self.longest.ravel().tolist(), strict=True):
            if longest:
                yield slice(start, start + longest + 1), np.arange(longest + 1)

    def joined(self, other: Surfaces) -> Surfaces:
        """The calls of both."""

        def both(name: str, axis: int = 0, shift: int = 0) -> Any:
            mine, others = getattr(self, name), getattr(other, name)
            return np.concatenate([mine, others + shift if shift else others], axis=axis)

        across = {name: both(name, 1) for name in ("base", "weights", "longest")}
        along = {name: both(name) for name in ("below", "part", "strides", "times", "fits", "stray")}
        starts, origins = both("starts", 1, len(self.below)), both("origins", 0, len(self.times))
        return replace(self, **across, **along, starts=starts, origins=origins)

    def __call__(self, counts: Floats) -> Floats:
        """Seconds of each call, of shape (calls,), or (calls, n) for counts of shape (groups, n)."""
        one = counts.ndim == 1
        counts = counts[:, None] if one else counts
        widths = self.base[:, :, None] + np.rint(self.weights @ counts).astype(np.int64)
        at = self.starts[:, :, None] + np.minimum(np.maximum(widths, 0), self.longest[:, :, None])
        (i, j), (u, v) = self.below[at], self.part[at]
        corner = self.origins[:, None] + i * self.strides[:, None] + j
        down = np.where(u > 0, self.strides[:, None], 0)
        right = np.where(v > 0, 1, 0)
        t = self.times
        near = (1 - v) * t[corner] + v * t[corner + right]
        far = (1 - v) * t[corner + down] + v * t[corner + down + right]
        seconds = (1 - u) * near + u * far
        if self.stray.any():
            seconds[self.stray[:, None] & self.fits[at].all(0)] = 0
        return seconds[:, 0] if one else seconds


def surfaces(calls: Sequence[TimedCall], times: Sequence[Floats], groups: int) -> Surfaces:
    """
    Args:
        calls: what was measured.
        times: of each call, seconds on its grid.
        groups: how many groups the counts are of.
    """
    n = len(calls)
    base, starts, longest = (np.zeros((2, n), dtype=np.int64) for _ in range(3))
    weights = np.zeros((2, n, groups))
    below, part, length = [np.zeros(1, dtype=np.int64)], [np.zeros(1)], 1
    strides, origins = np.ones(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    for c, call in enumerate(calls):
        axes = grid(call)
        strides[c] = len(axes[1]) if len(axes) > 1 else 1
        for a, (axis, at) in enumerate(zip(call.axes, axes, strict=True)):
            base[a, c] = axis.base
            weights[a, c, [g for g, _ in axis.channels]] = [k for _, k in axis.channels]
            lower, between = _look_up(at)
            starts[a, c], longest[a, c] = length, axis.full
            below.append(lower)
            part.append(between)
            length += len(lower)
    origins[1:] = np.cumsum([t.size for t in times])[:-1]
    flat = np.concatenate([np.zeros(0), *(t.ravel() for t in times)])
    lower, between = np.concatenate(below), np.concatenate(part)
    fits, stray = np.ones(length, dtype=bool), np.zeros(n, dtype=bool)
    return Surfaces(base, weights, starts, longest, lower, between, origins, strides, flat, fits, stray)


def _look_up(at: Sequence[int]) -> tuple[npt.NDArray[np.int64], Floats]:
    """For every width from 0 to the last point: the point below, and the part of the way to the next."""
    points, widths = np.array(at), np.arange(at[-1] + 1)
    lower = np.maximum(np.searchsorted(points, widths, side="right") - 1, 0)
    upper = np.minimum(lower + 1, len(points) - 1)
    gap = np.maximum(points[upper] - points[lower], 1)
    return lower, np.maximum(np.minimum((widths - points[lower]) / gap, 1.0), 0.0)
