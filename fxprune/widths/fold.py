"""Fold: find the weights that make a tensor, so that they can absorb a scalar applied to it."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from fxprune.plan import Ints

_MOVES = frozenset(
    "view _unsafe_view _reshape_alias permute transpose select slice clone expand unsqueeze squeeze alias contiguous t "
    "unbind split split_with_sizes detach".split()
)
_RESHAPES = frozenset(["view", "_unsafe_view", "_reshape_alias"])


def producing_rows(node: fx.Node) -> list[tuple[str, Ints]]:
    """The weight (and bias) rows whose scaling scales the tensor that `node` makes, and nothing else of the layer.

    Walks back through moves, and through the first factor of matrix products, to the linear layer or convolution.

    Returns:
        (tensor name, positions along its first dim); empty if there is no such layer.
    """
    moves: list[fx.Node] = []
    while (name := _name(node)) in _MOVES or name in ("getitem", "bmm", "mul", "div"):
        if name == "bmm":
            moves.clear()  # scaling the whole first factor scales the product
        elif name in ("mul", "div"):
            if not isinstance(node.args[1], int | float):
                return []
        else:
            moves.append(node)
        node = node.args[0]  # type: ignore[assignment]
    layer = _layer(node)
    if not layer:
        return []
    channel = 1 if name == "convolution" else len(node.meta["shape"]) - 1
    rows = np.unique(_replay(_numbered(node.meta["shape"], channel), moves).numpy())
    return [(tensor, rows.astype(np.int64)) for tensor in layer]


def _name(node: Any) -> str:
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return ""
    return "getitem" if node.target is operator.getitem else node.target._opname  # type: ignore[union-attr]


def _layer(node: fx.Node) -> list[str]:
    """Names of the weight and bias that a linear layer or convolution uses, if nobody else does."""
    name = _name(node)
    sources: list[Any]
    if name == "addmm":
        sources = [node.args[2], node.args[0]]
    elif name == "mm":
        sources = [node.args[1]]
    elif name == "convolution" and not node.args[6]:
        sources = [node.args[1], *([node.args[2]] if node.args[2] is not None else [])]
    else:
        return []
    found = [s.args[0] if _name(s) == "t" else s for s in sources]
    good = all(isinstance(f, fx.Node) and f.op == "get_attr" and len(f.users) == 1 for f in found)
    return [str(f.target) for f in found] if good else []


def _numbered(shape: tuple[int, ...], channel: int) -> Tensor:
    """A tensor whose every element is its index along `channel`."""
    return (
        torch.arange(shape[channel], dtype=torch.int32)
        .view([-1 if i == channel else 1 for i in range(len(shape))])
        .expand(shape)
    )


def _replay(start: Tensor, moves: list[fx.Node]) -> Tensor:
    """Run the recorded moves, from the last found to the first, on numbers."""
    values: Any = start
    for node in reversed(moves):
        name = _name(node)
        if name == "getitem":
            values = values[node.args[1]]
        elif name in _RESHAPES:
            values = values.reshape(node.meta["shape"])
        else:
            values = node.target(values, *node.args[1:], **node.kwargs)  # type: ignore[operator]
    return values
