"""Arguments: the numbers among what the model's code gave to a call of PyTorch's, each with its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fxprune.tracing.functions import SIZED, Takes
from fxprune.tracing.provenance import Attribute, Computed, Dim, Reference, SizedCall

SOURCES = (Dim, Attribute, Computed)
Path = tuple[Any, ...]
Item = tuple[Any, Path]


def value_of(source: Any) -> Any:  # 0 stands for a tensor's number, of which the check tells whether it must follow
    return source.value if isinstance(source, SOURCES) else 0 if isinstance(source, Reference) else source


def is_indexed(call: SizedCall) -> bool:
    return call.name in SIZED and SIZED[call.name].takes is Takes.INDEX


def leaves_of(call: SizedCall) -> Iterator[Item]:
    """The numbers among a call's arguments, with their paths."""
    ahead: list[Item] = [(a, (i,)) for i, a in enumerate(call.args)]
    ahead += [(v, (k,)) for k, v in call.kwargs.items()]
    if is_indexed(call):
        index = call.args[1] if type(call.args[1]) is tuple else (call.args[1],)
        ahead = [(v, (i,)) for i, v in enumerate(index)]
    while ahead:
        value, path = ahead.pop()
        if isinstance(value, slice):
            ahead += [(value.start, (*path, "lower")), (value.stop, (*path, "upper")), (value.step, (*path, "step"))]
        elif type(value) is tuple:
            ahead += [(v, (*path, i - len(value))) for i, v in enumerate(value)]
        else:
            yield value, path


def dims_taken(item: Any, tensors: Mapping[str, Tensor]) -> int:
    """How many dims an item of an index takes; `tensors` are the model's own, by name."""
    if item is None or isinstance(item, bool) or item is Ellipsis:
        return 0
    if not isinstance(item, Reference):
        return 1
    if isinstance(item.node, str):
        tensor = tensors.get(item.node)
        dtype, dims = (tensor.dtype, tensor.dim()) if tensor is not None else (None, 1)
    else:
        dtype, dims = item.node.meta["dtype"], len(item.node.meta["shape"])
    return dims if dtype in (torch.bool, torch.uint8) else 1
