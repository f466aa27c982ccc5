"""Replay: run a model again and again while its later layers change, and compute what comes before these only once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar
from weakref import ref

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from fxprune.module.dispatch import DispatchMode
from fxprune.module.isolation import Inputs, cloned

R = TypeVar("R")

SMALL = 4096
"""Numbers of a tensor that is always held: shapes, indices and other things that code may look at."""
WORTH = 2**17
"""Numbers that the calls before a cut give on average from which holding them is faster than computing them anew."""
_READS = (Tensor.numpy, Tensor.tolist, Tensor.__array__)
"""Functions that read a tensor's numbers without an ATen call."""
_ADDRESSES = (Tensor.data_ptr, Tensor.untyped_storage)
"""Functions after which anything may happen to a tensor."""


class ReplayRefusedError(Exception):
    """The model's code does what cannot be answered from a tape."""


@dataclass(eq=False)
class _Call:
    """One ATen call.

    Attributes:
        op: what was called.
        constants: its arguments other than tensors.
        results: as it returned them; while a run has not come to its cut, tensors are `_Weak`.
    """

    op: Any
    constants: list[Any]
    results: Any


@dataclass(frozen=True, eq=False)
class _Weak:
    """A tensor that stays as long as the model's code holds it."""

    tensor: ref[Tensor]
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class _Hollow:
    """Tensors without numbers. They share memory, of which nothing is known but that it may be read.

    It is as large as the largest of them; a processor's is not touched, and takes none.
    """

    def __init__(self) -> None:
        self._memory: dict[torch.device, torch.UntypedStorage] = {}

    def like(self, value: _Weak) -> Tensor:
        """One of the same shape and strides, by which PyTorch chooses ops."""
        last = sum((length - 1) * step for length, step in zip(value.shape, value.stride, strict=True))
        size, memory = (last + 1) * value.dtype.itemsize, self._memory.get(value.device)
        if memory is None or memory.nbytes() < size:
            memory = self._memory[value.device] = torch.UntypedStorage(size, device=value.device)
        made = torch.empty(0, dtype=value.dtype, device=value.device)
        return made.set_(memory, 0, value.shape, value.stride)  # type: ignore[call-overload, no-any-return]


