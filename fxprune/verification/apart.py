"""Apart: a pruned model computes with tensors of its own, and none of the model that it was cut from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fxprune.errors import InputError
from fxprune.module.dispatch import DispatchMode
from fxprune.module.isolation import call, cloned, isolated
from fxprune.tracing.trace import Graph


def check_apart(graph: Graph, small: nn.Module) -> None:
    """Refuse a model whose code reads its own tensors in a copy as well: from a global, or an attribute of a class.

    Only where the recording has met tensors in other places than their modules does the copy run for that.

    Raises:
        InputError: it does.
    """
    names = {n.meta["elsewhere"] for n in graph.fx.nodes if "elsewhere" in n.meta}
    original = {memory: name for name in names if (memory := _memory(graph.tensors[name]))}
    if not original:
        return
    with isolated(small, keep_buffers=True) as work, _Reads(original) as reads:
        call(work, cloned(graph.inputs))
    if reads.found:
        raise InputError(
            "a copy of the model computes with tensors of the model itself",
            where=type(graph.model).__name__,
            seen=", ".join(sorted(reads.found)[:8]),
            remedy="hold layers in attributes of modules: a global, an attribute of a class or an object that cannot "
            "be copied leads to the original's",
        )


class _Reads(DispatchMode):
    """Notes which of the given tensors calls read."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self._names, self.found = names, set[str]()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = (t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor))
        self.found |= {self._names[m] for t in given if (m := _memory(t)) in self._names}
        return op(*args, **(kwargs or {}))


def _memory(tensor: Tensor) -> int:
    """Where a tensor's numbers lie; 0 where it has none of its own, as an empty, a sparse and a meta tensor."""
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided and not tensor.is_meta else 0
