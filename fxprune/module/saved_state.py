"""What containers hold, noted and put back, and what may stand in them."""

from __future__ import annotations

import functools
import gc
import operator
import random
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from types import CellType, EllipsisType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@functools.cache
def cached_names(kind: type) -> frozenset[str]:
    """The attributes of an object in which `functools.cached_property` keeps what it has computed once.

    What was computed before the model was cut may not fit afterwards, and says nothing of where it came from: copies
    compute it anew.
    """
    held = (item for k in kind.__mro__ for item in vars(k).items())
    return frozenset(name for name, value in held if isinstance(value, functools.cached_property))


class Saved:
    """The contents of containers, and of what they hold, at any depth.

    That is containers, plain objects, arrays of up to 64 MB, random generators and the caches of functools.

    Attributes:
        steps: what puts all back; each stands alone, and may be repeated.
    """

    def __init__(self) -> None:
        self._contents: list[tuple[Any, Any]] = []
        self._empty: list[Any] = []
        self.steps: list[Callable[[], object]] = [self.restore]

    def note(self, container: Any, seen: set[int]) -> None:
        """Note what is in a container, and not what that holds."""
        seen.add(id(container))
        # A dict of somebody's own kind may make its values when they are asked for: only what is stored counts.
        stored = dict(dict.items(container)) if isinstance(container, dict) else list(container)
        self._contents.append((container, stored))

    def save(self, container: Any, seen: set[int]) -> None:
        """Note what is in a container, and what that holds, at any depth."""
        ahead = [container]
        while ahead:
            container = ahead.pop()
            if id(container) not in seen:
                self.note(container, seen)
                ahead += self._inner(container, seen)

    def _inner(self, container: Any, seen: set[int]) -> Iterator[Any]:
        """The containers that the values in a container are or hold."""
        for value in list(dict.values(container) if isinstance(container, dict) else container):
            if type(value) in PLAIN:
                continue
            inner = value if isinstance(value, CONTAINERS) else self._look_into(value, seen)
            if inner is None:
                continue
            if inner:
                yield inner
            else:
                self._empty.append(inner)

    def _look_into(self, value: Any, seen: set[int]) -> Any:
        """The container of what a value holds; None for one that holds nothing, or whose state is kept otherwise."""
        if isinstance(value, tuple):
            return [v for v in value if type(v) not in PLAIN] or None
        kind = type(value)
        if isinstance(value, type | nn.Module | Tensor):
            return None
        if kind in VIEWS:
            return viewed(value)
        if issubclass(kind, _STATEFUL) and id(value) not in seen:
            seen.add(id(value))
            self.steps += _undoing(value)
        return None if is_of_library(kind) else self._attributes(value, seen)

    def _attributes(self, value: Any, seen: set[int]) -> Any:
        """The attributes of an object of somebody's own class.

        Objects of libraries (loggers, locks, functions) lead to the state of the whole process.
        """
        attributes = getattr(value, "__dict__", None)
        attributes = attributes if type(attributes) is dict else None
        slots = slots_of(type(value))
        if not slots or id(value) in seen:
            return attributes
        seen.add(id(value))
        held = [content(slot, value) for slot in slots]
        self.steps += [partial(_fill, slot, value, before) for slot, before in zip(slots, held, strict=True)]
        return [*held, attributes]

    def restore(self) -> None:
        """Put back the contents of the containers, attributes included."""
        for container in self._empty:
            if container:
                container.clear()
        for container, contents in self._contents:
            if not _same(container, contents):
                container.clear()
                (container.extend if isinstance(container, list | deque) else container.update)(contents)


