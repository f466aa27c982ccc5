"""Attempts: `evaluate` of candidates that differ from one original in a few places each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from fxprune.module.isolation import walk
from fxprune.search.progressive.activation_cache.intercept import INTERCEPTION, looking_at
from fxprune.search.progressive.activation_cache.memo import Memo
from fxprune.search.progressive.activation_cache.module_state import State, descendants
from fxprune.search.progressive.activation_cache.recorder import Recorder
from fxprune.search.progressive.activation_cache.replay import Player
from fxprune.search.progressive.activation_cache.session import Part

Evaluate = Callable[[Any], Any]
Change = Callable[[Any], object]


class Remembered:
    """The memo of the present original; there is one at most. Use it in a `with` block.

    Args:
        limit: bytes of tensors; 0 for none: everything is computed.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._key, self._memo = "", None  # type: tuple[str, Memo | None]

    def __enter__(self) -> Remembered:
        # Once for all evaluations: each time that Python learns of another `__call__`, it forgets what it knows of all
        # classes of modules, which takes milliseconds.
        if self.limit:
            INTERCEPTION.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.replace("", None)
        if self.limit:
            INTERCEPTION.stop()

    def of(self, key: str) -> Memo | None:
        """What is known of the original of this name."""
        return self._memo if key == self._key else None

    def replace(self, key: str, memo: Memo | None) -> None:
        self._key, self._memo = key, memo

    def __reduce__(self) -> Any:
        """Tensors stay in the process that remembers them; in others everything is computed."""
        return Remembered, (0,)


class Recording:
    """Evaluates an original; what its modules give is remembered. The value is that of `evaluate`.

    Args:
        evaluate: judges a model.
        remembered: where to.
        key: the original's name.
    """

    def __init__(self, evaluate: Evaluate, remembered: Remembered, key: str) -> None:
        self._evaluate, self._remembered, self._key = evaluate, remembered, key

    def __call__(self, model: nn.Module) -> Any:
        self._remembered.replace("", None)  # its memory is needed
        if not self._remembered.limit:
            return self._evaluate(model)
        memo = Memo(model, self._remembered.limit)
        states = {id(s.module): s for s in memo.states.values()}
        with looking_at(Recorder(memo, _parts(model, states))):
            value = self._evaluate(model)
        memo.settle()
        self._remembered.replace(self._key, memo)
        return value


class Attempt:
    """One candidate made from an original: how it is changed, and how it is evaluated then.

    Args:
        change: changes a copy of the original in place.
        evaluate: judges a model.
        remembered: what is known of originals.
        key: the original's name.
    """

    def __init__(self, change: Change, evaluate: Evaluate, remembered: Remembered, key: str) -> None:
        self._change, self._evaluate, self._remembered, self._key = change, evaluate, remembered, key
        self._before: dict[str, State] = {}

    def make(self, model: nn.Module) -> None:
        """Change a copy of the original, in place."""
        if self._remembered.limit:
            self._before = {path: State(m) for path, m in walk(model)}
        self._change(model)

    def evaluate(self, model: nn.Module) -> Any:
        """Evaluate the changed copy; what is equal to the original's evaluation is not computed again."""
        memo, before = self._remembered.of(self._key), self._before
        if memo is None or not before or not memo.entries:
            return self._evaluate(model)
        clean = {id(s.module): s for path, s in before.items() if s.same() and memo.unchanged(path, s)}
        with looking_at(Player(memo, _parts(model, clean))):
            return self._evaluate(model)


def _parts(model: nn.Module, clean: Mapping[int, State]) -> dict[int, Part]:
    """The modules of a model, with the states of those that are the original's."""
    found = {}
    for path, m in walk(model):
        below = [clean.get(id(d)) for d in descendants(m)]
        states = [s for s in below if s is not None]
        found[id(m)] = Part(path, states, clean=len(states) == len(below))
    return found
