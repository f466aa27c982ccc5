"""Code as plain data: what a function does, the same in every process, so that it can be told from a namesake's."""

from __future__ import annotations

from types import CodeType
from typing import Any


def told(code: CodeType) -> tuple[str, list[Any], tuple[str, ...]]:
    """The instructions, the constants, with the code of inner functions among them, and the names that code uses.

    >>> told((lambda x: x + 1).__code__) == told((lambda x: x + 1).__code__)
    True
    >>> told((lambda x: x + 1).__code__) == told((lambda x: x + 2).__code__)
    False
    """
    return code.co_code.hex(), [_constant(c) for c in code.co_consts], code.co_names


def _constant(value: Any) -> Any:
    if isinstance(value, CodeType):
        return told(value)
    if isinstance(value, tuple):
        return tuple(map(_constant, value))
    if isinstance(value, frozenset):  # which has another order in each process
        return sorted(repr(_constant(v)) for v in value)
    plain = value is None or isinstance(value, bool | int | float | complex | str | bytes)
    return value if plain else f"{type(value).__module__}.{type(value).__qualname__}"
