"""Training runs: whether a model does more in training mode than in evaluation mode, beside noise."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Iterator
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.module.constants import codes_inside
from fxprune.module.tensors import walk


def asks_for_mode(model: nn.Module) -> bool:
    """Whether code of the model that is not PyTorch's names a module's attribute `training`; torchvision's is known.

    So does that of functions which it calls by name.
    """
    return code_asks_for_mode({type(module) for _, module in walk(model)})


def code_asks_for_mode(types: Iterable[type]) -> bool:
    """The same for the code of some classes."""
    kinds = {kind for each in types for kind in each.__mro__}
    functions = _with_called(function for kind in filter(_is_foreign, kinds) for function in _functions(kind))
    return any("training" in code.co_names for function in functions for code in codes_inside(function.__code__))


# Beside auxiliary heads, whose parameters tell, these do nothing in training mode but drop and normalise: all 121
# networks of torchvision were pruned and trained (tools/coverage.py).
_KNOWN = ("torch.", "torchvision.")


def _is_foreign(kind: type) -> bool:
    return kind is not object and not kind.__module__.startswith(_KNOWN)


def _functions(kind: type) -> Iterator[FunctionType]:
    """A class's functions."""
    for value in vars(kind).values():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        function = inspect.unwrap(function) if callable(function) else None
        if isinstance(function, FunctionType):
            yield function


def _with_called(functions: Iterable[FunctionType]) -> set[FunctionType]:
    """Functions, and those that they name: of their modules, or imported by these; PyTorch's are known."""
    found, ahead = set[FunctionType](), list(functions)
    while ahead:
        function = ahead.pop()
        if function in found:
            continue
        found.add(function)
        names = {name for code in codes_inside(function.__code__) for name in code.co_names}
        named = (function.__globals__.get(name) for name in names)
        ahead += [f for f in named if isinstance(f, FunctionType) and not (f.__module__ or "").startswith(_KNOWN)]
    return found


def may_be_cut(tensor: Tensor) -> bool:
    """Whether a dim of it may be pruned: it is a parameter, or a buffer of numbers along some dim."""
    return isinstance(tensor, nn.Parameter) or (tensor.is_floating_point() and tensor.dim() > 0)


def does_more(training: Iterable[fx.Node], evaluation: Iterable[fx.Node]) -> bool:
    """Whether some calls of a run in training mode are none of those of a run in evaluation mode, but noise."""
    return bool(_calls(training) - _calls(evaluation))


def _calls(nodes: Iterable[fx.Node]) -> Counter[Any]:
    """How often each op gives a tensor of each shape.

    Left out: integers, such as a batch norm's number of batches; random numbers, and what is scaled by those that were
    made like it, as in dropout, or have one number a sample, as where whole layers are dropped.
    """
    found, noise = Counter[Any](), _Noise()
    for node in nodes:
        if node.op == "call_function":
            if (drawn := noise.overwritten(node)) is not None:
                found[drawn.target, _first_shape(drawn)] -= 1
            dtype = _first(node.meta.get("dtype"))
            if not noise.takes(node) and isinstance(dtype, torch.dtype) and dtype.is_floating_point:
                found[node.target, _first_shape(node)] += 1
    return +found


class _Noise:
    """Follows random numbers, and constants, through the calls of a run."""

    def __init__(self) -> None:
        self._like: dict[fx.Node, bool] = {}  # of each tensor of random numbers: whether it was made like another one

    def overwritten(self, node: fx.Node) -> fx.Node | None:
        """What was made in the shape of another tensor, to be filled with random numbers by a call."""
        first = node.args[0] if node.args else None
        if not isinstance(first, fx.Node) or first in self._like or not _is_random(node.target):
            return None
        if node.target._schema.is_mutable and first.op == "call_function":  # type: ignore[union-attr]
            self._like[first] = True
            return first
        return None

    def takes(self, node: fx.Node) -> bool:
        """Whether a call makes noise, or scales a tensor by it."""
        sources = node.all_input_nodes
        signals = [source for source in sources if source not in self._like]
        if not signals:
            self._like[node] = any(self._like[source] for source in sources)
            return True
        others = [source for source in sources if source in self._like]
        scales = len(signals) == len(others) == 1 and _first_shape(node) == _first_shape(signals[0])
        return _is_random(node.target) or (scales and (self._like[others[0]] or _is_one_a_sample(others[0])))


def _is_random(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags


def _is_one_a_sample(node: fx.Node) -> bool:
    return all(n == 1 for n in _first_shape(node)[1:])


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) and value else value


def _first_shape(node: fx.Node) -> tuple[int, ...]:
    """Of several results that of the first."""
    shape: Any = node.meta.get("shape", ())
    return shape[0] if shape and isinstance(shape[0], tuple) else shape
