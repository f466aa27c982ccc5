"""Constants: the numbers that expressions of literals, and of constants of a file, amount to."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
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
    """The ints that a function reads from its file under names in capitals, which mark what nobody assigns anew."""
    codes = codes_inside(function.__code__)
    local = {name for code in codes for name in (*code.co_varnames, *code.co_cellvars, *code.co_freevars)}
    named = {name for code in codes for name in code.co_names if name.isupper()} - local
    found = {name: function.__globals__.get(name) for name in named}
    return {name: value for name, value in found.items() if type(value) is int}


def codes_inside(code: CodeType) -> list[CodeType]:
    """A code and those that are nested in it."""
    return [code, *(c for inner in code.co_consts if isinstance(inner, CodeType) for c in codes_inside(inner))]
