"""Tagging: for one run, the ints that modules hold become `Width`s, and functions such as `math.sqrt` keep sources."""

from __future__ import annotations

import math
import sys
import sysconfig
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from fxprune.module.saved_state import content_of, is_of_library
from fxprune.module.tensors import walk
from fxprune.tracing import scripted_functions
from fxprune.tracing.builtin_calls import following
from fxprune.tracing.provenance import TAGGED, Attribute, Run, Width, plain

# Deeper than this, and in longer lists, attributes hold no widths but tables.
_DEEPEST, _LONGEST = 4, 64
_OWN = frozenset(nn.Module().__dict__)
# Of PyTorch's own modules, only this one holds widths in a tuple that no weight tells; others hold spatial sizes, or
# what their weights tell as well.
_SIZES: dict[type, str] = {nn.Unflatten: "unflattened_size"}


@contextmanager
def tagged_attributes(model: nn.Module, run: Run) -> Iterator[None]:
    """A `Width` stands in the place of every int that a module holds.

    The modules are copies, or are put back (see `isolated`), but objects that cannot be copied are shared with the
    caller's: those that were changed hold plain ints again afterwards.
    """
    touched: list[Any] = []
    try:
        _tag_attributes(model, run, touched)
        yield
    finally:
        for container in touched:
            _untag(container)


def _untag(container: Any) -> None:
    for k, v in list(container.items() if isinstance(container, dict) else enumerate(container)):
        untagged = _untagged(v)
        if untagged is not v:
            container[k] = untagged


def _untagged(value: Any) -> Any:
    if type(value) is not tuple:
        return plain(value)
    return _if_changed(value, map(_untagged, value))


def _if_changed(value: tuple[Any, ...], items: Iterable[Any]) -> tuple[Any, ...]:
    """The same tuple where its items are the same."""
    made = tuple(items)
    return value if all(a is b for a, b in zip(made, value, strict=True)) else made


def _tag_attributes(model: nn.Module, run: Run, touched: list[Any]) -> None:
    seen = set[int]()
    for path, module in walk(model):
        tag = _Tag(path, run, seen, touched)
        foreign = not type(module).__module__.startswith("torch.")
        if foreign:
            _take_over(type(module), module.__dict__)
        attributes, size = module.__dict__, _SIZES.get(type(module))
        for key, value in list(attributes.items()):
            kind = type(value)
            if kind is int:
                attributes[key] = tag.width(key, value)
            elif kind is torch.jit.ScriptFunction:
                attributes[key] = scripted_functions.followed(value) or value
            elif key not in _OWN if foreign else key == size:
                tag.inside(attributes, key, value, key, 0)


def _take_over(kind: type, attributes: dict[str, Any]) -> None:
    """Put the numbers that a class holds among the attributes of an object of it, where they can be tagged."""
    for k in kind.__mro__:
        if not k.__module__.startswith("torch."):
            for name, value in vars(k).items():
                if type(value) in (int, list, tuple) and not name.startswith("__") and name not in attributes:
                    attributes[name] = list(value) if type(value) is list else value


class _Tag:
    """Tags what one module's attributes lead to."""

    def __init__(self, path: str, run: Run, seen: set[int], touched: list[Any]) -> None:
        self._path, self._run, self._seen, self._touched = path, run, seen, touched

    def width(self, name: str, value: int) -> Width:
        return Width(value, Attribute(self._path, name, value), self._run)

    def inside(self, container: Any, key: Any, value: Any, name: str, depth: int) -> None:
        """Tag the ints in `container[key]`, which is `value`."""
        kind = type(value)
        if kind in (tuple, torch.Size):
            tagged = self._tuple(value, name, depth)
            if tagged is not value:
                container[key] = tagged
        elif kind is FunctionType and not is_of_library(value):
            self._closure(value, name)
        elif kind in (list, deque, dict) or _is_plain_object(value):
            if id(value) in self._seen or depth == _DEEPEST:
                return
            self._seen.add(id(value))
            inner = value if kind in (list, deque, dict) else value.__dict__
            if inner is not value:
                _take_over(kind, inner)
            if len(inner) <= _LONGEST or inner is not value:
                self._touched.append(inner)
                self._items(inner, name, depth)

    def _closure(self, function: FunctionType, name: str) -> None:
        """Tag the ints that a function holds in its closure; those that several hold are of no single attribute."""
        for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            held = content_of(cell)
            if id(cell) in self._seen and type(held) in TAGGED:
                cell.cell_contents = plain(held)
            elif id(cell) not in self._seen and type(held) is int:
                cell.cell_contents = self.width(f"{name}.{variable}", held)
            self._seen.add(id(cell))

    def _tuple(self, value: tuple[Any, ...], name: str, depth: int) -> tuple[Any, ...]:
        """A tuple with its ints tagged, and those of the tuples in it."""
        if len(value) > _LONGEST or depth > _DEEPEST:
            return value
        return _if_changed(value, (self._tagged(v, f"{name}.{i}", depth) for i, v in enumerate(value)))

    def _tagged(self, value: Any, name: str, depth: int) -> Any:
        if type(value) is int:
            return self.width(name, value)
        return self._tuple(value, name, depth + 1) if type(value) is tuple else value

    def _items(self, inner: Any, name: str, depth: int) -> None:
        for k, v in list(inner.items() if isinstance(inner, dict) else enumerate(inner)):
            if "." in str(k):  # no name leads there
                continue
            if type(v) is int and type(k) in (str, int):
                inner[k] = self.width(f"{name}.{k}", v)
            elif type(v) not in (str, float, bool):
                self.inside(inner, k, v, f"{name}.{k}", depth + 1)


