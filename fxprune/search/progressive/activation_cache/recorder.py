"""Recorder: the original's evaluation, as it is remembered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fxprune.search.progressive.activation_cache.ambient_state import random_states
from fxprune.search.progressive.activation_cache.memo import Entry, Memo
from fxprune.search.progressive.activation_cache.session import Part, Run, Session, place_of
from fxprune.search.progressive.activation_cache.values import Frozen, StrangeError, Value, freeze, values_in

FLOOR = 0.5
"""A value is kept only if it saves, per byte, at least this fraction of what values save on average: allocating memory
takes time as well."""


class Recorder(Session):
    """Remembers what the modules of the original give.

    A call of the model that draws random numbers, or changes an attribute or a buffer anywhere in the model, is not
    remembered, because a replay would skip that side effect. A result helps only attempts that change another module
    inside the same parent; the smaller the parent, the fewer those are.
    """

    def __init__(self, memo: Memo, parts: dict[int, Part]) -> None:
        super().__init__(memo, parts)
        self._fresh: dict[Frozen, Entry] = {}
        self._unpriced: list[Value] = []
        self._around: list[Part] = []
        self._seconds, self._bytes = 0.0, 1

    def _outermost(self, part: Part, run: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        drawn, same, start = random_states(), self.memo.same(), time.perf_counter()
        self._fresh, self._unpriced, self._around = {}, [], []
        result = super()._outermost(part, run, module, args, kwargs)
        self._settle(self._unpriced, time.perf_counter() - start)  # the inputs
        if random_states() == drawn and self.memo.same() == same:
            self.memo.entries.update(self._fresh)
        else:
            self.memo.forget([v for e in self._fresh.values() for v in values_in(e.result)])
        self.memo.forget_useless()
        return result

    def _inner(self, part: Part, run: Run, args: Any, kwargs: Any) -> Any:
        met = len(self._unpriced)
        key = self._key(part, args, kwargs)
        own, self._unpriced[met:] = self._unpriced[met:], []
        chance = self._around[-1].leaves / max(1, self._around[0].leaves) if self._around else 0.0
        usable = part.usable()
        self._around.append(part)
        start = _now()
        result = run()
        seconds = _now() - start
        self._around.pop()
        self._settle(own, seconds * chance)
        if key is not None and usable:
            self._note(part, key, (args, kwargs), result, seconds, chance)
        return result

    def _note(self, part: Part, key: Any, given: Any, result: Any, seconds: float, chance: float) -> None:
        try:
            written = freeze(given, lambda t: self._known(t) or object()) != key[2]
            frozen = freeze(result, self._result)
        except StrangeError:
            return
        places = {place_of(t) for t in tree_leaves(result) if isinstance(t, Tensor)}
        read = (t for t in (*tree_leaves(given), *part.tensors) if isinstance(t, Tensor))
        entry = Entry(frozen, written or any(place_of(t) in places for t in read))
        self._fresh[key] = entry
        if part.leaves <= 1:
            self._seconds += seconds
            self._bytes += sum(v.bytes for v in values_in(frozen))
        self._price(values_in(frozen), 0.0 if entry.rerun else seconds * chance)

    def _settle(self, contents: Sequence[Value], worth: float) -> None:
        """Price what was met, when it is known what its absence would cost."""
        for v in contents:
            v.worth = 0.0
        self._price(contents, worth)

    def _price(self, values: Iterable[Value], worth: float) -> None:
        """Keep what is worth it."""
        for v in values:
            v.worth = max(v.worth, worth)
            if v.worth * self._bytes < FLOOR * self._seconds * v.bytes:
                self.memo.forget([v])
            else:
                self.memo.hold(v)

    def _result(self, t: Tensor) -> Value:
        if t.requires_grad:
            raise StrangeError
        value = self._known(t) or Value(t)
        if value.tensor is None:
            value.remember(t)
        self._attach(t, value)
        return value

    def _meet(self, place: Frozen, t: Tensor, ours: bool) -> Value | None:
        if t.requires_grad:
            return None
        value = Value(t if ours else t.detach().clone())
        value.worth = float("inf")  # until it is settled
        self._unpriced.append(value)
        self.memo.put(place, value)
        return value


def _now() -> float:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
