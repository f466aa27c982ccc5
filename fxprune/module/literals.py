"""Literals: the numbers in the code of a module's methods, found where a recorded call used them, and replaced.

A literal is named after its place: `forward[3:21]=400` is the number 400 in the third line of `forward`, at column 21.
Square brackets tell it from an attribute. `literal_classes` makes the classes of modules with other literals; what
their methods hold is named after its place in the original source, so that two replacements in a row are one.
"""

from __future__ import annotations

import ast
import copy
import inspect
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from torch import fx, nn

from fxprune.module.constants import codes_inside, constants_of, number_of, tree_of


class NoLiteralError(Exception):
    """A number of the code cannot be replaced; the text says why."""


class Literal(NamedTuple):
    """A number in the source of a method: its line in the method and its column, both as `ast` counts them.

    An expression of numbers alone (`64 * 7 * 7`) counts as one, as it does for Python's compiler, and so does one of
    constants of the function's file (`WIDTH // HEADS`) and of variables that get such a number once (`width = 64`).
    """

    method: str
    line: int
    column: int
    value: int

    def __str__(self) -> str:
        return f"{self.method}[{self.line}:{self.column}]={self.value}"

    @classmethod
    def named(cls, name: str) -> Literal:
        method, _, rest = name.partition("[")
        line, column, value = rest.replace("]=", ":").split(":")
        return cls(method, int(line), int(column), int(value))


Places = Mapping[tuple[int, int], tuple[int, int]]
"""The lines and columns of a source that was rewritten, and which they were in the original one."""


def same_place(names: Iterable[str], name: str) -> str:
    """The literal among those of a model before that stands at the place of this one, which may have another number."""
    if not is_literal(name):
        return name
    method, line, column, _ = Literal.named(name)
    wanted = f"{method}[{line}:{column}]="
    return next((other for other in names if other.startswith(wanted)), name)


def is_literal(name: str) -> bool:
    """Whether a name is a literal's, not an attribute's."""
    return "[" in name


class Replaced(ast.NodeTransformer):
    """Other numbers in the place of a function's literals: {literal: number}.

    Args:
        kind: the class whose method the function is.
        function: the method.
        numbers: see above.
    """

    def __init__(self, kind: type, function: FunctionType, numbers: Mapping[Literal, int]) -> None:
        self._method, self._constants = function.__code__.co_name, constants_of(function)
        self._places = places_of(kind, self._method)
        self._numbers, self.found = numbers, set[Literal]()

    def visit(self, node: ast.AST) -> ast.AST:
        value = number_of(node, self._constants)
        if value is not None and (literal := _literal(self._method, node, self._places, value)) in self._numbers:
            self.found.add(literal)
            number = self._numbers[literal]
            new: ast.expr = ast.Constant(abs(number))  # a negative number is written as an operation
            new = ast.UnaryOp(ast.USub(), ast.copy_location(new, node)) if number < 0 else new
            return ast.copy_location(new, node)
        self.generic_visit(node)
        return node


def has_literal(module: nn.Module, name: str) -> bool:
    """Whether a module's code holds the literal of this name."""
    literal = Literal.named(name)
    function = method_of(type(module), literal.method)
    tree = None if function is None else tree_of(function.__code__)
    if function is None or tree is None:
        return False
    replaced = Replaced(type(module), function, {literal: literal.value})
    replaced.visit(copy.deepcopy(tree))
    return bool(replaced.found)


def places_of(kind: type, method: str) -> Places:
    """Where the numbers of a rewritten class's method stood in the original source; empty for other classes."""
    return getattr(kind, "rewritten_places", {}).get(method, {})  # type: ignore[no-any-return]


def _literal(method: str, node: Any, places: Places, value: int) -> Literal:
    here = (node.lineno, node.col_offset)
    return Literal(method, *places.get(here, here), value)


def method_of(kind: type, method: str) -> FunctionType | None:
    """The function of a method, also of one that is static, of the class, or inside decorators (`torch.no_grad`)."""
    held = inspect.getattr_static(kind, method, None)
    function: Any = held.__func__ if isinstance(held, staticmethod | classmethod) else held
    while isinstance(function, FunctionType) and (inner := vars(function).get("__wrapped__")) is not None:
        if not any(_holds(cell, inner) for cell in function.__closure__ or ()):
            return None  # nobody knows where it would have to be put back
        function = inner
    return function if isinstance(function, FunctionType) else None


def _holds(cell: Any, function: Any) -> bool:
    try:
        return cell.cell_contents is function
    except ValueError:  # nothing has been put into it
        return False


