"""Scripted functions: those of `torch.jit.script` that do nothing with sizes count as functions of PyTorch's.

TorchScript runs past Python, so that what such a function reads of its arguments cannot be seen. Its graph tells: one
that reads no size, takes no branch and gives no call a number of indices, as fused activations do, lets channels pass.
Of others that this process has made, the Python that they were made of runs in their place during a recording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

_KINDS = ("Tensor", "List[Tensor]", "number", "float", "bool", "str")
_VALUES = frozenset((*_KINDS, *(f"Optional[{k}]" for k in _KINDS)))
_DIMS = frozenset(("dim", "dims", "dim0", "dim1", "start_dim", "end_dim", "dtype", "layout", "memory_format"))
_MADE = frozenset(("prim::Constant", "prim::TupleConstruct", "prim::TupleUnpack", "prim::ListConstruct"))


def following(names: Mapping[str, Any]) -> Iterator[tuple[str, Any, Callable[..., Any]]]:
    """The scripted functions among names that can be followed: the name, the function, and what runs in its place."""
    for name, value in list(names.items()):
        if isinstance(value, torch.jit.ScriptFunction) and (other := followed(value)) is not None:
            yield name, value, other


def followed(function: torch.jit.ScriptFunction) -> Callable[..., Any] | None:
    """What runs in the place of a scripted function during a recording; None if nothing can."""
    if _is_blind_to_sizes(function):
        return _seen(function)
    # PyTorch keeps it for its compiler; a function that was loaded from a file has none.
    return getattr(function, "_torchdynamo_inline", None)


def _seen(function: Any) -> Callable[..., Any]:
    def scripted(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    def follow(*args: Any, **kwargs: Any) -> Any:
        tensors = tuple(t for t in (*args, *kwargs.values()) if isinstance(t, Tensor))
        if not has_torch_function(tensors):  # inside another function, or in another thread, where nothing is recorded
            return function(*args, **kwargs)
        return handle_torch_function(scripted, tensors, *args, **kwargs)

    return follow


@cache
def _is_blind_to_sizes(function: Any) -> bool:
    """Whether a function neither reads a size nor holds one, whatever tensors it is given."""
    graph = function.inlined_graph.copy()
    torch._C._jit_pass_constant_propagation(graph)  # `relu6` asks a constant whether it is in place
    try:
        return all(map(_is_blind, graph.nodes()))
    except RuntimeError:  # an operator of somebody's own, whose schema cannot be read
        return False


def _is_blind(node: Any) -> bool:
    if node.kind() in _MADE:
        return True
    if not node.kind().startswith("aten::") or list(node.blocks()):
        return False
    takes = torch._C.parse_schema(node.schema()).arguments
    return all("Tensor" in str(o.type()) for o in node.outputs()) and all(
        a.name in _DIMS or str(a.type) in _VALUES or _is_none(given)
        for a, given in zip(takes, node.inputs(), strict=True)
    )


def _is_none(given: Any) -> bool:
    return str(given.type()) == "NoneType"
