"""Sight: whether a model's own code can see how wide a tensor is.

An assertion, a branch, or a number made of a width leaves no trace in the recorded calls. Only code that reads sizes
can hold such a thing; all other models are spared the probe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from functools import cache
from types import CodeType, FunctionType
from typing import Any

from torch import fx, nn

from fxprune.module.isolation import walk
from fxprune.tracing.trace import Graph

# Names by which code reads a tensor's sizes, and a function that checks a size without an ATen call.
_SIZES = frozenset(["shape", "size", "numel", "nelement", "rms_norm"])
# Methods that do not run in a forward.
_ELSEWHERE = ("__", "_init", "init", "reset", "extra_repr", "_load", "load")


def sees_widths(graph: Graph) -> bool:
    """Whether code of the recorded model's own, other than PyTorch's layers, reads sizes.

    Counted are the methods of modules, and the functions that they name. Of a leaf that issued no call (a random skip,
    in evaluation mode) only its own methods count.
    """
    busy = {n.meta["module"] for n in graph.fx.nodes if n.op == "call_function"}
    return any(_sees(m, bool(m._modules) or path in busy) for path, m in walk(graph.model))


def _sees(module: nn.Module, everywhere: bool) -> bool:
    if isinstance(module, fx.GraphModule):  # sizes are calls in its graph
        return True
    held = [f for f in vars(module).values() if isinstance(f, FunctionType)]
    own: Any = type(module)
    return _reads(own, everywhere) or any(_names(f, everywhere) & _SIZES for f in held)


@cache
def _reads(kind: type, everywhere: bool) -> bool:
    methods = [f for k in kind.__mro__ if not _is_torchs(k) for n, f in vars(k).items() if not n.startswith(_ELSEWHERE)]
    return any(_names(f, everywhere) & _SIZES for f in methods if isinstance(f, FunctionType))


def _names(function: FunctionType, everywhere: bool) -> Set[str]:
    """The names in a function's code, and, if asked, in that of all functions that it can call by name."""
    found, done, ahead = set[str](), set[FunctionType](), [function]
    while ahead:
        present = ahead.pop()
        if present in done or _is_torchs(present):
            continue
        done.add(present)
        names = {name for code in _nested(present.__code__) for name in code.co_names}
        found |= names
        if everywhere:
            ahead += _functions([*(present.__globals__.get(n) for n in names), *_enclosed(present)])
    return found


def _nested(code: CodeType) -> Iterator[CodeType]:
    """A function's code and that of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _enclosed(function: FunctionType) -> Iterator[Any]:
    """What a function holds from the scopes around it: a decorator's holds the one that it decorates."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue


def _functions(values: Iterable[Any]) -> list[FunctionType]:
    return [v for v in values if isinstance(v, FunctionType)]


def _is_torchs(thing: type | FunctionType) -> bool:
    return thing.__module__ == "torch" or str(thing.__module__).startswith("torch.") or thing is object
