"""Calls: every recorded ATen call that takes time, with its arguments as functions of kept channels.

Each dim of an argument has a length that is affine in the kept counts of groups. Lengths that are multiples of one
another are one *width*; so a convolution has at most two (what it reads, what it makes), an elementwise op has one.
Nothing here knows an op, but for the few whose arguments hold lengths as numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from fxprune.analysis.grouping.components import Analysis
from fxprune.analysis.labels.dims import Loose
from fxprune.analysis.labels.labels import Axes
from fxprune.analysis.ops.spec import Move
from fxprune.analysis.ops.table import spec_of, spec_of_node

_MOST_WIDTHS = 2  # a grid of three would be too large; calls with more have one, their sum


@dataclass(frozen=True)
class KeptWidth:
    """A length that the kept counts decide: base + Σ channels · kept count.

    Attributes:
        base: what always stays.
        channels: (group index, indices for each of its channels), ascending.
        full: the length when everything stays.
    """

    base: int
    channels: tuple[tuple[int, int], ...]
    full: int

    @property
    def least(self) -> int:
        """The length when one channel of each group stays."""
        return self.base + sum(n for _, n in self.channels)


@dataclass(frozen=True)
class Operand:
    """A tensor argument.

    Attributes:
        dims: each dim as (factor, number of the width); the number is -1 where the factor is the constant length.
        dtype: of its elements.
        is_weight: a parameter, buffer or constant, which a forward reads once; others have just been computed.
        channels_last: lies in memory with its channels together.
        turns: calls that only turn the tensor before the op sees it, as (op, further arguments).
    """

    dims: tuple[tuple[int, int], ...]
    dtype: torch.dtype
    is_weight: bool
    channels_last: bool
    turns: tuple[tuple[Any, tuple[Any, ...]], ...] = ()

    def shape(self, widths: Sequence[int]) -> tuple[int, ...]:
        """The shape for given values of the widths, before the turns."""
        return tuple(n if k < 0 else n * widths[k] for n, k in self.dims)


@dataclass(frozen=True)
class TimedCall:
    """An ATen call for any widths.

    Attributes:
        op: the ATen op.
        args: its arguments, with an `Operand` in place of each tensor.
        kwargs: its keyword arguments, likewise.
        widths: the widths that its operands refer to.
        result: dims of its first result, as in `Operand`.
    """

    op: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    widths: tuple[KeptWidth, ...]
    result: tuple[tuple[int, int], ...]

    @property
    def axes(self) -> tuple[KeptWidth, ...]:
        """What a grid of measurements spans: the widths, or their sum where they are many."""
        if len(self.widths) <= _MOST_WIDTHS:
            return self.widths
        channels: dict[int, int] = {}
        for width in self.widths:
            for group, n in width.channels:
                channels[group] = channels.get(group, 0) + n
        base, full = (sum(getattr(w, name) for w in self.widths) for name in ("base", "full"))
        return (KeptWidth(base, tuple(sorted(channels.items())), full),)

    def at(self, point: Sequence[int]) -> tuple[Any, dict[str, Any]]:
        """Arguments at a point on the axes; each tensor is (its operand, its shape)."""
        widths = self._widths(point)

        def fill(value: Any) -> Any:
            if isinstance(value, Operand):
                return value, value.shape(widths)
            return _mapped(fill, value)

        args = fill(self.args)
        spec = spec_of(self.op)
        if spec is not None and spec.lengths is not None:
            args = spec.lengths(args, _shape, [n if k < 0 else n * widths[k] for n, k in self.result])
        return args, {name: fill(value) for name, value in self.kwargs.items()}

    def _widths(self, point: Sequence[int]) -> Sequence[int]:
        """Where there are more widths than axes, they shrink in step."""
        if len(point) == len(self.widths):
            return point
        part = point[0] / self.axes[0].full
        return [max(w.least, round(part * w.full)) for w in self.widths]


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """The value, or a plain list or tuple of its changed items (a graph has lists of its own kind)."""
    if isinstance(value, list | tuple):
        return (list if isinstance(value, list) else tuple)(map(change, value))
    return value


def calls_of(analysis: Analysis) -> Iterator[TimedCall]:
    """The calls of an inference that take time, in execution order: all but those that only look at a tensor anew."""
    reader = _Reader(analysis)
    for node in analysis.labelling.graph.fx.nodes:
        if node.op == "call_function" and not _is_free(node.target) and not node.meta["extra"]:
            yield reader.call(node)


def _is_free(op: Any) -> bool:
    """Whether the call computes nothing: it picks a result, or looks at a tensor's memory anew."""
    if not isinstance(op, torch._ops.OpOverload):
        return True
    returns = op._schema.returns
    aliases = [r.alias_info is not None and not r.alias_info.is_write for r in returns]
    spec = spec_of(op)
    return (spec is not None and spec.move is Move.RESHAPE) or (bool(aliases) and all(aliases))


