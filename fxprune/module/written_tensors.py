"""Writes: tensors that a run writes to are afterwards what they were, and only those are copied."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

from fxprune.module.dispatch import DispatchMode

unwatched = _disable_current_modes
"""A block whose calls are timed, or are fxprune's own; what was written to before is put back all the same."""


class Writes(DispatchMode):
    """While it is on, keeps the memory of each watched tensor just before an op first writes to it.

    A model may write to its weights, to tensors in attributes, or to views of either; few do, and no copy is made for
    the others. It costs a few microseconds an op.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        # A tensor's `data` can be exchanged as well, which no op tells of: the alias has what it was.
        self._aliases = [(t, t.detach()) for t in {id(t): t for t in tensors if _has_memory(t)}.values()]
        self._watched = {a.untyped_storage().data_ptr() for _, a in self._aliases}
        self._kept: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __bool__(self) -> bool:
        return bool(self._watched)

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if writes := _written(op):
            for tensor in _arguments(writes, args, kwargs):
                self._keep(tensor.untyped_storage())
        return op(*args, **kwargs)

    def _keep(self, storage: torch.UntypedStorage) -> None:
        address = storage.data_ptr()
        if address in self._watched and address not in self._kept:
            self._kept[address] = storage, storage.clone()

    def restore(self) -> None:
        for storage, contents in self._kept.values():
            if storage.nbytes() != contents.nbytes():
                storage.resize_(contents.nbytes())
            storage.copy_(contents)
        for tensor, alias in self._aliases:
            if _place(tensor) != _place(alias):
                tensor.data = alias


def _has_memory(value: Any) -> bool:
    """Whether it is a tensor with memory of its own: none on meta, sparse or wrapped."""
    plain = isinstance(value, Tensor) and type(value).__torch_dispatch__ is Tensor.__torch_dispatch__
    dense = plain and not value.is_meta and value.layout is torch.strided and torch._C._has_storage(value)
    return dense and bool(value.untyped_storage().data_ptr())


def _place(t: Tensor) -> tuple[Any, ...]:
    return t.data_ptr(), t.shape, t.stride(), t.dtype


# Norms write to these in training mode, and their schemas do not say so.
_STATISTICS = ("running_mean", "running_var")


@cache
def _written(op: Any) -> tuple[tuple[int, str], ...]:
    """Place and name of the arguments that an op writes to."""
    arguments = enumerate(op._schema.arguments)
    return tuple((i, a.name) for i, a in arguments if (a.alias_info and a.alias_info.is_write) or a.name in _STATISTICS)


def _arguments(places: Iterable[tuple[int, str]], args: Any, kwargs: Any) -> Iterator[Tensor]:
    for place, name in places:
        given = args[place] if place < len(args) else kwargs.get(name)
        yield from filter(_has_memory, tree_leaves(given))
