"""Script: the recorded calls, in the order in which another run of the model must make them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx

from fxprune.analysis.ops.spec import Move
from fxprune.analysis.ops.table import moves, stands_for
from fxprune.tracing.functions import OF_NUMBERS


def recorded_calls(graph: fx.Graph) -> list[fx.Node]:
    """The calls of ops, as `SizedCall.nodes` counts them."""
    return [n for n in graph.nodes if n.op == "call_function" and n.target is not operator.getitem]


def asks_for_data(error: Exception) -> bool:
    """Whether PyTorch refused to tell what stands in a meta tensor."""
    return any(words in str(error) for words in _REFUSALS)


_REFUSALS = ("meta tensor", "meta device type tensor", "unallocated storage", "data-independent implementation")


class Diverged(Exception):
    """The model's code called another op than in the recorded run."""


@dataclass
class Script:
    """The recorded calls, one after another."""

    nodes: list[fx.Node]
    at: int = 0

    def next(self, op: Any) -> fx.Node | None:
        """The recorded call of `op`; None for a copy that the recorded run did not need, as it needs some here not, and
        for a number that is written into a meta tensor (`x[i] = 0`), as into a real one it is written without a call.
        """
        unneeded = _is_copy(op) or op.overloadpacket.__name__ in OF_NUMBERS
        return self._next(lambda n: stands_for(op, n.target), None if unneeded else str(op))

    def next_reshape(self) -> fx.Node:
        """The next recorded reshape."""
        return self._next(lambda n: moves(n.target, Move.RESHAPE), "a reshape")  # type: ignore[return-value]

    def skip_function(self, name: str) -> None:
        """Go past the calls that a function of PyTorch's has made."""
        self._next(lambda n: n.meta["function"] == name, name)
        while self.at < len(self.nodes) and self.nodes[self.at].meta["function"] == name:
            self.at += 1

    def _next(self, fits: Callable[[fx.Node], bool], wanted: str | None) -> fx.Node | None:
        """Go past the next call that fits; copies may come before it. It must be there if it is `wanted`."""
        for at in range(self.at, len(self.nodes)):
            if fits(self.nodes[at]):
                self.at = at + 1
                return self.nodes[at]
            if not _is_copy(self.nodes[at].target):
                break
        if wanted is not None:
            present = self.nodes[self.at].target if self.at < len(self.nodes) else None
            raise Diverged(f"{wanted} is called where {present} was")
        return None


def _is_copy(op: Any) -> bool:
    return moves(op, Move.COPY, Move.CAST)
