"""What `copy.deepcopy` shares and should not: functions, their caches, weak references and methods of containers, and
with them the original's modules that they hold.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import BuiltinMethodType, CellType, FunctionType, MethodType
from typing import Any

from fxprune.module.saved_state import PLAIN, over_cells


def bind_to_copies(copies: dict[int, Any]) -> None:
    """Let functions in a copy (hooks, a `forward` put on a module) hold the copies of what they hold of the original;
    likewise caches of functools, weak references, methods such as `append` of a list, and tuples of all these.

    What leads to nothing of the original stays shared.

    Args:
        copies: all that was copied, by the originals' `id`: the memo of `copy.deepcopy`.
    """
    binding = _Binding(copies)
    for made in list(copies.values()):
        for holder in (made, getattr(made, "__dict__", None)):
            if isinstance(holder, dict) and holder:
                binding.put(holder, dict.items(holder), dict.__setitem__)
            elif isinstance(holder, list) and holder:
                binding.put(holder, enumerate(holder), list.__setitem__)


_CACHED = functools._lru_cache_wrapper
_WEAK = (weakref.ProxyType, weakref.CallableProxyType)
_SHARED = (FunctionType, functools.partial, BuiltinMethodType, _CACHED, weakref.ref, *_WEAK)


def _may_share(value: Any) -> bool:
    """A tuple that holds nothing but numbers, as most do, was copied whole."""
    if isinstance(value, tuple):
        return any(type(v) not in PLAIN for v in value)
    return isinstance(value, _SHARED)


class _Binding:
    def __init__(self, copies: dict[int, Any]) -> None:
        self._copies = copies

    def put(self, holder: Any, items: Iterable[tuple[Any, Any]], put: Callable[[Any, Any, Any], None]) -> None:
        """Put functions that hold the copies in the place of those that a container of the copy has."""
        functions = [(key, v) for key, v in items if _may_share(v)]
        for key, function in functions:
            put(holder, key, self._of(function))

    def _of(self, value: Any) -> Any:
        known = self._copies.get(id(value))
        if known is not None:
            return known
        if not self._leads_to_the_model(value, set()):
            return value
        return next(make for kind, make in _MAKE.items() if isinstance(value, kind))(self, value)

    def _leads_to_the_model(self, value: Any, seen: set[int]) -> bool:
        if id(value) in self._copies or id(value) in seen:
            return id(value) in self._copies
        seen.add(id(value))
        return any(self._leads_to_the_model(v, seen) for v in _held(value))

    def _function(self, value: FunctionType) -> Any:
        cells = tuple(CellType() for _ in value.__closure__ or ())
        made = self._copies[id(value)] = over_cells(value, cells)  # a function may hold itself
        made.__defaults__ = value.__defaults__ and tuple(self._of(v) for v in value.__defaults__)
        made.__kwdefaults__ = value.__kwdefaults__ and self._of(value.__kwdefaults__)
        vars(made).update({name: self._of(v) for name, v in vars(value).items()})
        for cell, old in zip(cells, value.__closure__ or (), strict=True):
            for held in _content(old):
                cell.cell_contents = self._of(held)
        return made

    def _method(self, value: MethodType) -> Any:
        return MethodType(self._of(value.__func__), self._of(value.__self__))

    def _partial(self, value: functools.partial[Any]) -> Any:
        keywords = {name: self._of(v) for name, v in value.keywords.items()}
        return functools.partial(self._of(value.func), *map(self._of, value.args), **keywords)

    def _dict(self, value: dict[Any, Any]) -> Any:
        return {key: self._of(v) for key, v in value.items()}

    def _list(self, value: Any) -> Any:
        return [self._of(v) for v in value]

    def _tuple(self, value: Any) -> Any:
        return tuple.__new__(type(value), [self._of(v) for v in value])  # also one with names

    def _cached(self, value: Any) -> Any:
        """The same function with an empty cache."""
        function = self._of(value.__wrapped__)
        made = functools.lru_cache(**value.cache_parameters())(function)
        self._copies[id(value)] = functools.update_wrapper(made, function)
        return made

    def _builtin_method(self, value: Any) -> Any:
        return getattr(self._of(value.__self__), value.__name__)

    def _reference(self, value: Any) -> Any:
        return weakref.ref(self._of(value()))

    def _proxy(self, value: Any) -> Any:
        return weakref.proxy(self._of(value.__init__.__self__))


_MAKE: Mapping[type, Any] = {
    FunctionType: _Binding._function,
    MethodType: _Binding._method,
    functools.partial: _Binding._partial,
    dict: _Binding._dict,
    list: _Binding._list,
    tuple: _Binding._tuple,
    BuiltinMethodType: _Binding._builtin_method,
    _CACHED: _Binding._cached,
    weakref.ref: _Binding._reference,
    **dict.fromkeys(_WEAK, _Binding._proxy),
}


def _held(value: Any) -> Iterator[Any]:
    """What a function, or a plain container, holds."""
    if isinstance(value, FunctionType):
        yield from (held for cell in value.__closure__ or () for held in _content(cell))
        yield from (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *vars(value).values())
    elif isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif type(value) is dict:
        yield from value.values()
    elif isinstance(value, list | tuple):
        yield from value
    elif type(value) is weakref.ref:
        yield value()
    else:
        yield from _behind(value)


def _behind(value: Any) -> Iterator[Any]:
    """What a cached function calls, a method of a container is of, or a proxy stands for."""
    kind = type(value)
    if kind is _CACHED:
        yield value.__wrapped__
    elif kind is BuiltinMethodType:
        yield value.__self__
    elif kind in _WEAK:
        yield value.__init__.__self__


def _content(cell: CellType) -> Iterator[Any]:
    """What a cell holds; nothing, if its variable has no value yet."""
    try:
        yield cell.cell_contents
    except ValueError:
        return