def _is_plain_object(value: Any) -> bool:
    """Whether it is an object of somebody's own class (a config) whose attributes may hold widths."""
    kind = type(value)
    other = is_of_library(kind) or isinstance(value, type | nn.Module | Enum)
    return not other and type(getattr(value, "__dict__", None)) is dict


@contextmanager
def followed_functions(model: nn.Module) -> Iterator[None]:
    """Some functions of Python, `math` and NumPy keep sources in the code that defines the modules, and in what that
    code imports of the same packages or from no package; all other has its own (see `fxprune.tracing.builtin_calls`).
    """
    own = {k.__module__ for _, m in walk(model) for k in type(m).__mro__}
    defining = [sys.modules[name] for name in own if name in sys.modules and not _is_known(name)]
    modules = list(dict.fromkeys([*defining, *(helper for m in defining for helper in _helpers(m))]))
    instead = {
        "math": (math, _MATH),
        "sqrt": (math.sqrt, _root),
        "isqrt": (math.isqrt, _whole_root),
        "np": (np, _NUMPY),
        "numpy": (np, _NUMPY),
    }
    changed = [(vars(m), key, *pair) for m in modules for key, pair in instead.items() if vars(m).get(key) is pair[0]]
    changed += [(vars(m), *named) for m in modules for named in scripted_functions.following(vars(m))]
    added = [(vars(m), following(m)) for m in modules]
    try:
        for place, key, _, other in changed:
            place[key] = other
        for place, names in added:
            place.update(names)
        yield
    finally:
        for place, key, before, _ in changed:
            place[key] = before
        for place, names in added:
            for key in names:
                place.pop(key, None)


def _is_known(name: str) -> bool:
    return name == "builtins" or name.startswith("torch.")


def _helpers(module: ModuleType) -> Iterator[ModuleType]:
    """What a module imports, or imports functions of, if that is of its own package or installed with no other."""
    package = module.__name__.partition(".")[0]
    for value in list(vars(module).values()):
        if isinstance(value, ModuleType | FunctionType) and not is_of_library(value):
            found = value if isinstance(value, ModuleType) else sys.modules.get(value.__module__ or "")
            root = found.__name__.partition(".")[0] if found is not None else _OURS
            if found is not None and root != _OURS and (root == package or not _is_installed(found)):
                yield found


def _is_installed(module: ModuleType) -> bool:
    """Whether it is Python's, or of a package that was installed."""
    path = getattr(module, "__file__", None)
    return path is None or path.startswith(_INSTALLED)


_OURS = __name__.partition(".")[0]
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def _root_of(root: Callable[..., Any]) -> Callable[..., Any]:
    def followed(value: Any, *args: Any, **kwargs: Any) -> Any:
        if type(value) in TAGGED:
            return value.run.made(math.sqrt(value.plain), "pow", value, 0.5, sys._getframe(1))
        return root(value, *args, **kwargs)

    return followed


def _whole_root(value: Any) -> Any:
    """`math.isqrt`, of lengths too."""
    if type(value) not in TAGGED:
        return math.isqrt(value)
    frame = sys._getframe(1)
    root = value.run.made(math.sqrt(value.plain), "pow", value, 0.5, frame)
    return value.run.made(math.isqrt(value.plain), "floor", root, 1, frame)


def _product(values: Any, *args: Any, **kwargs: Any) -> Any:
    """NumPy's product, of lengths too."""
    lengths = isinstance(values, list | tuple) and any(type(v) in TAGGED for v in values)
    return math.prod(values) if lengths and not args and not kwargs else np.prod(values, *args, **kwargs)


def _with(module: ModuleType, **functions: Any) -> ModuleType:
    made = ModuleType(module.__name__)
    made.__dict__.update({**vars(module), **functions})
    return made


_root = _root_of(math.sqrt)
_MATH, _NUMPY = _with(math, sqrt=_root, isqrt=_whole_root), _with(np, sqrt=_root_of(np.sqrt), prod=_product)