CONTAINERS = (dict, list, set, deque)
# Most attributes are of these types, which hold nothing.
PLAIN = frozenset(
    [
        bool,
        int,
        float,
        complex,
        str,
        bytes,
        type(None),
        EllipsisType,
        range,
        slice,
        torch.Size,
        torch.dtype,
        torch.device,
        type,
    ]
)
_OF_ORDERED: Any = (OrderedDict.keys, OrderedDict.values, OrderedDict.items)
# The views of a dict, and how each is made of another dict.
VIEWS: dict[type, Callable[[Any], Any]] = {
    type(method(kind())): method
    for kind, methods in ((dict, (dict.keys, dict.values, dict.items)), (OrderedDict, _OF_ORDERED))
    for method in methods
}
# Also pytest, which writes its own names, and with them the state of a test run, into what test modules assert.
_LIBRARIES = frozenset(["torch", "numpy", "_pytest", "pluggy", *sys.stdlib_module_names]) - {"types", "collections"}
# Objects of libraries whose state is their own.
_STATEFUL = (
    *(np.ndarray, np.random.Generator, np.random.BitGenerator, np.random.RandomState),
    *(torch.Generator, random.Random, functools._lru_cache_wrapper),
)
LARGEST_ARRAY = 2**26  # bytes; larger ones are tables to read from, and a copy would be felt


def _undoing(value: Any) -> list[Callable[[], object]]:
    """What puts a generator or an array back to its present state, or empties a cache."""
    match value:
        case np.ndarray() if value.nbytes <= LARGEST_ARRAY and value.flags.writeable:
            return [partial(np.copyto, value, value.copy())]
        case np.random.Generator():
            return _undoing(value.bit_generator)
        case np.random.BitGenerator():
            return [partial(setattr, value, "state", value.state)]
        case np.random.RandomState():
            return [partial(value.set_state, value.get_state())]
        case torch.Generator():
            return [partial(value.set_state, value.get_state())]
        case random.Random() if not isinstance(value, random.SystemRandom):
            return [partial(value.setstate, value.getstate())]
        case functools._lru_cache_wrapper():
            return [value.cache_clear]
    return []


def viewed(view: Any) -> Any:
    """The dict that a view shows; Python itself shows it read-only."""
    return next(held for held in gc.get_referents(view) if isinstance(held, dict))


def is_of_library(value: Any) -> bool:
    """Whether a class, function or module is Python's, NumPy's or PyTorch's, whose state is the whole process's."""
    name = value.__name__ if isinstance(value, ModuleType) else value.__module__
    return (name or "").partition(".")[0] in _LIBRARIES


def slots_of(kind: type) -> list[MemberDescriptorType]:
    return [v for c in kind.__mro__ for v in vars(c).values() if isinstance(v, MemberDescriptorType)]


def content(slot: MemberDescriptorType, value: Any) -> Any:
    try:
        return slot.__get__(value)
    except AttributeError:
        return NOTHING


def _fill(slot: MemberDescriptorType, value: Any, before: Any) -> None:
    """Put back what a slot held; past the object's own `__setattr__`, which may refuse."""
    if content(slot, value) is before:
        return
    with suppress(AttributeError, TypeError):  # read-only: C code has set it
        if before is NOTHING:
            slot.__delete__(value)
        else:
            slot.__set__(value, before)


def over_cells(function: FunctionType, cells: tuple[CellType, ...]) -> FunctionType:
    """The same function with other cells for what it closes over."""
    made = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    functools.update_wrapper(made, function)
    del made.__dict__["__wrapped__"]  # it wraps nothing, unless the function did
    made.__dict__.update(function.__dict__)
    made.__kwdefaults__ = function.__kwdefaults__ and dict(function.__kwdefaults__)
    return made


def content_of(cell: CellType) -> Any:
    """What a closure's cell holds."""
    try:
        return cell.cell_contents
    except ValueError:
        return NOTHING


def fill_cell(cell: CellType, before: Any) -> None:
    """Put back what a cell held."""
    if content_of(cell) is before:
        return
    if before is NOTHING:
        del cell.cell_contents
    else:
        cell.cell_contents = before


NOTHING = object()  # what a slot or cell holds that was never set


def _same(container: Any, contents: Any) -> bool:
    """Whether the very same objects are in the container, in the same order."""
    if len(container) != len(contents):
        return False
    same = all(map(operator.is_, container, contents))
    return same and (
        not isinstance(container, dict) or all(map(operator.is_, dict.values(container), contents.values()))
    )
