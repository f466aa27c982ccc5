"""Centred moments of two sets of rows, merged without a loss of digits."""

from __future__ import annotations

from typing import NamedTuple


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