class _Reader:
    """Reads nodes of a graph as calls."""

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._axes = analysis.labelling.axes
        graph = analysis.labelling.graph
        tensors = [*graph.tensors.values(), *(t for t in _tensors(graph.inputs))]
        self._last = any(map(_is_channels_last, tensors))

    def call(self, node: fx.Node) -> TimedCall:
        widths: list[KeptWidth] = []

        def read(value: Any) -> Any:
            if isinstance(value, fx.Node):
                return self._operand(value, widths)
            if isinstance(value, torch.device):
                return None  # on meta; where an op makes a tensor, this is set when it runs
            return _mapped(read, value)

        args = tuple(read(a) for a in node.args)
        kwargs = {name: read(a) for name, a in node.kwargs.items()}
        axes = self._axes[node]
        first = axes if isinstance(axes, Axes) else next(iter(axes), None)
        own = len(widths)
        result = () if first is None else self._dims(first, widths)
        # A width that only the result has decides nothing: the result is made from the operands.
        result = tuple((n, k) if k < own else (first.shape[i], -1) for i, (n, k) in enumerate(result))  # type: ignore[union-attr]
        return TimedCall(node.target, args, kwargs, tuple(widths[:own]), result)

    def _operand(self, node: fx.Node, widths: list[KeptWidth]) -> Operand:
        turns: list[tuple[Any, tuple[Any, ...]]] = []
        while (spec := spec_of_node(node)) is not None and spec.move is Move.TURN:
            turns.insert(0, (node.target, tuple(node.args[1:])))
            node = node.args[0]  # type: ignore[assignment]
        axes = self._axes[node]
        assert isinstance(axes, Axes)
        is_weight = node.op == "get_attr"
        stored = self._analysis.labelling.graph.tensors.get(str(node.target)) if is_weight else None
        last = self._last if stored is None else _is_channels_last(stored)
        dims = self._dims(axes, widths)
        return Operand(dims, node.meta["dtype"], is_weight, last and len(dims) == 4, tuple(turns))

    def _dims(self, axes: Axes, widths: list[KeptWidth]) -> tuple[tuple[int, int], ...]:
        return tuple(self._dim(axes.known(i), size, widths) for i, size in enumerate(axes.shape))

    def _dim(self, dim: Any, size: int, widths: list[KeptWidth]) -> tuple[int, int]:
        base, channels = self._length(dim, size)
        if not channels:
            return size, -1
        factor = math.gcd(base, *channels.values())
        width = KeptWidth(base // factor, tuple(sorted((g, n // factor) for g, n in channels.items())), size // factor)
        if width not in widths:
            widths.append(width)
        return factor, widths.index(width)

    def _length(self, dim: Any, size: int) -> tuple[int, dict[int, int]]:
        if isinstance(dim, Loose) and (rows := dim.rows) is not None:
            base, channels = self._analysis.length(dim.flat, len(dim.flat))
            if all(n % rows == 0 for n in (base, *channels.values())):
                return base // rows, {g: n // rows for g, n in channels.items()}
        return self._analysis.length(dim if isinstance(dim, np.ndarray) else None, size)


def _tensors(inputs: Any) -> Iterator[torch.Tensor]:
    return (t for t in torch.utils._pytree.tree_leaves(inputs) if isinstance(t, torch.Tensor))


def _is_channels_last(t: torch.Tensor) -> bool:
    return t.dim() == 4 and not t.is_contiguous() and t.is_contiguous(memory_format=torch.channels_last)


def _shape(given: tuple[Operand, tuple[int, ...]]) -> tuple[int, ...]:
    """The shape that an op sees of an operand."""
    operand, shape = given
    x = torch.empty(shape, device="meta")
    for op, args in operand.turns:
        x = op(x, *args)
    return tuple(x.shape)
