"""Centred moments of two sets of rows, merged without a loss of digits."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Merged(NamedTuple):
    """How moments of two sets of rows become those of both (Chan, Golub and LeVeque 1983).

    With d the second set's mean less the first's: the mean is the first's plus `part`·d, and a sum of squared
    deviations, or of products of deviations, is the sum of both plus `weight`·d² (or `weight`·d dᵀ).

    Attributes:
        rows: of both sets.
        part: n₂ / (n₁ + n₂).
        weight: n₁ n₂ / (n₁ + n₂).

    >>> merged(2, 6)
    Merged(rows=8, part=0.75, weight=1.5)
    """

    rows: int
    part: float
    weight: float


def merged(first: int, second: int) -> Merged:
    """The merge of `first` and `second` rows."""
    rows = first + second
    return Merged(rows, second / rows, first * second / rows)


class Moments:
    """Of rows that come in parts: their number, mean, and sums of squared deviations, in float64.

    >>> import torch
    >>> seen = Moments()
    >>> for rows in ([[1.0], [2.0]], [[6.0]]):
    ...     seen.add(torch.tensor(rows))
    >>> seen.count, seen.mean.item(), seen.squares.item()
    (3, 3.0, 14.0)
    """

    mean: Tensor
    squares: Tensor

    def __init__(self) -> None:
        self.count = 0

    def add(self, rows: Tensor) -> None:
        """Take in rows, of shape (n, ...)."""
        rows = rows.double()
        mean = rows.mean(0)
        squares = (rows - mean).square().sum(0)
        if not self.count:
            self.count, self.mean, self.squares = len(rows), mean, squares
            return
        step = mean - self.mean
        self.count, part, weight = merged(self.count, len(rows))
        self.squares = self.squares + squares + step.square() * weight
        self.mean = self.mean + step * part
