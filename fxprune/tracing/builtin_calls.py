"""Builtin calls: `int`, `float`, `len` and `range` in a model's code keep sources, where it only calls them.

Python makes plain numbers of what `__int__`, `__float__` and `__len__` return, and of what a range starts from and goes
on by. So for one run, names of the code's own module stand in their place. A module that does more with one of these
names than to call it, or to ask `isinstance` (`dtype=int`, `type(n) is int`), keeps Python's.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from types import FrameType, ModuleType
from typing import Any

from torch import Tensor

from fxprune.tracing.provenance import TAGGED, Real, Width, plain


class _Kind(type):
    """A class that is `int` or `float` to whoever calls it or asks `isinstance`, and keeps sources."""

    made: type

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, cls.made)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and type(args[0]) in TAGGED:
            return cls.followed(args[0], sys._getframe(1))  # type: ignore[attr-defined]
        return cls.made(*args, **kwargs)


class _Int(metaclass=_Kind):
    made = int

    @staticmethod
    def followed(value: Any, frame: FrameType) -> Any:
        if type(value) is Width:
            return value
        if value.plain < 0:  # rounded up
            value.run.escape(value.source, frame)
            return int(value.plain)
        return value.run.made(int(value.plain), "floor", value, 1, frame)


class _Float(metaclass=_Kind):
    made = float

    @staticmethod
    def followed(value: Any, _: FrameType) -> Any:
        return Real(float(value.plain), value.source, value.run)


class _Stepped(_Kind):
    """`range`, whose numbers follow a width where it starts from one or goes on by one (`range(0, c, c // 4)`)."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) > 1 and Width in (type(args[0]), *map(type, args[2:])):
            return _numbers(*args, frame=sys._getframe(1))
        return cls.made(*args, **kwargs)


class _Range(metaclass=_Stepped):
    made = range


def _numbers(start: Any, stop: Any, step: Any = 1, *, frame: FrameType) -> list[Any]:
    """The numbers of a range, of which there must be as many whatever the widths are."""
    run = (start if type(start) is Width else step).run

    def at(k: int) -> Any:
        further = run.made(k * plain(step), "mul", k, step, frame)
        return run.made(plain(start) + plain(further), "add", start, further, frame)

    count, on = len(range(*map(plain, (start, stop, step)))), "lt" if plain(step) > 0 else "gt"
    for k, outcome in ((count - 1, True), (count, False)):
        if k >= 0:
            run.compared(on, at(k), stop, outcome, frame)
    return [at(k) for k in range(count)]


def _length(value: Any) -> int:
    return value.shape[0] if isinstance(value, Tensor) and value.dim() else len(value)


_KINDS: Mapping[str, Any] = {kind.made.__name__: kind for kind in (_Int, _Float, _Range)}


def following(module: ModuleType) -> dict[str, Any]:
    """The names that a module's code can be given in place of Python's own."""
    otherwise = _used_otherwise(_source_of(module))
    kinds = {name: kind for name, kind in _KINDS.items() if name not in otherwise}
    return {name: value for name, value in {"len": _length, **kinds}.items() if name not in vars(module)}


def _source_of(module: ModuleType) -> str:
    """A module's code as it is now, also after a reload; empty where it is not to be seen."""
    try:
        return inspect.getsource(module)
    except (OSError, TypeError):
        return ""


@cache
def _used_otherwise(source: str) -> frozenset[str]:
    """Which of the names the functions of a module do not merely call; all of them where its code is not to be seen."""
    if not source:
        return frozenset(_KINDS)
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return frozenset(_KINDS)
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)]
    bodies = [s for f in functions for s in (f.body if isinstance(f.body, list) else [f.body])]
    return frozenset(name for body in bodies for name in _bare(body) if name in _KINDS)


def _bare(node: ast.AST) -> Iterator[str]:
    """The names that are read in code, but for annotations, what is called, and what `isinstance` or `map` is given."""
    if isinstance(node, ast.Name):
        yield node.id
        return
    for field, child in ast.iter_fields(node):
        if field in ("annotation", "returns"):
            continue
        called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if called and field == "func":
            continue
        taken = called and field == "args" and node.func.id in ("isinstance", "map")  # type: ignore[attr-defined]
        for c in child if isinstance(child, list) else [child]:
            if isinstance(c, ast.AST) and not (taken and _is_kind(c)):
                yield from _bare(c)


def _is_kind(node: ast.AST) -> bool:
    """Whether it is a name, or several in brackets."""
    return isinstance(node, ast.Name) or (isinstance(node, ast.Tuple) and all(map(_is_kind, node.elts)))
