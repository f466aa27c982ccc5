"""Held tensors: those in plain attributes of modules (`self.positions = table`) that can be cut as buffers are."""

from __future__ import annotations

import dis
import inspect
from collections import Counter
from collections.abc import Sequence
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.module.constants import codes_inside
from fxprune.module.saved_state import cached_names


def held_tensors(modules: Sequence[nn.Module]) -> list[tuple[nn.Module, str, Tensor]]:
    """The floating-point tensors in plain attributes that a forward does not assign to: module, attribute, tensor.

    Left out are tensors with a history, and those that share memory with parameters, buffers or one another: where one
    is written to, the others follow.
    """
    holders = [m for m in modules if Tensor in map(type, vars(m).values())]  # of thousands of attributes few are
    found = [
        (m, name, t)
        for m in holders
        for name, t in vars(m).items()
        if type(t) is Tensor and _may_be_cut(t) and not _assigns(m, name)
    ]
    if not found:
        return []
    registered = (t for m in modules for r in (m._parameters, m._buffers) for t in r.values() if t is not None)
    taken = Counter(map(_memory, {id(t): t for *_, t in found}.values()))
    taken.update(_memory(t) for t in registered if _has_memory(t))
    return [place for place in found if taken[_memory(place[2])] == 1]


def _assigns(module: nn.Module, name: str) -> bool:
    kind: Any = type(module)
    return name in stored_by_forward(kind) or name in cached_names(kind)


def _may_be_cut(tensor: Tensor) -> bool:
    plain = tensor.is_leaf and not tensor.requires_grad and tensor.is_floating_point()
    return plain and _has_memory(tensor) and any(n > 1 for n in tensor.shape)


def _has_memory(tensor: Tensor) -> bool:
    dense = tensor.layout is torch.strided and torch._C._has_storage(tensor)
    return dense and (tensor.is_meta or tensor.untyped_storage().data_ptr() != 0)


def _memory(tensor: Tensor) -> int:
    return id(tensor) if tensor.is_meta else tensor.untyped_storage().data_ptr()


@cache
def stored_by_forward(kind: type) -> frozenset[str]:
    """The attributes of itself that a module's forward, or what it calls of its own, may assign to; for PyTorch's own
    modules none.
    """
    if kind.__module__.startswith("torch."):
        return frozenset()
    found, seen, ahead = set[str](), set[str](), ["forward"]
    while ahead:
        method = ahead.pop()
        function = inspect.getattr_static(kind, method, None)
        if method in seen or not isinstance(function, FunctionType):
            continue
        seen.add(method)
        for code in codes_inside(function.__code__):
            ahead += code.co_names
            found |= _assigned(list(dis.get_instructions(code)))
    return frozenset(found)


def _assigned(code: Sequence[dis.Instruction]) -> set[str]:
    """The attributes that a code assigns to; `self.mean += x` writes into the tensor, and puts it back in its place."""
    found = set()
    for i, instruction in enumerate(code):
        if instruction.opname == "STORE_ATTR":
            operation = code[i - 2] if i > 1 else instruction
            in_place = operation.opname.startswith("INPLACE_") or operation.argrepr.endswith("=")
            by_matrix = operation.opname == "INPLACE_MATRIX_MULTIPLY" or operation.argrepr == "@="
            if not in_place or by_matrix or operation.opname == "COMPARE_OP":
                found.add(instruction.argval)
    return found
