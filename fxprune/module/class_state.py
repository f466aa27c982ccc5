"""What the classes and functions of a model hold, which all models of a class share: noted, and put back after a run.

A run must not find what another run has left there (a position embedding that a decorator keeps in its closure is
computed in the first run only), and must leave nothing there, least of all meta tensors.
"""

from __future__ import annotations

import functools
import gc
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

from fxprune.module.saved_state import CONTAINERS, Saved, content_of, fill_cell, is_of_library


@dataclass(eq=False)
class _Reached:
    """What a set of functions can reach without a model.

    Attributes:
        caches: functions with a cache of functools.
        cells: of closures, beside those that hold functions and classes.
        own: containers that functions hold themselves: defaults and attributes.
        named: containers that the functions' code names, in the globals of its module.
    """

    caches: list[functools._lru_cache_wrapper[Any]] = field(default_factory=list)
    cells: list[CellType] = field(default_factory=list)
    own: list[Any] = field(default_factory=list)
    named: list[Any] = field(default_factory=list)

    def and_by(self, other: _Reached) -> _Reached:
        """With what other functions reach."""
        return _Reached(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


class ClassState:
    """The state of classes at the time when this is made, without the caches of functools that hold tensors.

    Those are emptied, then and afterwards. Others (whether a library is installed) are the same in every run.

    Args:
        kinds: the classes; their bases count, libraries' do not.
        functions: that a model itself holds, such as hooks.

    Attributes:
        steps: what puts all back; each stands alone, and may be repeated.
    """

    def __init__(self, kinds: Iterable[type], functions: Iterable[Any] = ()) -> None:
        classes = dict.fromkeys(c for kind in kinds for c in kind.__mro__ if not is_of_library(c))
        held = [v for c in classes for v in vars(c).values()]
        own = [f for value in functions for f in _functions(value)]
        alone, leading = filter(_stands_alone, own), tuple(itertools.filterfalse(_stands_alone, own))
        reached = _reached((*(f for value in held for f in _functions(value)), *alone))
        if leading:  # perhaps to the model: they are looked at anew, and not remembered
            reached = reached.and_by(_reached.__wrapped__(leading))
        saved, seen = Saved(), set[int]()
        for container in reached.named:
            saved.note(container, seen)
        cells = [(cell, content_of(cell)) for cell in reached.cells]
        saved.save([*(v for v in held if isinstance(v, CONTAINERS)), *reached.own, *(v for _, v in cells)], seen)
        attributes = [partial(_restore, c, dict(vars(c))) for c in classes]
        self.steps: list[Callable[[], object]] = [
            *attributes,
            *(partial(fill_cell, cell, before) for cell, before in cells),
            *saved.steps,
            *(partial(_clear, cache) for cache in reached.caches),
        ]
        for cache in reached.caches:
            _clear(cache)


def _stands_alone(function: Any) -> bool:
    """Whether a function holds nothing itself."""
    plain = isinstance(function, FunctionType)
    return plain and not (function.__closure__ or function.__defaults__ or function.__dict__)


def _clear(cache: functools._lru_cache_wrapper[Any]) -> None:
    if cache.cache_info().currsize and _holds_tensor(gc.get_referents(cache)):
        cache.cache_clear()


def _holds_tensor(values: Iterable[Any]) -> bool:
    """Whether values hold a tensor or a module a few steps on; they might, where they lead to very many objects."""
    ahead, seen = list(values), set[int]()
    for _ in range(_STEPS):
        found = [v for v in ahead if not isinstance(v, _NO_RESULTS) and id(v) not in seen]
        if len(seen) > _OBJECTS or any(isinstance(v, Tensor | nn.Module) for v in found):
            return True
        seen.update(map(id, found))
        ahead = gc.get_referents(*found)
    return False


_STEPS = 5
_OBJECTS = 10_000
# What a cache or an object refers to beside its contents.
_NO_RESULTS = (type, FunctionType, ModuleType, str, int, float)


def _restore(kind: type, before: dict[str, Any]) -> None:
    now = dict(vars(kind))
    for name in [n for n in now if n not in before]:
        delattr(kind, name)
    for name, value in before.items():
        if now.get(name) is not value:
            setattr(kind, name, value)


@functools.lru_cache(maxsize=16)
def _reached(roots: tuple[Any, ...]) -> _Reached:
    """What functions reach, by closures, by each other's names, and through modules that their code names."""
    found, ahead, seen = _Reached(), list(roots), set[int]()
    while ahead:
        function = ahead.pop()
        if id(function) in seen or is_of_library(function):
            continue
        seen.add(id(function))
        if isinstance(function, functools._lru_cache_wrapper):
            found.caches.append(function)
            ahead += _functions(function.__wrapped__)
            continue
        cells = [(c, content_of(c)) for c in function.__closure__ or ()]
        found.cells += [c for c, held in cells if not isinstance(held, type) and not list(_functions(held))]
        found.own += [v for v in (function.__defaults__, function.__kwdefaults__, function.__dict__) if v]
        named = [*_named(function), *(held for _, held in cells)]
        found.named += [v for v in named[: len(named) - len(cells)] if isinstance(v, CONTAINERS)]
        ahead += [f for value in named for f in _functions(value)]
    return found


def _functions(value: Any) -> Iterator[Any]:
    """The functions that a value stands for, if it is one, or a method or property made of some."""
    match value:
        case FunctionType() | functools._lru_cache_wrapper():
            yield value
        case staticmethod() | classmethod() | MethodType():
            yield from _functions(value.__func__)
        case property():
            yield from (f for part in (value.fget, value.fset) for f in _functions(part))
        case functools.cached_property() | functools.partial():
            yield from _functions(value.func)


def _named(function: FunctionType) -> Iterator[Any]:
    """The globals that a function's code names, and what it may take from modules among them."""
    names, scope = set(_names(function.__code__)), function.__globals__
    for name in names & scope.keys():
        value = scope[name]
        yield value
        if isinstance(value, ModuleType) and not is_of_library(value):
            yield from (vars(value)[n] for n in names & vars(value).keys())


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
