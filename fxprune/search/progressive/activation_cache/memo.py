"""The memo: what each module gave for what it read, in one evaluation of the original, within a limit of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from fxprune.module.isolation import walk
from fxprune.search.progressive.activation_cache.module_state import State, descendants, same_bits
from fxprune.search.progressive.activation_cache.values import Frozen, Value


@dataclass(frozen=True, eq=False)
class Entry:
    """One call of a module.

    Attributes:
        result: frozen, with values in the tensors' places.
        rerun: the module wrote into its inputs, or its result shares memory with them or with its weights, so that the
            result cannot stand for the call; if it runs again, its result has the same values.
    """

    result: Frozen
    rerun: bool


class Memo:
    """What is remembered of one evaluation.

    Args:
        model: the original.
        limit: bytes of tensors. Where they do not suffice, those stay that save most for their size.

    Attributes:
        states: of the original's modules, by path, while it was evaluated.
        entries: calls by (path, surroundings, frozen arguments).
        bytes: held now.
    """

    def __init__(self, model: nn.Module, limit: int) -> None:
        self.limit = limit
        self.states = {path: State(m) for path, m in walk(model)}
        self.entries: dict[Frozen, Entry] = {}
        self.bytes = 0
        self._contents: dict[Frozen, list[Value]] = {}
        self._held: set[Value] = set()

    def find(self, place: Frozen, equal: Callable[[Value], bool]) -> Value | None:
        """The value of those that were met at a place that is `equal`."""
        return next((v for v in self._contents.get(place, ()) if equal(v)), None)

    def put(self, place: Frozen, value: Value) -> None:
        """Remember a content, so that it can be found at a place."""
        self._contents.setdefault(place, []).append(value)
        self.hold(value)

    def hold(self, value: Value) -> None:
        """Count a value's memory; forget others, or this one, if it is too much."""
        if value not in self._held:
            self._held.add(value)
            self.bytes += value.bytes
        if self.bytes > self.limit:
            for v in sorted(self._held, key=lambda v: v.worth / max(1, v.bytes)):
                self.forget([v])
                if self.bytes <= 0.9 * self.limit:
                    break

    def forget(self, values: Iterable[Value]) -> None:
        """Drop tensors; their names stay."""
        for v in values:
            v.forget()
            if v in self._held:
                self._held.remove(v)
                self.bytes -= v.bytes

    def forget_memory(self, places: set[int]) -> None:
        """Drop what lies in these storages, because others may write into it unseen."""
        self.forget([v for v in self._held if v.place in places])

    def forget_useless(self) -> None:
        """Drop what nobody would save time with, or was written into."""
        self.forget([v for v in self._held if v.tensor is None or not v.worth])

    def same(self) -> set[int]:
        """The `id` of each module that still is what it was."""
        return {id(s.module) for s in self.states.values() if s.same()}

    def settle(self) -> None:
        """Drop the calls of modules that are not any more what they were."""
        same = self.same()
        whole = {path for path, s in self.states.items() if all(id(m) in same for m in descendants(s.module))}
        self.entries = {key: e for key, e in self.entries.items() if _path(key) in whole}

    def unchanged(self, path: str, state: State) -> bool:
        """Whether a copy's module has, bit by bit, the tensors that the original's had in the evaluation."""
        known = self.states.get(path)
        return (
            known is not None
            and type(known.module) is type(state.module)
            and known.same()
            and len(known.tensors) == len(state.tensors)
            and all(map(same_bits, known.tensors, state.tensors))
        )


def _path(key: Any) -> str:
    path: str = key[0]
    return path
