"""Centred second moments of a layer's patches and targets, summed in float64 as the rows stream by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fxprune.errors import InputError
from fxprune.statistics.moments import merged


@dataclass
class Gram:
    """S = Σ (x - μx)(x - μx)ᵀ, R = Σ (x - μx)(y - μy)ᵀ and Σ (y - μy)² over all rows seen, by convolution group.

    Each block of rows is centred and then merged with the sums before it, so that a large mean costs no digits.
    Memory: 8·groups·n·(n + outputs) bytes, whatever the number of rows. Time: rows·groups·n·(n + 2·outputs) operations,
    in the rows' own precision where they are float32 and n is large, since rounding then stays far below what any
    ridge adds.

    Attributes:
        rows: number of rows seen.
        x_mean: of shape (groups, n).
        y_mean: of shape (groups, outputs).
        s: of shape (groups, n, n).
        r: of shape (groups, n, outputs).
        yy: centred sum of squares of each target, of shape (groups, outputs).

    >>> import torch
    >>> x, y = torch.tensor([[[1.0]], [[3.0]]]), torch.tensor([[[5.0]], [[9.0]]])  # two rows, one group
    >>> gram = Gram.of(x, y)
    >>> gram.add(Gram.of(x + 4, y))
    >>> gram.rows, float(gram.x_mean), float(gram.s), float(gram.r), float(gram.yy)
    (4, 4.0, 20.0, 8.0, 16.0)
    """

    rows: int
    x_mean: Tensor
    y_mean: Tensor
    s: Tensor
    r: Tensor
    yy: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor | None = None) -> Gram:
        """Of patches of shape (rows, groups, n) and targets of shape (rows, groups, outputs); None: no targets.

        Raises:
            InputError: the numbers are complex.
        """
        groups, n, outputs = *x.shape[1:], 0 if y is None else y.shape[-1]
        sizes = (groups, n), (groups, outputs), (groups, n, n), (groups, n, outputs), (groups, outputs)
        none = cls(0, *(torch.zeros(size, dtype=torch.float64, device=x.device) for size in sizes))
        none.take(x, y)
        return none

    def take(self, x: Tensor, y: Tensor | None = None) -> None:
        """Take in rows, as `of` has them. S is added to block by block, so that no second one is made for them.

        Raises:
            InputError: the numbers are complex.
        """
        if x.is_complex():
            remedy = "leave data= out, or give a scorer that reads weights only and repair=False"
            raise InputError("layers of complex numbers are neither chosen nor fitted on data", remedy=remedy)
        x = x if x.dtype == torch.float32 and x.shape[-1] >= _WIDE else x.double()
        y = x[..., :0] if y is None else y.double()
        x_mean, y_mean = x.mean(0, dtype=torch.float64), y.mean(0, dtype=torch.float64)
        x, y = (x - x_mean.to(x)).transpose(0, 1), (y - y_mean.to(y)).transpose(0, 1)  # (groups, rows, ...)
        _add_squares(self.s, x)
        self.r += x.mT @ y.to(x)
        self.yy += y.square().sum(1)
        self._merge(x.shape[1], x_mean, y_mean)

    def part(self, entries: Tensor) -> Gram:
        """The same of some entries of each patch, of shape (groups, entries)."""
        groups = torch.arange(len(entries), device=entries.device)[:, None]
        s = self.s[groups[..., None], entries[:, :, None], entries[:, None]]
        return Gram(self.rows, self.x_mean[groups, entries], self.y_mean, s, self.r[groups, entries], self.yy)

    def towards(self, weights: Tensor) -> Gram:
        """The same with Y = W X as the targets, for W of shape (groups, outputs, n)."""
        r = self.s @ weights.mT
        return Gram(
            self.rows, self.x_mean, (weights @ self.x_mean[..., None])[..., 0], self.s, r, (weights.mT * r).sum(1)
        )

    def mixed(self, mix: Tensor) -> Gram:
        """The same with mixtures Mᵀ Y as the targets, for M of shape (outputs, mixtures), without their squares."""
        y_mean = self.y_mean @ mix.to(self.r)
        return Gram(self.rows, self.x_mean, y_mean, self.s, self.r @ mix.to(self.r), torch.zeros_like(y_mean))

    def float(self) -> Gram:
        """The same in float32, for what only judges."""
        return Gram(self.rows, *(t.float() for t in (self.x_mean, self.y_mean, self.s, self.r, self.yy)))

    def copy(self) -> Gram:
        return Gram(self.rows, *(t.clone() for t in (self.x_mean, self.y_mean, self.s, self.r, self.yy)))

    def add(self, other: Gram) -> None:
        """Take in the rows of another."""
        self.s += other.s
        self.r += other.r
        self.yy += other.yy
        self._merge(other.rows, other.x_mean, other.y_mean)

    def _merge(self, rows: int, x_mean: Tensor, y_mean: Tensor) -> None:
        """What the distance of two means adds to the sums of both sets of rows, and the mean of both."""
        dx, dy = x_mean - self.x_mean, y_mean - self.y_mean
        self.rows, part, weight = merged(self.rows, rows)
        if weight:
            self.s.addcmul_(weight * dx[:, :, None], dx[:, None])
            self.r.addcmul_(weight * dx[:, :, None], dy[:, None])
            self.yy += weight * dy.square()
        self.x_mean = self.x_mean + part * dx
        self.y_mean = self.y_mean + part * dy


_WIDE = 256
"""Entries of a patch from which products are taken in float32; smaller ones cost little in float64."""
_BLOCK = 256
"""Rows of xᵀx that are computed together; blocks below the diagonal follow from those above."""


def _add_squares(s: Tensor, x: Tensor) -> None:
    """Add xᵀx to `s`, for x of shape (groups, rows, n)."""
    if x.shape[-1] <= _BLOCK:
        s += x.mT @ x
        return
    for i in range(0, x.shape[-1], _BLOCK):
        block = x[..., i : i + _BLOCK].mT @ x[..., i:]
        s[:, i : i + _BLOCK, i:] += block
        s[:, i + _BLOCK :, i : i + _BLOCK] += block[..., _BLOCK:].mT
