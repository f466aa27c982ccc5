"""A structural copy: new modules, attributes and containers, over the very same parameters and buffers.

A run on the copy leaves the caller's model alone, whatever its code does to itself and whoever else uses the model in
the meantime. Unlike `copy.deepcopy`, it copies no parameter and no buffer, follows what functions hold in closures and
defaults, and does not fail on what cannot be copied: locks, files and objects of libraries are shared.
"""

from __future__ import annotations

import copy
import functools
import random
import sys
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from enum import Enum
from types import BuiltinMethodType, CellType, FunctionType, MethodType, SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fxprune.module.saved_state import (
    LARGEST_ARRAY,
    NOTHING,
    PLAIN,
    VIEWS,
    cached_names,
    content,
    content_of,
    is_of_library,
    slots_of,
    viewed,
)
from fxprune.module.wrappers import check_python

M = TypeVar("M", bound=nn.Module)


class StructuralCopy:
    """Copies the structure of a model.

    Attributes:
        originals: all that was copied or shared, but for what holds nothing.
        shared: tensors that model and copy have in common, parameters and buffers included, by `id`.
        own: the `id`s of the model's parameters and buffers.
        kinds: classes of the modules and objects that were copied.
    """

    def __init__(self, shared: Iterable[Tensor] = (), replaced: Mapping[int, Tensor] | None = None) -> None:
        """Replaced: what stands for tensors in the copy, by `id`."""
        self.shared: dict[int, Tensor] = {}
        self.own: frozenset[int] = frozenset()
        self.kinds: dict[type, list[Any]] = {}  # with their slots
        self._copies: dict[int, Any] = dict(replaced or {})
        self._has_others = bool(replaced)
        self.originals: list[Any] = []  # kept alive, so that no `id` is used twice
        self._unfilled: deque[tuple[nn.Module, nn.Module]] = deque()
        for tensor in shared:  # of attributes
            self._shared_tensor(tensor)

    def of(self, model: M) -> M:
        """The copy of a model.

        Raises:
            InputError: it holds a scripted module, whose state lies outside Python.
        """
        ahead: list[tuple[str, nn.Module | None]] = [("", model)]
        while ahead:
            path, module = ahead.pop()
            if module is not None and id(module) not in self._copies:
                check_python(path, module)
                self._copy(module)
                self._registry(module._parameters)
                self._registry(module._buffers)
                ahead += [(f"{path}.{name}".lstrip("."), child) for name, child in module._modules.items()]
        self.own = frozenset(self.shared)
        while self._unfilled:  # one after another: modules nest deeper than Python's calls may
            self._fill(*self._unfilled.popleft())
        made: M = self._copy(model)
        return made

    def _copy(self, value: Any) -> Any:
        kind = type(value)
        if kind in PLAIN:
            return value
        known = self._copies.get(id(value))
        if known is not None:
            return known
        make = _EXACT.get(kind)
        if make is None:
            make = next((make for base, make in _BASES if issubclass(kind, base)), StructuralCopy._object)
        return make(self, value)

    def _all(self, values: Iterable[Any]) -> list[Any]:
        return [self._copy(v) for v in values]

    def _know(self, value: Any, made: Any) -> Any:
        self.originals.append(value)
        self._copies[id(value)] = made
        return made

    def _share(self, value: Any) -> Any:
        return self._know(value, value)

    # Modules and tensors

    def _module(self, module: nn.Module) -> Any:
        """An empty module of the same class, to be filled later."""
        made = object.__new__(type(module))
        self._unfilled.append((module, made))
        return self._know(module, made)

    def _fill(self, module: nn.Module, made: nn.Module) -> None:
        self._registry(module._parameters)
        self._registry(module._buffers)
        self._with_slots(module, made)

    def _registry(self, registry: Mapping[str, Tensor | None]) -> None:
        """The copy's registry of its own holds the same parameters or buffers, or what stands for them."""
        if registry and id(registry) not in self._copies:
            made = self._know(registry, copy.copy(registry))
            for key, tensor in registry.items():
                if tensor is None:
                    continue
                if self._has_others and (other := self._copies.get(id(tensor), tensor)) is not tensor:
                    made[key] = other
                else:
                    self._shared_tensor(tensor)

    def _shared_tensor(self, tensor: Tensor) -> Any:
        self.shared[id(tensor)] = tensor
        return self._share(tensor)

    def _tensor(self, tensor: Tensor) -> Any:
        """A tensor in an attribute; large ones are shared like weights."""
        plain = type(tensor) is Tensor and tensor.layout is torch.strided and not tensor.is_meta
        if not plain or tensor.nbytes > LARGEST_ARRAY:
            return self._shared_tensor(tensor)
        made = tensor.detach().clone()
        if tensor.is_leaf and tensor.requires_grad:
            made.requires_grad_()
        return self._with_attributes(tensor, self._know(tensor, made))

    # Containers and objects

    def _container(self, value: Any) -> Any:
        """A dict, list, set or deque, of their subclasses too; one that a class does not let be made is shared."""
        clear, put = next(how for base, how in _CONTENTS if isinstance(value, base))
        try:
            made = type(value)() if type(value) in _PLAIN_CONTAINERS else copy.copy(value)
        except Exception:  # whatever a class of somebody's own has against it
            return self._share(value)
        self._know(value, made)
        clear(made)
        for item in list(dict.items(value) if isinstance(value, dict) else value):
            put(made, *(self._all(item) if isinstance(value, dict) else [self._copy(item)]))
        return made if type(value) in _PLAIN_CONTAINERS else self._with_slots(value, made)

    def _view(self, value: Any) -> Any:
        return self._know(value, VIEWS[type(value)](self._copy(viewed(value))))

    def _tuple(self, value: tuple[Any, ...]) -> Any:
        if all(type(v) in PLAIN for v in value):
            return value
        items = self._all(value)
        if all(a is b for a, b in zip(items, value, strict=True)):
            return value
        return self._know(value, tuple.__new__(type(value), items))

    def _frozenset(self, value: frozenset[Any]) -> Any:
        return self._know(value, frozenset(self._all(value)))

    def _object(self, value: Any) -> Any:
        """An object of somebody's own class; objects of libraries, and what cannot be made anew, are shared."""
        kind = type(value)
        if kind is torch.jit.ScriptFunction:
            return self._share(value)
        if issubclass(kind, type | Enum) or (is_of_library(kind) and kind is not RemovableHandle):
            return value
        try:
            if hasattr(kind, "__deepcopy__"):
                return self._know(value, copy.deepcopy(value, self._copies))
            made = (SimpleNamespace if issubclass(kind, SimpleNamespace) else object).__new__(kind)
        except Exception:  # whatever a class of somebody's own has against it
            return self._share(value)
        return self._with_slots(value, self._know(value, made))

    def _with_slots(self, value: Any, made: Any) -> Any:
        kind = type(value)
        slots = self.kinds.get(kind)
        if slots is None:
            slots = self.kinds[kind] = slots_of(kind)
        for slot in slots:
            held = content(slot, value)
            if held is not NOTHING:
                with suppress(AttributeError, TypeError):  # read-only: C code has set it already
                    slot.__set__(made, self._copy(held))
        return self._with_attributes(value, made)

    def _with_attributes(self, value: Any, made: Any) -> Any:
        attributes = getattr(value, "__dict__", None)
        if attributes:
            new, cached = made.__dict__, cached_names(type(value))
            for key, held in list(attributes.items()):
                kind = type(held)
                if key in cached:
                    continue
                if kind in PLAIN:
                    new[key] = held
                elif kind in _PLAIN_CONTAINERS and not held and sys.getrefcount(held) == _UNSHARED:
                    new[key] = kind()  # a module has a dozen empty dicts of hooks, which nobody else holds
                else:
                    new[key] = self._copy(held)
        return made

    def _weak_reference(self, value: weakref.ref[Any]) -> Any:
        target = value()
        made = self._copy(target)
        return value if made is target else weakref.ref(made)

    def _weak_proxy(self, value: Any) -> Any:
        target = value.__init__.__self__
        made = self._copy(target)
        return value if made is target else weakref.proxy(made)

    # Arrays and generators

    def _array(self, value: Any) -> Any:
        writable = value.flags.writeable and value.nbytes <= LARGEST_ARRAY
        return self._know(value, value.copy() if writable else value)

    def _generator(self, value: Any) -> Any:
        return self._know(value, value if isinstance(value, random.SystemRandom) else copy.deepcopy(value))

    def _torch_generator(self, value: torch.Generator) -> Any:
        return self._know(value, value.clone_state())

    # Functions

    def _function(self, value: FunctionType) -> Any:
        """A function that holds something in its closure or defaults holds copies; others are shared."""
        if not self._holds_something(value):
            return self._share(value)
        if is_of_library(value) and not any(map(_is_callable_of_a_model, _held(value))):
            return self._share(value)
        cells = tuple([self._copies.get(id(c)) or self._know(c, CellType()) for c in value.__closure__ or ()])
        made = self._know(value, FunctionType(value.__code__, value.__globals__, value.__name__, None, cells))
        made.__kwdefaults__ = value.__kwdefaults__ and dict(
            zip(value.__kwdefaults__, self._all(value.__kwdefaults__.values()), strict=True)
        )
        made.__defaults__ = value.__defaults__ and tuple(self._all(value.__defaults__))
        made.__qualname__, made.__module__, made.__doc__ = value.__qualname__, value.__module__, value.__doc__
        for old, new in zip(value.__closure__ or (), cells, strict=True):
            self._fill_cell(old, new, is_of_library(value))
        return self._with_attributes(value, made)

    def _holds_something(self, value: FunctionType) -> bool:
        defaults = (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
        return any(not isinstance(v, type) for v in _held(value)) or any(self._copy(v) is not v for v in defaults)

    def _fill_cell(self, cell: CellType, made: CellType, of_library: bool) -> None:
        """Of a library's closure only what belongs to the model is copied: the rest may be state of the process."""
        held = content_of(cell)
        if held is not NOTHING and content_of(made) is NOTHING:
            made.cell_contents = held  # what it holds may lead back to it
            if not of_library or _is_callable_of_a_model(held):
                made.cell_contents = self._copy(held)

    def _method(self, value: MethodType) -> Any:
        function, owner = self._copy(value.__func__), self._copy(value.__self__)
        return value if function is value.__func__ and owner is value.__self__ else MethodType(function, owner)

    def _builtin_method(self, value: Any) -> Any:
        """Such as `append` of a list; what a module of Python's offers is bound to that module."""
        owner = self._copy(value.__self__)
        return value if owner is value.__self__ else getattr(owner, value.__name__)

    def _partial(self, value: functools.partial[Any]) -> Any:
        keywords = {k: self._copy(v) for k, v in value.keywords.items()}
        made = type(value)(self._copy(value.func), *self._all(value.args), **keywords)
        return self._with_attributes(value, self._know(value, made))

    def _cached(self, value: functools._lru_cache_wrapper[Any]) -> Any:
        """The same function with an empty cache."""
        function = self._copy(value.__wrapped__)
        made = functools.lru_cache(**value.cache_parameters())(function)
        return self._know(value, functools.update_wrapper(made, function))


def _held(function: FunctionType) -> list[Any]:
    return [content_of(c) for c in function.__closure__ or ()]


def _is_callable_of_a_model(value: Any) -> bool:
    return isinstance(value, nn.Module | MethodType | FunctionType | functools.partial)


_PLAIN_CONTAINERS = (dict, OrderedDict, list, set)


def _references_of_unshared() -> int:
    """How many references Python counts, in a loop over attributes, to what one attribute alone holds."""
    attributes: dict[str, list[Any]] = {"hooks": []}
    for _, held in list(attributes.items()):
        count = sys.getrefcount(held)
    return count


_UNSHARED = _references_of_unshared()
Make = Callable[[StructuralCopy, Any], Any]
_EXACT: dict[type, Make] = {
    **dict.fromkeys((*_PLAIN_CONTAINERS, deque), StructuralCopy._container),
    **dict.fromkeys(VIEWS, StructuralCopy._view),
    tuple: StructuralCopy._tuple,
    frozenset: StructuralCopy._frozenset,
    FunctionType: StructuralCopy._function,
    MethodType: StructuralCopy._method,
    BuiltinMethodType: StructuralCopy._builtin_method,
    weakref.ref: StructuralCopy._weak_reference,
    weakref.ProxyType: StructuralCopy._weak_proxy,
    weakref.CallableProxyType: StructuralCopy._weak_proxy,
    functools._lru_cache_wrapper: StructuralCopy._cached,
    torch.Generator: StructuralCopy._torch_generator,
}
_BASES: tuple[tuple[Any, Make], ...] = (
    (nn.Module, StructuralCopy._module),
    (nn.Parameter, StructuralCopy._shared_tensor),
    (Tensor, StructuralCopy._tensor),
    ((dict, list, set, deque), StructuralCopy._container),
    (tuple, StructuralCopy._tuple),
    (functools.partial, StructuralCopy._partial),
    (np.ndarray, StructuralCopy._array),
    ((np.random.Generator, np.random.BitGenerator, np.random.RandomState), StructuralCopy._generator),
    (random.Random, StructuralCopy._generator),
)
# How the contents of containers are taken out and put in, past what their classes make of it.
_CONTENTS: tuple[tuple[type, tuple[Any, Any]], ...] = (
    (OrderedDict, (OrderedDict.clear, OrderedDict.__setitem__)),
    (dict, (dict.clear, dict.__setitem__)),
    (list, (list.clear, list.append)),
    (set, (set.clear, set.add)),
    (deque, (deque.clear, deque.append)),
)
