"""Residual adds: where a layer's output goes; the batch norm behind it, and the shortcut that it is added to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from fxprune.analysis.ops.spec import Move, OpSpec
from fxprune.analysis.ops.table import spec_of
from fxprune.module.dispatch import DispatchMode
from fxprune.statistics.observe import Contraction

CallKey: TypeAlias = tuple[str, int]


@dataclass(frozen=True, eq=False)
class Way:
    """A layer's output on its way.

    Attributes:
        call: the weight's name, and the number of the call among its calls, from 0.
        shape: of the output.
        scale: by which a batch norm in evaluation mode multiplies it, of shape (channels,); None: none has.
    """

    call: CallKey
    shape: torch.Size
    scale: Tensor | None = None


@dataclass(frozen=True, eq=False)
class ResidualAdd:
    """A layer's output is added to something else.

    Attributes:
        way: the output's.
        other: what it is added to, of the shape of the layer's output.
        partner: the weight of the layer that made `other`, if one did so without an activation in between.
    """

    way: Way
    other: Tensor
    partner: str | None


@dataclass(frozen=True, eq=False)
class Normed:
    """A layer's output goes into a batch norm that uses its running statistics.

    Attributes:
        name: of the layer's weight; "" of another one's output.
        running_mean: as the running model holds it.
    """

    name: str
    running_mean: Tensor


@dataclass(frozen=True, eq=False)
class Elsewhere:
    """A layer's bare output, without a batch norm, goes into another op.

    Attributes:
        name: of the layer's weight.
    """

    name: str


class ResidualAdds(DispatchMode):
    """Follows outputs through a batch norm and views to an addition, while a model runs in evaluation mode.

    Args:
        note: receives what happens.
    """

    def __init__(self, note: Callable[[ResidualAdd | Normed | Elsewhere], None]) -> None:
        super().__init__()
        self._note = note
        self._ways = WeakIdKeyDictionary()

    def follow(self, seen: Contraction, call: CallKey) -> None:
        """Follow the output of a call."""
        self._ways[seen.output] = Way(call, seen.output.shape)

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        known = [(a, self._ways[a]) for a in args if isinstance(a, Tensor) and a in self._ways]
        spec = spec_of(op)
        if not known:
            if other := _normed(spec, args):
                self._note(Normed("", other[0]))
            return op(*args, **kwargs)
        if spec and spec.adds and not kwargs and all(isinstance(a, Tensor) for a in args[:2]):
            self._added(args[0], args[1])
        result = op(*args, **kwargs)
        way = known[0][1]
        normed = _normed(spec, args) if way.scale is None and args[0].shape == way.shape else None
        if normed:
            mean, scale = normed
            self._ways[result[0]] = replace(way, scale=scale)
            self._note(Normed(way.call[0], mean))
        elif spec and spec.move is Move.RESHAPE:
            self._ways[result] = way
        else:
            for tensor, way in known:
                if way.scale is None:
                    self._note(Elsewhere(way.call[0]))
                if op._schema.is_mutable and args[0] is tensor:
                    del self._ways[tensor]
        return result

    def _added(self, a: Tensor, b: Tensor) -> None:
        for one, other in ((a, b), (b, a)):
            way, partner = self._ways.get(one), self._ways.get(other)
            if way is not None and one.shape == other.shape:
                self._note(ResidualAdd(way, other.reshape(way.shape), partner and partner.call[0]))


def _normed(spec: OpSpec | None, args: Any) -> tuple[Tensor, Tensor] | None:
    """The running mean, and γ/√(σ² + ε), from a batch norm's arguments; None where the op is none, or has none."""
    norm = spec.norm if spec else None
    if norm is None or norm.statistics is None or not isinstance(args[norm.statistics.mean], Tensor):
        return None
    mean, variance, epsilon = (args[i] for i in norm.statistics)
    weight = args[norm.scale]
    scale: Tensor = torch.rsqrt(variance.double() + epsilon)
    return mean, scale if weight is None else scale * weight.double()