class Tape(DispatchMode):
    """The ATen calls of a forward on one batch, up to the cut: the first call that reads a tensor which may change.

    The next run gets the results of these calls without computing them. Of the results only the tensors are held that
    the model's code itself still holds at the cut; the others have the right shape, and no numbers. A run that calls
    other ops than those on the tape, or computes with a tensor without numbers, is repeated without the tape. Models
    that write to their inputs or buffers, or read larger tensors past PyTorch's dispatcher, are computed in full each
    time; so are small models.
    """

    def __init__(self, without_numbers: _Hollow | None = None) -> None:
        super().__init__()
        self._suits, self._without_numbers = True, without_numbers or _Hollow()
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._calls, self._versions, self._hollow = list[_Call](), list[tuple[Tensor, int]](), dict[int, Tensor]()

    def bytes(self) -> int:
        """Of the tensors that are held."""
        return sum({s.data_ptr(): s.nbytes() for t, _ in self._versions for s in [t.untyped_storage()]}.values())

    def run(self, forward: Callable[[Inputs], R], inputs: Inputs, tensors: Set[int], pending: Set[int]) -> R:
        """What `forward` gives.

        Args:
            forward: runs the model; the same calls each time, up to the cut.
            inputs: the same each time.
            tensors: ids of the model's tensors.
            pending: ids of those that may have other values in the next run.
        """
        if any(t._version != version for t, version in self._versions):
            self.clear()
        if self._calls:
            try:
                return self._run(forward, inputs, tensors, pending)
            except Exception:  # computed in full, the same call shows whether the model or the tape is to blame
                self.clear()
        return self._run(forward, inputs, tensors, pending) if self._suits else forward(cloned(inputs))

    def _run(self, forward: Callable[[Inputs], R], inputs: Inputs, tensors: Set[int], pending: Set[int]) -> R:
        own = cloned(inputs)
        self._known, self._pending = {id(t) for t in tree_leaves(own)} | tensors, pending
        self._at, self._cut, self._ahead, self._refused = 0, len(self._calls), True, False
        self._versions = []  # else it would hold what the model's code has let go of since the last cut
        self._made, self._foreign, self._shown = WeakIdKeyDictionary(), set[int](), list[tuple[Tensor, Any]]()
        whole = False
        try:
            with Reads(self._read), self:
                result = forward(own)
            self._suits &= all(t.tolist() == numbers for t, numbers in self._shown)  # an array shares its memory
            whole = not self._ahead and not self._refused and self._suits
            if self._refused and self._cut:
                raise ReplayRefusedError
            return result
        finally:
            if not whole:
                self.clear()

    def _read(self, func: Any, tensor: Tensor) -> None:
        """Small tensors have their numbers in each run."""
        if func in _ADDRESSES or tensor.numel() > SMALL or id(tensor) in self._pending:
            self._refuse()
        else:
            self._shown.append((tensor, tensor.tolist()))

    def _refuse(self) -> None:
        self._refused = True
        self._suits &= bool(self._cut)
        if self._cut:
            raise ReplayRefusedError

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs))
        given = [t for t in leaves if isinstance(t, Tensor)]
        constants = [c for c in leaves if not isinstance(c, Tensor)]
        if self._at < self._cut:
            return self._answer(op, constants)
        if any(id(t) in self._hollow for t in given):
            self._refuse()
        if self._ahead and any(id(t) in self._pending for t in given):
            self._hold()
        watched = self._ahead and not self._refused
        if watched and not self._may_be_answered(given, written(op, args, kwargs)):
            self._refuse()
        results = op(*args, **(kwargs or {}))
        if watched and not all(map(is_strided, tree_leaves(results))):
            self._refuse()
        if watched and not self._refused:
            self._calls.append(_Call(op, constants, tree_map(self._weak, results)))
        return results

    def _answer(self, op: Any, constants: list[Any]) -> Any:
        call = self._calls[self._at]
        self._at += 1
        if call.op is not op or call.constants != constants:
            self._refuse()
        results = tree_map(self._as_new, call.results) if _is_view(op) else call.results
        call.results = tree_map(self._weak, results)
        return results

    def _as_new(self, value: Any) -> Any:
        """The same memory as another tensor: PyTorch makes a tensor a view of an argument once only."""
        if not isinstance(value, Tensor):
            return value
        new = value.detach()
        if id(value) in self._hollow:
            self._hollow[id(new)] = new
        return new

    def _may_be_answered(self, given: list[Tensor], changed: list[Tensor]) -> bool:
        """Whether a call works on the model's tensors and earlier results alone, and writes to results alone."""
        for t in given:
            if not is_strided(t):
                return False
            if t not in self._made:
                self._foreign.add(t.untyped_storage().data_ptr())
                if id(t) not in self._known and t.numel() > SMALL:
                    return False
        return not any(t.untyped_storage().data_ptr() in self._foreign for t in changed)

    def _weak(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        self._made[value] = True
        if value.numel() <= SMALL:
            return value
        return _Weak(ref(value), value.shape, value.stride(), value.dtype, value.device)

    def _hold(self) -> None:
        """The cut: hold what the model's code holds."""
        self._ahead, before, self._hollow = False, self._hollow, {}
        for call in self._calls:
            call.results = tree_map(self._held, call.results)
        for t in self._results():
            if id(t) in before:
                self._hollow[id(t)] = t
        self._versions = [(t, t._version) for t in self._results() if id(t) not in self._hollow]
        self._suits &= sum(t.numel() for t in self._results()) >= WORTH * len(self._calls)

    def _results(self) -> Iterator[Tensor]:
        return (t for call in self._calls for t in tree_leaves(call.results) if isinstance(t, Tensor))

    def _held(self, value: Any) -> Any:
        if not isinstance(value, _Weak):
            return value
        tensor = value.tensor()
        if tensor is None:
            tensor = self._without_numbers.like(value)
            self._hollow[id(tensor)] = tensor
        return tensor


class Reads(TorchFunctionMode):
    """Tells when code reads a tensor without an ATen call."""

    def __init__(self, note: Callable[[Any, Tensor], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _READS or func in _ADDRESSES:
            self._note(func, args[0])
        return func(*args, **(kwargs or {}))


class Tapes:
    """A tape for each batch, as far as there is memory.

    Args:
        memory: bytes that all tapes hold together; those of one more batch come on top.
    """

    def __init__(self, memory: int) -> None:
        self._memory, self._tapes, self._without_numbers = memory, dict[Any, Tape](), _Hollow()

    def run(self, key: Any, forward: Callable[[Inputs], R], inputs: Inputs, tensors: Set[int], pending: Set[int]) -> R:
        """As `Tape.run`, with the tape of the batch that a key tells apart from others."""
        tape = self._tapes.setdefault(key, Tape(self._without_numbers))
        result = tape.run(forward, inputs, tensors, pending)
        if sum(t.bytes() for t in self._tapes.values()) > self._memory:
            tape.clear()
        return result


def is_strided(value: Any) -> bool:
    """Whether it is no tensor, or one whose numbers lie in memory with strides: no sparse one."""
    return not isinstance(value, Tensor) or value.layout is torch.strided


@cache
def _is_view(op: Any) -> bool:
    """Whether it returns what shares the memory of its arguments, and writes nothing."""
    return any(r.alias_info is not None and not r.alias_info.is_write for r in op._schema.returns)


def written(op: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that a call writes to."""
    if not op._schema.is_mutable:
        return []
    arguments = op._schema.arguments
    values = {a.name: v for a, v in zip(arguments, args, strict=False)} | (kwargs or {})
    found = [values.get(a.name) for a in arguments if a.alias_info is not None and a.alias_info.is_write]
    return [t for t in tree_leaves(found) if isinstance(t, Tensor)]
