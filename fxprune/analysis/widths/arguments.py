"""Arguments: the numbers among what the model's code gave to a call of PyTorch's, each with its place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fxprune.analysis.widths.forms import Number
from fxprune.tracing.functions import SIZED, SizeArguments, Takes
from fxprune.tracing.provenance import Attribute, Computed, Dim, Reference, SizedCall

SOURCES = (Dim, Attribute, Computed)
Path = tuple[Any, ...]
Item = tuple[Any, Path]


def value_of(source: Any) -> Any:  # 0 stands for a tensor's number; the check tells whether it must follow
    return source.value if isinstance(source, SOURCES) else 0 if isinstance(source, Reference) else source


def items_in(values: tuple[Any, ...], path: Path) -> list[Item]:
    """The items of a sequence, counted from its end, as some may be unpacked first (`*s, 64`)."""
    return [(v, (*path, i - len(values))) for i, v in enumerate(values)]


class Arguments:
    """What a call was given."""

    def __init__(self, call: SizedCall) -> None:
        self.call = call
        self._indexed = call.name in SIZED and SIZED[call.name].takes is Takes.INDEX

    def index(self) -> list[Any]:
        """The items of an index."""
        index = self.call.args[1]
        return list(index) if type(index) is tuple else [index]

    def leaves(self) -> Iterator[Item]:
        """The numbers, with their paths."""
        ahead: list[Item] = [(a, (i,)) for i, a in enumerate(self.index() if self._indexed else self.call.args)]
        ahead += [(v, (k,)) for k, v in self.call.kwargs.items()]
        while ahead:
            value, path = ahead.pop()
            if isinstance(value, slice):
                bounds = {"lower": value.start, "upper": value.stop, "step": value.step}
                ahead += [(bound, (*path, name)) for name, bound in bounds.items()]
            elif type(value) is tuple:
                ahead += items_in(value, path)
            else:
                yield value, path

    def one(self, position: int, *names: str) -> Item:
        """An argument by position or one of its names, with its path."""
        if position < len(self.call.args):
            return self.call.args[position], (position,)
        name = next((n for n in names if self.call.kwargs.get(n) is not None), names[0])
        return self.call.kwargs.get(name), (name,)

    def items(self, where: SizeArguments) -> list[Item]:
        """Sizes, as a sequence or one after another."""
        value, path = self.one(where.first, *where.names)
        if type(value) is tuple:
            return items_in(value, path)
        return [(a, (i,)) for i, a in enumerate(self.call.args) if i >= where.first]

    def source(self, item: Item) -> Any:
        """The source of an item; a plain number with its place."""
        value, path = item
        given = 0 if self._indexed or isinstance(path[0], str) else len(self.call.args)
        return Number(value, self.call.site, path, given) if type(value) is int else value
