"""Script: the recorded calls, in the order in which another run of the model must make them."""

from __future__ import annotations

import operator
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
        while not stands_for(op, self._present()) and _is_copy(self._present()):
            self.at += 1
        if stands_for(op, self._present()):
            self.at += 1
            return self.nodes[self.at - 1]
        if _is_copy(op) or op.overloadpacket.__name__ in OF_NUMBERS:
            return None
        raise Diverged(f"{op} is called where {self._present()} was")

    def skip_to_reshape(self) -> fx.Node:
        """The next recorded reshape; a copy may come before it."""
        while _is_copy(self._present()):
            self.at += 1
        if not moves(self._present(), Move.RESHAPE):
            raise Diverged(f"a reshape is called where {self._present()} was")
        self.at += 1
        return self.nodes[self.at - 1]

    def skip_function(self, name: str) -> None:
        """Go past the calls that a function of PyTorch's has made; copies may come before them."""
        while _is_copy(self._present()) and self.nodes[self.at].meta["function"] != name:
            self.at += 1
        start = self.at
        while self.at < len(self.nodes) and self.nodes[self.at].meta["function"] == name:
            self.at += 1
        if self.at == start:
            raise Diverged(f"{name} is called where {self._present()} was")

    def _present(self) -> Any:
        return self.nodes[self.at].target if self.at < len(self.nodes) else None


def _is_copy(op: Any) -> bool:
    return moves(op, Move.COPY, Move.CAST)
