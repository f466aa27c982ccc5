"""Names: what a caller points at in a model, by name, by pattern or by the object itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from torch import Tensor, nn

from fxprune.errors import InputError

V = TypeVar("V")
W = TypeVar("W")


def names_of(model: nn.Module, given: Any) -> tuple[str, ...]:
    """Names and patterns of what is given.

    Args:
        model: what the names are of.
        given: a name or shell pattern; a module or a parameter of `model`; a group; or several of these.

    Raises:
        InputError: an entry is none of these, or an object that is not part of the model.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> names_of(net, ["0.*", net[1], net[1].bias])
    ('0.*', '1', '1.bias')
    """
    several = isinstance(given, Iterable) and not isinstance(given, str | Tensor | nn.Module)
    return tuple(name for part in (given if several else [given]) for name in _names(model, part))


def by_name(model: nn.Module, table: Mapping[Any, V] | W) -> dict[str, V] | W:
    """A table whose keys are names or patterns, of one whose keys may be modules, parameters or groups as well; what
    is no table is for the whole model, and stays as it is.

    Raises:
        InputError: as `names_of`.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> by_name(net, {"0.*": 0.5, net[1]: 0.25})
    {'0.*': 0.5, '1': 0.25}
    """
    if not isinstance(table, Mapping):
        return table
    return {name: value for key, value in table.items() for name in _names(model, key)}


def _names(model: nn.Module, given: Any) -> Iterator[str]:
    if isinstance(given, str):
        yield given
    elif isinstance(given, nn.Module | Tensor):
        yield _own_name(model, given)
    elif isinstance(getattr(given, "name", None), str):
        yield given.name
    else:
        remedy = "give names or shell patterns as in model.named_modules(), modules, parameters or groups"
        raise InputError("this names no part of the model", seen=type(given).__name__, remedy=remedy)


def _own_name(model: nn.Module, wanted: nn.Module | Tensor) -> str:
    parts = model.named_modules() if isinstance(wanted, nn.Module) else _tensors(model)
    for name, part in parts:
        if part is wanted and name:
            return name
    what = "the whole model" if wanted is model else f"{type(wanted).__name__} of another model"
    remedy = "give a part of the model that is pruned"
    raise InputError("this names no part of the model", seen=what, remedy=remedy)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def matches(name: str, pattern: str) -> bool:
    """Whether the name, or a module that it is in, has the name or fits the pattern."""
    parts = name.split(".")
    return any(fits(".".join(parts[:k]), pattern) for k in range(1, len(parts) + 1))


def fits(name: str, pattern: str) -> bool:
    """Whether this very name, which may hold brackets, is the pattern or fits it."""
    return name == pattern or fnmatchcase(name, pattern)
