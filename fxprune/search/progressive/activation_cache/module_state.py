"""A module as it is: attributes, tensors, hooks; and whether it still is."""

from __future__ import annotations

import operator
import random
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_CONTAINERS = (dict, list, set, deque, tuple)
_RANDOM = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class State:
    """One module without its children's own states.

    Same means: the very same objects in its attributes and in the containers among them, at any depth, and tensors that
    nobody wrote into. The mode (training or evaluation) is left out.

    Args:
        module: an ordinary module. One that is compiled, has hooks or owns a random generator is never the same: what
            it does cannot be seen, or is more than its output.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.tensors: list[Tensor] = []
        self._contents: list[tuple[Any, list[Any], list[Any]]] = []
        self._empty: list[Any] = []
        self._known = not isinstance(module, torch.jit.ScriptModule) and not any(
            getattr(module, name, None) for name in _HOOKS
        )
        self._names, self._values = list(module.__dict__), list(module.__dict__.values())
        self._mode = self._names.index("training")
        self._look_at(self._values, set())
        self._marks = [mark(t) for t in self.tensors] if self._known else []

    def _look_at(self, values: list[Any], seen: set[int]) -> None:
        for value in values:
            kind = type(value)
            if kind in _SIMPLE:
                continue
            if isinstance(value, _CONTAINERS):
                if not value and kind is not tuple:
                    self._empty.append(value)
                elif id(value) not in seen:
                    seen.add(id(value))
                    keys, contents = _items(value)
                    if kind is not tuple:
                        self._contents.append((value, keys, contents))
                    self._look_at(contents, seen)
            elif isinstance(value, Tensor):
                self.tensors.append(value)
                self._known = self._known and is_plain(value)
            elif isinstance(value, _RANDOM):
                self._known = False

    def same(self) -> bool:
        """Whether the module still is what it was."""
        now = list(self.module.__dict__.values())
        if not self._known or list(self.module.__dict__) != self._names:
            return False
        now[self._mode] = self._values[self._mode]
        return (
            all(map(operator.is_, now, self._values))
            and not any(self._empty)
            and all(_same(*items) for items in self._contents)
            and [mark(t) for t in self.tensors] == self._marks
        )


_SIMPLE = frozenset([bool, int, float, str, type(None), type, torch.dtype, torch.device, torch.Size])


def _items(container: Any) -> tuple[list[Any], list[Any]]:
    """Keys and values."""
    if isinstance(container, dict):
        return list(container), list(container.values())
    return [], list(container)


def _same(container: Any, keys: list[Any], values: list[Any]) -> bool:
    """Whether the very same objects are in a container, in the same order."""
    keys_now, now = _items(container)
    return keys_now == keys and len(now) == len(values) and all(map(operator.is_, now, values))


def is_plain(t: Tensor) -> bool:
    """Whether a tensor is of the ordinary kind: strided, real memory, in-place changes counted."""
    return (
        type(t) in (Tensor, nn.Parameter, nn.Buffer)
        and t.layout is torch.strided
        and not t.is_inference()
        and not t.is_quantized
        and t.device.type != "meta"
        and not t.is_conj()
        and not t.is_neg()
        and t.element_size() <= 8
    )


def mark(t: Tensor) -> tuple[int, int]:
    """What changes when somebody writes into a tensor, or gives it other memory."""
    return t._version, t.data_ptr()


def same_bits(a: Tensor, b: Tensor, sample: bool = False) -> bool:
    """Whether two plain tensors are equal in every bit and in how they lie in memory.

    Args:
        a: one.
        b: the other.
        sample: look at their first rows first, since most likely they differ.
    """
    if a is b:
        return True
    if (a.shape, a.stride(), a.dtype, a.device) != (b.shape, b.stride(), b.dtype, b.device):
        return False
    kind = _INTEGERS[a.element_size()]
    if sample and a.dim() and len(a) > 1 and not torch.equal(a[0].detach().view(kind), b[0].detach().view(kind)):
        return False
    return torch.equal(a.detach().view(kind), b.detach().view(kind))


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def descendants(module: nn.Module) -> Iterator[nn.Module]:
    """The module and all below it, each once."""
    seen: set[int] = set()
    ahead = [module]
    while ahead:
        m = ahead.pop()
        if id(m) not in seen:
            seen.add(id(m))
            yield m
            ahead += [child for child in m._modules.values() if child is not None]
