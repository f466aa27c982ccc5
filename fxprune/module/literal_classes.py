"""Classes of modules with other literals.

A module with other literals gets a class of its own: a subclass of its class whose methods were compiled from the same
source with other numbers, inside the same decorators. Such a module is pickled with that source, so that it loads
wherever its original class can be imported, and nothing else is needed.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import textwrap
from collections.abc import Mapping
from functools import cache
from importlib.abc import InspectLoader
from types import CodeType, ModuleType
from typing import Any

from torch import nn

from fxprune.module.constants import tree_of
from fxprune.module.literals import Literal, Places, Replaced, method_of, places_of


def set_literals(module: nn.Module, values: Mapping[str, int]) -> None:
    """Give a module a class whose methods hold other numbers.

    >>> class Flatten(nn.Module):
    ...     def forward(self, x):
    ...         return x.view(-1, 64)
    >>> import torch
    >>> flatten = Flatten()
    >>> set_literals(flatten, {"forward[2:26]=64": 32})
    >>> flatten(torch.zeros(2, 4, 8)).shape
    torch.Size([2, 32])
    """
    kind: Any = type(module)
    chosen = tuple(sorted((Literal.named(name), value) for name, value in values.items()))
    object.__setattr__(module, "__class__", _rewritten(kind, chosen))


@cache
def _rewritten(kind: Any, values: tuple[tuple[Literal, int], ...]) -> type:
    """The class with other numbers; one that is rewritten again is made from the first one's own."""
    base: type = vars(kind).get("rewritten_from", kind)
    methods = sorted({literal.method for literal, _ in values}.union(vars(kind).get("rewritten_methods", ())))
    trees = [copy.deepcopy(tree_of(method_of(kind, name).__code__)) for name in methods]  # type: ignore[union-attr]
    for tree in trees:
        assert tree is not None
        tree.decorator_list = []
        Replaced(kind, method_of(kind, tree.name), dict(values)).visit(tree)  # type: ignore[arg-type]
    places = {tree.name: _places(kind, tree) for tree in trees if tree is not None}
    source = _source(base, [ast.unparse(t) for t in trees if t is not None], methods, places)
    name = f"{base.__module__}.{base.__name__}_{hashlib.sha1(source.encode()).hexdigest()[:12]}"
    module = ModuleType(name)
    module.__dict__.update(base=base, SOURCE=source, NAME=name)
    _Source(source).exec_module(module)
    return module.Rewritten  # type: ignore[no-any-return]


def _places(kind: type, tree: ast.FunctionDef) -> Places:
    """Where the numbers of the text that the tree becomes stood in the original one."""
    before, now = places_of(kind, tree.name), ast.parse(ast.unparse(tree)).body[0]
    pairs = list(zip(ast.walk(tree), ast.walk(now), strict=False))
    if any(type(old) is not type(new) for old, new in pairs):  # not the same text after all
        return {}
    found = {}
    for old, new in pairs:
        if isinstance(old, ast.expr) and isinstance(new, ast.expr):
            here = (old.lineno, old.col_offset)
            found[new.lineno, new.col_offset + len(_INDENT)] = before.get(here, here)
    return found


_INDENT = " " * 8  # of methods in the template


class _Source(InspectLoader):
    """Runs a module's source; its name stands in tracebacks."""

    def __init__(self, source: str) -> None:
        self._source = source

    def get_source(self, fullname: str) -> str:
        assert fullname
        return self._source

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_source(fullname), f"<{fullname}>")


def _source(base: type, bodies: list[str], methods: list[str], places: Mapping[str, Places]) -> str:
    """The source of a module that makes the class; it needs the original class and Python's own library."""
    codes = [method_of(base, m).__code__ for m in methods]  # type: ignore[union-attr]
    free = {name for code in codes for name in code.co_freevars} - {"__class__"}
    return _TEMPLATE.format(
        path=base.__qualname__,
        module=base.__module__,
        free=", ".join(sorted(free)),
        name=base.__name__,
        bodies=textwrap.indent("\n\n".join(bodies), _INDENT),
        methods=tuple(methods),
        places=places,
    )


_TEMPLATE = '''"""{path} of {module}, with other numbers in its methods."""

import importlib
import inspect
import linecache
import pickle
from functools import reduce
from types import CellType, CodeType, FunctionType

linecache.cache[f"<{{NAME}}>"] = (len(SOURCE), None, SOURCE.splitlines(keepends=True), f"<{{NAME}}>")

def named():
    return reduce(getattr, "{path}".split("."), importlib.import_module("{module}"))


if "base" not in globals():
    base = named()


def compiled({free}):
    class {name}:
{bodies}


def inside(code):
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from inside(constant)


def rewritten(name):
    held = inspect.getattr_static(base, name)
    outer = getattr(held, "__func__", held)
    old = inspect.unwrap(outer)
    code = next(c for c in list(inside(compiled.__code__))[1:] if c.co_name == name)
    cells = dict(zip(old.__code__.co_freevars, old.__closure__ or ()))
    closure = tuple(cells[variable] for variable in code.co_freevars)
    new = decorated(outer, old, like(old, code, closure))
    return type(held)(new) if isinstance(held, (staticmethod, classmethod)) else new


def like(old, code, closure):
    new = FunctionType(code, old.__globals__, old.__name__, old.__defaults__, closure)
    new.__dict__.update(old.__dict__)
    new.__kwdefaults__, new.__annotations__, new.__doc__ = old.__kwdefaults__, old.__annotations__, old.__doc__
    return new


def holds(cell, function):
    try:
        return cell.cell_contents is function
    except ValueError:  # nothing has been put into it
        return False


def decorated(outer, old, new):
    """The decorators of the old function around the new one."""
    if outer is old:
        return new
    below = decorated(outer.__wrapped__, old, new)
    cells = (CellType(below) if holds(c, outer.__wrapped__) else c for c in outer.__closure__)
    again = like(outer, outer.__code__, tuple(cells))
    again.__wrapped__ = below
    return again


MAKE = (
    "(lambda modules, name, source: (name in modules or (modules.update({{name: type(modules['sys'])(name)}}), "
    "vars(modules[name]).update(NAME=name, SOURCE=source), exec(compile(source, f'<{{name}}>', 'exec'), "
    "vars(modules[name]))), modules[name].Rewritten.__new__(modules[name].Rewritten))[1])"
)


class Maker:
    """Makes an empty module: a copy in this process is of this very class. Pickled is the source of the class, so that
    only the original one must be there when it is loaded.
    """

    def __call__(self):
        return Rewritten.__new__(Rewritten)

    def __reduce__(self):
        try:
            known = named()
        except (AttributeError, ImportError) as error:
            raise pickle.PicklingError(f"Can't pickle {{base}}: {{error}}") from error
        if known is not base:
            raise pickle.PicklingError(f"Can't pickle {{base}}: it's not the same object as {module}.{path}")
        return eval, (f"lambda: {{MAKE}}(__import__('sys').modules, {{NAME!r}}, {{SOURCE!r}})",)


def reduce_ex(self, protocol):
    _, _, *state = super(Rewritten, self).__reduce_ex__(protocol)
    return (Maker(), (), *state)


Rewritten = type(
    base.__name__,
    (base,),
    {{name: rewritten(name) for name in {methods!r}}}
    | {{"__reduce_ex__": reduce_ex, "rewritten_from": base, "rewritten_methods": {methods!r}}}
    | {{"rewritten_places": {places!r}}}
    | {{"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}},
)
'''
