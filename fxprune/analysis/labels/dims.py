"""Dims: what the dims of tensors carry, and what is noted about them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from torch import fx

Labels: TypeAlias = npt.NDArray[np.int64]


Shape: TypeAlias = tuple[int, ...]


UNREGISTERED = "a parameter of no module, such as one of a layer in a plain list"
ELSEWHERE = "a parameter or buffer that the code takes from a list, an object, a class or a global that holds it too"
OVERLAPS = "a view of memory that another tensor of the model holds, too: "
AS_BUFFER = "; a buffer in its place could be cut"  # ends the reasons of floating-point tensors that the code makes


@dataclass(frozen=True)
class Fixed:
    """A dim whose every index must stay; `reason` says why, for the report."""

    reason: str


MODEL_INPUT, SPATIAL = Fixed("model input"), Fixed("spatial")  # what the inputs are as long as


@dataclass(frozen=True, eq=False)
class Loose:
    """One axis of a grid of labels that only moves: a shuffle splits a dim into a grid, turns it and merges it again.

    Rows of such a grid keep equally many indices, but not the same ones (see `fxprune.analysis.grouping.balance`).

    Attributes:
        flat: labels of the whole grid.
        sizes: length of each axis.
        axis: this one.
        node: the name of the call that split the dim.
    """

    flat: Labels
    sizes: Shape
    axis: int
    node: str

    @property
    def rows(self) -> int | None:
        """Of the last axis, which shrinks: among how many rows the grid's channels are divided; None of the others."""
        return math.prod(self.sizes[:-1]) if self.axis == len(self.sizes) - 1 else None


class NotLooseError(Exception):
    """More than a move reads a grid that was taken for loose; the argument is the name of the call that split it."""


Dim: TypeAlias = "Labels | Fixed | Loose | None"


def free_where_one(dims: Iterable[Dim], shape: Shape) -> list[Dim]:
    """The dims of a tensor of that shape; those of length 1 constrain nothing."""
    return [d if n > 1 else None for d, n in zip(dims, shape, strict=True)]


@dataclass(frozen=True, eq=False)
class Factoring:
    """A labelled dim seen as a grid: flat index ↔ one index per factor, row-major.

    The kept set must stay a rectangle of the grid, so one factor may shrink and the others are fixed.

    Attributes:
        flat: labels of the flat dim, of shape (prod(sizes),).
        sizes: length of each factor.
        factors: labels of each factor, or why it is fixed.
        node: the call that needs the grid.
        split: whether a reshape splits the flat dim, so that the caller may choose (heads or their width).
    """

    flat: Labels
    sizes: Shape
    factors: tuple[Dim, ...]
    node: fx.Node
    split: bool = False

    def labels_of(self, k: int) -> Labels:
        """Those of factor `k`, which is not fixed."""
        return np.asarray(self.factors[k])


@dataclass(frozen=True, eq=False)
class WidthUse:
    """An int that holds the length of a labelled dim: an attribute of a module (`groups` of a convolution), or a
    literal in its code (see `fxprune.literals`).
    """

    module: str
    attribute: str
    labels: Labels


@dataclass(frozen=True, eq=False)
class Fix:
    """All of `labels` must stay; the node is None where a boundary of the model is the reason."""

    labels: Labels
    reason: str
    node: fx.Node | None
