"""Whether the result of a call is zero in masked channels: the rules that the table of ops refers to.

A rule receives the `MaskedCall` and answers whether every index of the result that belongs to a masked channel is zero.
False is always safe: then a sum over such channels counts as one that tells masked channels from removed ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import fx

from fxprune.analysis.labels.labels import Env


@dataclass(frozen=True, slots=True)
class MaskedCall:
    """A recorded call of a model whose masked channels are zero where they are made.

    Attributes:
        node: the call.
        zero: for each node before it, whether the tensor is zero in masked channels.
        axes: the dims of all tensors.
        channels: for each label, whether it belongs to channels that may go, of shape (labels,).
    """

    node: fx.Node
    zero: Mapping[fx.Node, bool]
    axes: Env
    channels: npt.NDArray[np.bool_]

    def is_zero(self, value: Any) -> bool:
        """Whether an argument is a tensor that is zero in masked channels."""
        return isinstance(value, fx.Node) and self.zero[value]

    def argument(self, i: int, name: str, default: Any = 0) -> Any:
        """An argument given by position or by name."""
        return self.node.args[i] if len(self.node.args) > i else self.node.kwargs.get(name, default)

    def zero_along(self, values: Sequence[Any], enough: Callable[[Iterable[bool]], bool]) -> bool:
        """Whether in each labelled dim of the result `enough` of the tensors, broadcast to it, are zero and have it."""
        given = [v for v in values if isinstance(v, fx.Node)]
        return bool(given) and all(enough(self.zero[v] and self._has(v, dim) for v in given) for dim in self.labelled())

    def _has(self, value: fx.Node, dim: int) -> bool:
        """Whether a tensor that is broadcast to the result has its dim, and not one number for all of it."""
        result, own = (len(self.axes[n]) for n in (self.node, value))  # type: ignore[arg-type]
        i = dim - (result - own)
        shape: Any = value.meta["shape"]
        return i >= 0 and (shape[i] > 1 or self.node.meta["shape"][dim] == 1)

    def labelled(self) -> list[int]:
        """The dims of the result that carry labels of channels."""
        axes: Any = self.axes[self.node]
        known = [(i, axes.known(i)) for i in range(len(axes))]
        return [i for i, labels in known if isinstance(labels, np.ndarray) and self.channels[labels].any()]


Zeros: TypeAlias = Callable[[MaskedCall], bool]


def never(_: MaskedCall) -> bool:
    """Not known to be zero."""
    return False


def always(_: MaskedCall) -> bool:
    """Zero whatever the arguments are."""
    return True


def first(call: MaskedCall) -> bool:
    """f(0) = 0 in the first tensor; code may as well give a function of PyTorch numbers only."""
    return any(call.zero[n] for n in call.node.all_input_nodes[:1])


def first_throughout(call: MaskedCall) -> bool:
    """The same where the first tensor may be broadcast: along channels that it does not have, it is one number."""
    return call.zero_along(call.node.args[:1], any)


def any_factor(call: MaskedCall) -> bool:
    """A product: in each labelled dim, one factor that has it and is zero suffices."""
    return call.zero_along(call.node.all_input_nodes, any)


def all_terms(call: MaskedCall) -> bool:
    """In each labelled dim all tensors must have it and be zero: 0 + 0, max(0, 0)."""
    return call.zero_along(call.node.all_input_nodes, all)


def all_inputs(call: MaskedCall) -> bool:
    """Tensors that are laid beside each other must all be zero."""
    return bool(call.node.all_input_nodes) and all(call.zero[n] for n in call.node.all_input_nodes)


def added(call: MaskedCall) -> bool:
    """A sum or difference; a number that is added must be zero."""
    return all_terms(call) and not any(isinstance(a, float | int) and a != 0 for a in call.node.args[:2])


def padded(call: MaskedCall) -> bool:
    """The first tensor, with the third argument around it."""
    return first(call) and call.argument(2, "value") in (0, False)


def filled(call: MaskedCall) -> bool:
    """The first tensor, which may be broadcast, with the third argument put in some places."""
    return first_throughout(call) and call.argument(2, "value") in (0, False)


def overwritten(call: MaskedCall) -> bool:
    """One number in all places: the second argument."""
    return call.argument(1, "value", None) in (0, False)


def powered(call: MaskedCall) -> bool:
    """0 to the power of a positive number."""
    exponent = call.argument(1, "exponent", None)
    return isinstance(exponent, float | int) and exponent > 0 and call.is_zero(call.node.args[0])


def between(low: Callable[[MaskedCall], Any], high: Callable[[MaskedCall], Any]) -> Zeros:
    """The first tensor, kept between two bounds; they may also be tensors, or absent."""

    def rule(call: MaskedCall) -> bool:
        a, b = (bound(call) or 0 for bound in (low, high))
        known = isinstance(a, float | int) and isinstance(b, float | int)
        return first(call) and known and a <= 0 <= b

    return rule


def nothing(_: MaskedCall) -> int:
    """The bound where there is none."""
    return 0
