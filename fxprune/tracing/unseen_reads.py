"""Values of real tensors that the code reads past PyTorch's dispatcher, as `tolist` does: no recorded call shows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from fxprune.tracing.functions import LIKE

# What they tell of a tensor are no values.
_SHAPES = frozenset(
    (
        *("__get__", "__set__", "__hash__", "__len__", "size", "dim", "ndimension", "numel", "nelement", "stride"),
        *("storage_offset", "element_size", "get_device", "is_contiguous", "is_floating_point", "is_complex"),
        *("is_signed", "type_as", *LIKE),
    )
)


def tensors_in(values: Any) -> Iterator[Tensor]:
    return (t for t in tree_leaves(values) if isinstance(t, Tensor))


def counted(nodes: Iterable[Any]) -> list[tuple[fx.Node, int]]:
    """The calls that gave a function's arguments, and how many calls use each so far."""
    return [(node, len(node.users)) for node in nodes if isinstance(node, fx.Node)]


def note(name: str, used: Iterable[tuple[fx.Node, int]], result: Any) -> None:
    """A function that gives no tensor, or whose recorded calls do not use a tensor, has read its values itself."""
    if name in _SHAPES and type(result) is not dict:  # an array interface is an attribute
        return
    told = next(tensors_in(result), None) is None
    for node, count in used:
        if told or len(node.users) == count:
            node.meta["read"] = True
