"""Constants: the numbers that expressions of literals, and of constants of a file or a function, amount to."""

from __future__ import annotations

import ast
import inspect
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import CodeType, FunctionType
from typing import Any


def number_of(node: Any, constants: Mapping[str, int]) -> int | None:
    """The int that a literal is, or a constant, or an expression of these alone (`64 * 7 * 7`); else None."""
    match node:
        case ast.Constant(value=value) if type(value) is int:
            return value
        case ast.Name(id=name):
            return constants.get(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand) if (inner := number_of(operand, constants)) is not None:
            return -inner
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _OPERATORS:
            a, b = number_of(left, constants), number_of(right, constants)
            return None if a is None or b is None or (b == 0 and type(op) in _DIVISIONS) else _OPERATORS[type(op)](a, b)
    return None


_OPERATORS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_DIVISIONS = (ast.FloorDiv, ast.Mod)


def constants_of(function: FunctionType) -> dict[str, int]:
    """The ints that a function reads under names that keep them.

    From its file those in capitals, which mark what nobody assigns anew; and its own variables that are bound once, to
    an expression of such numbers.
    """
    found = _of_file(function)
    for name, value in _bound_once(function.__code__):
        if (number := number_of(value, found)) is not None:
            found[name] = number
    return found


@cache
def _bound_once(code: CodeType) -> list[tuple[str, ast.expr]]:
    """The variables of a function that one statement alone binds, and to what, in the order of the lines."""
    tree = tree_of(code)
    if tree is None:
        return []
    bound, own = Counter(_bindings(tree)), {*code.co_varnames, *code.co_cellvars}
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.Assign | ast.AnnAssign)]
    pairs = [pair for node in sorted(statements, key=lambda node: node.lineno) for pair in _pairs(node)]
    return [(target.id, value) for target, value in pairs if bound[target.id] == 1 and target.id in own]


def _pairs(statement: ast.Assign | ast.AnnAssign) -> Iterator[tuple[ast.Name, ast.expr]]:
    """The names that a statement binds, each with what it is bound to; not those of stars and of lists."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    for target in targets:
        match target, statement.value:
            case ast.Name(), ast.expr() as value:
                yield target, value
            case ast.Tuple(elts=names), ast.Tuple(elts=values) if len(names) == len(values):
                yield from ((n, v) for n, v in zip(names, values, strict=True) if isinstance(n, ast.Name))


def _bindings(tree: ast.AST) -> Iterator[str]:
    """Every name that code binds, at each place once: by assignments, loops, arguments, imports, definitions."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.alias(name=name, asname=other):
                yield (other or name).partition(".")[0]
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name
            case ast.MatchMapping(rest=str(name)):
                yield name
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                yield from 2 * names  # bound elsewhere as well


def _of_file(function: FunctionType) -> dict[str, int]:
    codes = codes_inside(function.__code__)
    local = {name for code in codes for name in (*code.co_varnames, *code.co_cellvars, *code.co_freevars)}
    named = {name for code in codes for name in code.co_names if name.isupper()} - local
    found = {name: function.__globals__.get(name) for name in named}
    return {name: value for name, value in found.items() if type(value) is int}


def codes_inside(code: CodeType) -> list[CodeType]:
    """A code and those that are nested in it."""
    return [code, *(c for inner in code.co_consts if isinstance(inner, CodeType) for c in codes_inside(inner))]


@cache
def tree_of(code: CodeType) -> ast.FunctionDef | None:
    """The syntax of a function, its lines counted from its own first one; None without a source."""
    try:
        source = "".join(inspect.getsourcelines(code)[0])
        nested = f"if 1:\n{source}" if source[:1].isspace() else source
        tree = ast.parse(nested)
    except (OSError, TypeError, SyntaxError):
        return None
    if nested is not source:
        ast.increment_lineno(tree, -1)
    body = tree.body[0].body if nested is not source else tree.body  # type: ignore[attr-defined]
    return body[0] if isinstance(body[0], ast.FunctionDef) and body[0].name == code.co_name else None
