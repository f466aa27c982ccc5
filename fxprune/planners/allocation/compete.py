"""Competition between groups: scores on one scale, and who competes with whom."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from fxprune.analysis.grouping.components import Group
from fxprune.errors import check_kind

Normalise = Callable[[Tensor], Tensor]
"""Scores of one group, of shape (channels,), to scores that are comparable between groups, of the same shape."""
Pool = Callable[[Group], Hashable]
"""The key of the pool that a group competes in."""


def relative(scores: Tensor) -> Tensor:
    """Scores in units of the group's mean magnitude: s_i / mean_j |s_j|; ones where all are zero.

    >>> relative(torch.tensor([1.0, 3.0]))
    tensor([0.5000, 1.5000], dtype=torch.float64)
    """
    values = as_they_are(scores)
    scale = values.abs().mean()
    return values / scale if scale > 0 else torch.ones_like(values)


def as_they_are(scores: Tensor) -> Tensor:
    """Scores that are comparable between groups already."""
    check_kind("what is given as scores", scores, Tensor, "give the scores of one group, a tensor")
    return scores.detach().double()


def everyone(group: Group) -> Hashable:  # noqa: ARG001, the contract of a pool
    """All groups compete with each other."""
    return ()


def same_pattern(group: Group) -> Hashable:
    """Groups compete with those that are built alike: the same slots in the same order, whatever their width.

    The first convolutions of blocks that are built alike form one pool, the residual streams others.
    Source: Isomorphic Pruning (Fang et al., ECCV 2024).
    """
    check_kind("the group", group, Group, "give one of the groups of fxprune.find_groups")
    return tuple((s.role, s.dim, len(s.positions) // group.size) for s in group.slots)


def same_shape(group: Group) -> Hashable:
    """Groups compete with those that are built alike and have as many channels."""
    pattern = same_pattern(group)
    return (group.size, pattern)
