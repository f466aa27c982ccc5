"""Values: tensors that are remembered, and structures of arguments and results with values in the tensors' places."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fxprune.search.progressive.activation_cache.module_state import is_plain, same_bits

Frozen: TypeAlias = Hashable
"""A structure without tensors that can be compared and looked up: see `freeze`."""


class Value:
    """A tensor's content, which keeps its name (the object's identity) also after the tensor has been forgotten.

    Attributes:
        worth: seconds that an attempt saves by it, times the chance that it can.
        bytes: that it keeps alive.
        place: where they are.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor: Tensor | None = tensor
        self._version = tensor._version
        self.worth = 0.0
        self.bytes = tensor.untyped_storage().nbytes()
        self.place = tensor.untyped_storage().data_ptr()

    @property
    def tensor(self) -> Tensor | None:
        """The tensor; None if it was forgotten, somebody has written into it, or it now belongs to a gradient."""
        t = self._tensor
        return t if t is not None and t._version == self._version and not t.requires_grad else None

    def forget(self) -> None:
        self._tensor = None

    def remember(self, tensor: Tensor) -> None:
        """The tensor of this content, which had been forgotten."""
        if tensor._version == self._version:
            self._tensor = tensor

    def equals(self, other: Tensor) -> bool:
        """Whether another tensor is known to have this content."""
        tensor = self.tensor
        return tensor is not None and same_bits(tensor, other, sample=True)


class StrangeError(Exception):
    """A structure holds something whose equality cannot be known."""


_CONSTANTS = (bool, int, str, bytes, torch.dtype, torch.device, torch.Size, type(None), type(Ellipsis))


def freeze(thing: Any, name: Callable[[Tensor], Hashable]) -> Frozen:
    """Arguments or a result, with `name(tensor)` for each tensor.

    Raises:
        StrangeError: it holds something that is no plain container, tensor or constant.

    >>> freeze([1, {"a": 2.5}], id)
    (<class 'list'>, (<class 'int'>, 1), (<class 'dict'>, ('a', (<class 'float'>, '0x1.4000000000000p+1'))))
    """
    kind = type(thing)
    if isinstance(thing, Tensor):
        if not is_plain(thing):
            raise StrangeError
        return name(thing)
    if kind in (tuple, list):
        return (kind, *[freeze(t, name) for t in thing])
    if kind in (dict, OrderedDict) and all(type(k) is str for k in thing):
        return (kind, *[(k, freeze(t, name)) for k, t in thing.items()])
    if kind is float:
        return kind, thing.hex()  # -0.0 is not 0.0
    if kind in _CONSTANTS:
        return kind, thing
    raise StrangeError


def thaw(frozen: Any, tensor: Callable[[Value], Tensor]) -> Any:
    """The inverse of `freeze` where names are values, with new containers."""
    if isinstance(frozen, Value):
        return tensor(frozen)
    kind, *parts = frozen
    if kind in (tuple, list):
        return kind(thaw(p, tensor) for p in parts)
    if kind in (dict, OrderedDict):
        return kind((k, thaw(p, tensor)) for k, p in parts)
    return float.fromhex(parts[0]) if kind is float else parts[0]


def values_in(frozen: Any) -> Iterator[Value]:
    """The values of a frozen structure, in order."""
    if isinstance(frozen, Value):
        yield frozen
    elif isinstance(frozen, tuple) and not isinstance(frozen, torch.Size):
        for part in frozen[1:]:
            yield from values_in(part)
