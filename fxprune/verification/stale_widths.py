"""Widths that a model's modules hold beside the forward that was recorded, and that a plan makes stale."""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fxprune.module.attributes import int_of
from fxprune.module.dispatch import DispatchMode
from fxprune.module.isolation import call, cloned, isolated, set_training
from fxprune.module.saved_state import is_of_library
from fxprune.module.tensors import swap_held, swap_tensors, walk
from fxprune.plan.plan import Plan
from fxprune.tracing import meta_kernels
from fxprune.tracing.recorder import all_on_meta, meta_like, resized
from fxprune.tracing.trace import Graph


@dataclass(frozen=True)
class StaleWidth:
    """An int attribute that is left as it was.

    Attributes:
        module: qualified name; "" for the model itself.
        name: of the attribute.
        value: what it holds, before and after pruning.
        widths: what the plan leaves of widths of this value, in the module's own tensors, each number once.
    """

    module: str
    name: str
    value: int
    widths: tuple[int, ...]

    def __str__(self) -> str:
        path = f"{self.module}.{self.name}".lstrip(".")
        stay = " or ".join(map(str, self.widths))
        return f"{path} is not read by this forward: still {self.value}, where {stay} channels stay"


def stale_widths(graph: Graph, plan: Plan) -> tuple[StaleWidth, ...]:
    """Attributes of the model's own classes that equal a width which shrinks, and that the forward does not read.

    Nothing says what they mean: other code may read them (a head that is built later, an export), or they equal the
    width by chance. What the recorded forward does read is set by the plan, or is known to be no width.

    Args:
        graph: of the full-size model.
        plan: what stays.
    """
    found = list(_candidates(graph.model, plan))
    if not found:
        return ()
    read = _read(graph, {(s.module, s.name) for s in found})
    return tuple(s for s in found if (s.module, s.name) not in read)


def _candidates(model: nn.Module, plan: Plan) -> Iterator[StaleWidth]:
    shrinks = {
        name: {(plan.shapes[name][dim], len(kept)) for dim, kept in dims.items()} for name, dims in plan.cuts().items()
    }
    for path, module in walk(model):
        if is_of_library(type(module)):
            continue  # PyTorch's own modules are known
        inside = (pairs for name, pairs in shrinks.items() if name.startswith(f"{path}." if path else ""))
        widths = set[tuple[int, int]]().union(*inside)
        for name in vars(module):
            value = int_of(module, name)
            stay = tuple(sorted(after for before, after in widths if before == value))
            if value is not None and stay and name not in plan.attributes.get(path, {}):
                yield StaleWidth(path, name, value, stay)


def _read(graph: Graph, wanted: Set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Which attributes one more forward reads, on the recorded inputs."""
    read: set[tuple[str, str]] = set()
    with isolated(graph.model, keep_buffers=not graph.on_meta, swapped=graph.on_meta) as work:
        inputs = cloned(graph.inputs)
        if graph.on_meta:
            swap_tensors(work, meta_like)
            swap_held(work, lambda name, t: resized(name, t, None))
            inputs = tree_map(lambda t: meta_like("", t) if isinstance(t, Tensor) else t, inputs)
        set_training(work, False)
        names: dict[str, set[str]] = {}
        for place, name in wanted:
            names.setdefault(place, set()).add(name)
        found = {id(module): (path, module) for path, module in walk(work) if path in names}
        kinds: dict[Any, type] = {}  # a class for each module would cost more than the forward
        for path, module in found.values():
            key = (type(module), frozenset(names[path]))
            if key not in kinds:
                kinds[key] = _watching(*key, lambda module, name: read.add((found[id(module)][0], name)))
            try:
                module.__class__ = kinds[key]
            except TypeError:  # its class has another layout in C, as those that derive from ABC first: not known
                read.update((path, name) for name in names[path])
        fast = _FastShapes() if graph.on_meta else nullcontext()
        with suppress(Exception), torch.no_grad(), fast:  # what was read until then counts
            call(work, inputs)
    return read


class _FastShapes(DispatchMode):
    """Calls on meta tensors are answered as in a trace; PyTorch's own answers take ten times as long."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        known = all_on_meta((*args, *kwargs.values()))
        return meta_kernels.answer(op, args, kwargs) if known else op(*args, **kwargs)


def _watching(kind: type, names: Set[str], note: Any) -> type:
    """A subclass that tells which of its instances' attributes are read."""

    def watched(name: str) -> property:
        def value(self: Any) -> Any:
            note(self, name)
            return self.__dict__[name]

        return property(value, lambda self, new: self.__dict__.__setitem__(name, new))

    return type(kind.__name__, (_Unannounced, kind), {name: watched(name) for name in names})


class _Unannounced(nn.Module):
    """Classes that note their subclasses (registries) hear nothing of a subclass of this one."""

    def __init_subclass__(cls, **_: Any) -> None: ...