def find_literal(
    module: nn.Module, code: CodeType, instruction: int, paths: Sequence[tuple[Any, ...]], value: int
) -> str:
    """The name of the literal that an instruction of a method got at a place among its operands.

    Args:
        module: whose method has run.
        code: of the method.
        instruction: the byte offset of a call, a subscript or an arithmetic operation.
        paths: ("left",) or ("right",) of an operation; of a subscript the number of the item and "lower" or "upper"; of
            a call the number of the argument, or its name, and the number of the item in it. Several are one place,
            counted from the first argument and from the last; others may be unpacked before it or behind it.
        value: what it was.

    Raises:
        NoLiteralError: there is none, or it cannot be replaced.
    """
    if isinstance(module, fx.GraphModule):
        raise NoLiteralError("the code of a GraphModule is left as it is")
    kind: Any = type(module)
    function = _method_with(kind, code)
    if function is None or function.__name__ in module.__dict__.get("forward", ()):
        raise NoLiteralError("the number stands in no method that is written in the module's class")
    if function.__name__ in getattr(kind, "rewritten_places", {}) and not places_of(kind, function.__name__):
        raise NoLiteralError("the number stands in code that was rewritten before")
    tree = tree_of(function.__code__)
    places = list(code.co_positions()) if hasattr(code, "co_positions") else None
    constants = constants_of(function)
    for path in paths:
        node: Any = _operand(tree, function, places[instruction // 2], path) if tree is not None and places else None
        if number_of(node, constants) == value:
            name = function.__code__.co_name
            return str(_literal(name, node, places_of(kind, name), value))
    raise NoLiteralError("no such number stands at its place there")


@cache
def _method_with(kind: type, code: CodeType) -> FunctionType | None:
    """The method of a class that a code belongs to: its own, or that of a function or generator inside it."""
    names = [code.co_name, *dict.fromkeys(name for k in kind.__mro__ if k is not object for name in vars(k))]
    methods = (m for name in names if (m := method_of(kind, name)) is not None and m.__code__.co_name == name)
    return next((m for m in methods if code in codes_inside(m.__code__)), None)


def _operand(tree: ast.AST, function: Any, place: Any, path: tuple[Any, ...]) -> ast.AST | None:
    found: Any = _at(tree, function.__code__.co_firstlineno - 1, place)
    if isinstance(found, ast.BinOp):
        return getattr(found, path[0], None) if path[0] in ("left", "right") else None
    if isinstance(found, ast.AugAssign):
        return found.value if path == ("right",) else None
    if isinstance(found, ast.Subscript) and path[-1] in ("lower", "upper"):
        items = found.slice.elts if isinstance(found.slice, ast.Tuple) else [found.slice]
        item = items[path[0]] if path[0] < len(items) else None
        return getattr(item, path[1]) if isinstance(item, ast.Slice) else None
    return _argument(found, function, path) if isinstance(found, ast.Call) else None


def _argument(call: ast.Call, function: Any, path: tuple[Any, ...]) -> ast.AST | None:
    """An argument of a call, or an item of one."""
    first, *rest = path
    if isinstance(first, str):
        found: Any = next((k.value for k in call.keywords if k.arg == first), None)
    else:  # the object of a method is argument 0
        found = _item(call.args, first - _is_method(call.func, function) if first >= 0 else first)
    for i in rest:
        found = _item(found.elts, i) if isinstance(found, ast.Tuple | ast.List) else None
    return found  # type: ignore[no-any-return]


def _item(items: list[ast.expr], i: int) -> ast.AST | None:
    """One of several items; None where it is not sure which, as others are unpacked between it and the end."""
    counted = items[: i + 1] if i >= 0 else items[i:]
    unsure = len(counted) < (i + 1 if i >= 0 else -i) or any(isinstance(e, ast.Starred) for e in counted)
    return None if unsure else items[i]


def _is_method(called: ast.AST, function: Any) -> bool:
    """Whether a method of an object is called, and no function of a module."""
    if not isinstance(called, ast.Attribute):
        return False
    while isinstance(called, ast.Attribute):
        called = called.value
    return not (isinstance(called, ast.Name) and isinstance(function.__globals__.get(called.id), ModuleType))


_OPERATIONS = (ast.BinOp, ast.AugAssign, ast.Subscript, ast.Call)


def _at(tree: ast.AST, first: int, place: Any) -> ast.AST | None:
    """The operation at a place, lines counted from `first`; where Python tells no columns, the only one of its line."""
    line, last, column, end = place
    if line is None or last is None:
        return None
    nodes = [n for n in ast.walk(tree) if isinstance(n, _OPERATIONS)]
    exact = [n for n in nodes if (n.lineno, n.col_offset) == (line - first, column) and _end(n) == (last - first, end)]
    return next(iter(exact or [n for n in nodes if isinstance(n, ast.Call) and _end(n) == (last - first, end)]), None)


def _end(node: Any) -> tuple[int, int]:
    return node.end_lineno, node.end_col_offset
