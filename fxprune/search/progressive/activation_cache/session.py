"""Sessions: evaluations in which every call of a model's modules is looked at."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from itertools import chain, count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fxprune.module.isolation import output_tensors
from fxprune.search.progressive.activation_cache.ambient_state import casts, ordinary, surroundings
from fxprune.search.progressive.activation_cache.memo import Memo
from fxprune.search.progressive.activation_cache.module_state import State, is_plain
from fxprune.search.progressive.activation_cache.values import Frozen, StrangeError, Value, freeze


class Part:
    """A module of the model that is evaluated.

    Args:
        path: its first name.
        states: of it and of all below it, of those that are the original's.
        clean: whether all are.

    Attributes:
        tensors: parameters, buffers and others.
        leaves: how many modules have any.
    """

    def __init__(self, path: str, states: Sequence[State], clean: bool) -> None:
        self.path, self.clean = path, clean
        self._states = states
        self.tensors = [t for s in states for t in s.tensors]
        self.leaves = sum(bool(s.tensors) for s in states)

    def usable(self) -> bool:
        """Whether now, on equal inputs, the module gives what the original's gives, and does nothing else."""
        return (
            self.clean
            and not any(s.module.training for s in self._states)
            and not (torch.is_grad_enabled() and any(t.requires_grad for t in self.tensors))
            and all(s.same() for s in self._states)
        )


Run = Callable[[], Any]


class Session:
    """Looks at the calls of one model's modules.

    Args:
        memo: what is known.
        parts: the model's modules by their `id`.
    """

    def __init__(self, memo: Memo, parts: dict[int, Part]) -> None:
        self.memo, self._parts = memo, parts
        self._depth = 0
        self._batch: Frozen = None
        self._here: dict[int, tuple[weakref.ref[Tensor], int, Value]] = {}

    def call(self, run: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        """The result of a module's call."""
        part = self._parts.get(id(module))
        if part is None or not ordinary():
            return run(module, *args, **kwargs)
        self._depth += 1
        try:
            if self._depth > 1:
                return self._inner(part, lambda: run(module, *args, **kwargs), args, kwargs)
            return self._outermost(part, run, module, args, kwargs)
        finally:
            self._depth -= 1

    def _outermost(self, part: Part, run: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        """A call by the evaluation itself: its tensors may be written into in ways that torch does not count."""
        self._here.clear()
        self._batch = None
        if torch.is_inference_mode_enabled():
            if any(t.is_inference() for t in chain(module.parameters(), module.buffers())):
                return run(module, *args, **kwargs)  # outside of the mode nobody may write into them
            with torch.inference_mode(False), torch.no_grad():
                args, kwargs = tree_map(_counted, (args, kwargs))
                return self._outermost(part, run, module, args, kwargs)
        around = surroundings()
        try:
            self._batch = freeze((args, kwargs), lambda t: self._input(t, around))
        except StrangeError:
            return run(module, *args, **kwargs)
        result = self._inner(part, lambda: run(module, *args, **kwargs), args, kwargs)
        self.memo.forget_memory({place_of(t) for t in output_tensors(result) if is_plain(t)})
        return result

    def _inner(self, part: Part, run: Run, args: Any, kwargs: Any) -> Any:
        raise NotImplementedError  # a session that records or plays

    def _input(self, t: Tensor, around: Frozen) -> Value:
        """The value of a tensor that comes from outside."""
        if t.requires_grad and torch.is_grad_enabled():
            raise StrangeError
        sample = t.detach().reshape(-1)
        sample = sample[:: max(1, len(sample) // 32)]
        place = (around, t.shape, t.stride(), t.dtype, t.device, tuple(sample.tolist()))
        value = self.memo.find(place, lambda v: v.equals(t)) or self._meet(place, t, False)
        if value is None:
            raise StrangeError
        self._attach(t, value)
        return value

    def _key(self, part: Part, args: Any, kwargs: Any) -> Frozen:
        """What a call reads; None if that is strange."""
        if self._batch is None or torch.is_inference_mode_enabled():
            return None
        places = count()

        def name(t: Tensor) -> Value | object:
            place = (self._batch, part.path, next(places))
            if t.requires_grad and torch.is_grad_enabled():
                return object()
            value = self._known(t) or self.memo.find(place, lambda v: v.equals(t)) or self._meet(place, t, True)
            if value is None:
                return object()  # equal to no other
            self._attach(t, value)
            return value

        try:
            return (part.path, casts(), freeze((args, kwargs), name))
        except StrangeError:
            return None

    def _meet(self, place: Frozen, t: Tensor, ours: bool) -> Value | None:  # noqa: ARG002, for who remembers
        """The name of a content that is new at a place; None: it gets none.

        Args:
            place: where it was met.
            t: the content.
            ours: the tensor lives inside the model's call, so that all writing to it is counted.
        """
        return None

    def _known(self, t: Tensor) -> Value | None:
        """The value of a tensor that was met before and has not been written into."""
        seen = self._here.get(id(t))
        return seen[2] if seen is not None and seen[0]() is t and seen[1] == t._version else None

    def _attach(self, t: Tensor, value: Value) -> None:
        self._here[id(t)] = (weakref.ref(t), t._version, value)


def place_of(t: Tensor) -> int:
    """Address of the tensor's storage; views share that of their base."""
    return t.untyped_storage().data_ptr()


def _counted(t: Any) -> Any:
    """A copy made outside inference mode, so that PyTorch counts writes to it."""
    return t.clone() if isinstance(t, Tensor) and t.is_inference() else t
