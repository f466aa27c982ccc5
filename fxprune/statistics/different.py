"""Different: how many inputs of the data differ from each other, up to a number that is enough."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fxprune.module.data import samples_of

FEW = 32
"""Inputs below which what they tell of a network is mostly about themselves."""


def different_inputs(data: Iterable[Any], enough: int = FEW) -> int:
    """The number of different inputs in batches of inputs, or (inputs, targets); batches after `enough` are not read.

    Inputs, with their targets, are told apart by sums over their values; where the tensors of a batch have different
    lengths, all of its inputs count as different.

    >>> import torch
    >>> different_inputs([torch.zeros(64, 3), torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0]])])
    3
    """
    seen = set[Hashable]()
    for i, batch in enumerate(data):
        tensors, count = [t for t in tree_leaves(batch) if isinstance(t, Tensor) and t.dim()], samples_of(batch)
        alike = tensors and all(len(t) == count for t in tensors)
        seen.update(_prints(tensors) if alike else [(i, j) for j in range(count)])
        if len(seen) >= enough:
            break
    return len(seen)


def _prints(tensors: list[Tensor]) -> list[Hashable]:
    """Of each input of a batch, numbers that tell it from others."""
    return [tuple(row) for row in torch.stack([_weighted(t).cpu() for t in tensors], 1).tolist()]


def _weighted(t: Tensor) -> Tensor:
    """Of each row a sum over its values, each with a weight of its own, of shape (rows,), in float64."""
    rows = t.detach().flatten(1) if t.dim() > 1 else t.detach()[:, None]
    weights = torch.arange(1, rows.shape[1] + 1, dtype=torch.float64, device=rows.device).sqrt()
    return (rows.abs() if rows.is_complex() else rows).double() @ weights
