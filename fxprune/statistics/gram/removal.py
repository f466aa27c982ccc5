"""Removal: S⁻¹ and the weights of a layer while its input channels go, one block of entries after another.

With P = S⁻¹ and Wᵀ as rows, the removal of the entries E takes P_:E (P_EE)⁻¹ P_E: from P and P_:E (P_EE)⁻¹ W_E from W.
Each would read and write all of both. They are therefore noted as R = P_E:, F = (P_EE)⁻¹ R and Q = (P_EE)⁻¹ W_E, and
taken off together for `DELAYED` entries; until then P is P - RᵀF and W is W - RᵀQ, of which few rows are looked at.
What scores need of every channel, its blocks of P and of WWᵀ, is kept up to date:

    (WWᵀ)_ii  ←  (WWᵀ)_ii - R_iᵀ V_i - V_iᵀ R_i     with V = Q Wᵀ - ½ QQᵀ R.

In float32 that loses digits towards the end, and W is changed at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

DELAYED = 64
"""Entries whose removal is noted at most before it is carried out."""
_PART = 16
"""Of narrow kernels, this part of the entries."""
_SPARE = 0.75
"""Part of the entries below which the rows and columns of the others are given back."""


class _Noted(NamedTuple):
    """R, F and Q of removals, of shapes (groups, entries, n), the same, and (groups, entries, outputs)."""

    r: Tensor
    f: Tensor
    q: Tensor

    def then(self, other: _Noted) -> _Noted:
        return _Noted(*(torch.cat(both, 1) for both in zip(self, other, strict=True)))


@dataclass(eq=False)
class Removal:
    """S⁻¹ and Wᵀ of one layer after removals, for the channels that are left.

    Attributes:
        inverse: P without what is noted, of shape (groups, n, n).
        weights: W without what is noted, of shape (groups, n, outputs).
        entries: of each channel, of shape (groups, channels, size).
        free: the entries of no channel, of shape (groups, n); they stay.
        places: where each entry lies in a patch, of shape (groups, n).
        scale: of the weights.
        blocks: of P for each channel, of shape (groups, channels, size, size).
        squares: of WWᵀ, likewise.
        noted: removals that are not carried out yet.
    """

    inverse: Tensor
    weights: Tensor
    entries: Tensor
    free: Tensor
    places: Tensor
    scale: float
    blocks: Tensor = field(init=False)
    squares: Tensor = field(init=False)
    noted: _Noted | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._look()

    @classmethod
    def of(cls, inverse: Tensor, weights: Tensor, entries: Tensor, scale: float) -> Removal:
        """Before all removals; `inverse` is changed in place."""
        free = torch.ones(inverse.shape[:2], dtype=torch.bool, device=inverse.device)
        free.scatter_(1, entries.flatten(1), False)
        places = torch.arange(inverse.shape[1], device=inverse.device).expand(inverse.shape[:2])
        return cls(inverse, weights.to(inverse).contiguous(), entries, free, places, scale)

    def _look(self) -> None:
        """Take the blocks of each channel from P and W."""
        groups = torch.arange(len(self.entries), device=self.entries.device)[:, None, None]
        self.squares = self._squares()
        self.blocks = self.inverse[groups[..., None], self.entries[..., None], self.entries[:, :, None]]

    def _squares(self) -> Tensor:
        """The blocks of WWᵀ, from W."""
        if self.entries.shape[2] == 1:
            norms = torch.linalg.vector_norm(self.weights, dim=2).square()
            return norms.gather(1, self.entries[..., 0])[..., None, None]
        groups = torch.arange(len(self.entries), device=self.entries.device)[:, None, None]
        own = self.weights[groups, self.entries]  # (groups, channels, size, outputs)
        return own @ own.mT

    @property
    def _narrow(self) -> bool:
        """Whether sums of changes would lose digits of WWᵀ: in float32 W is changed at once, and looked at anew."""
        return self.weights.dtype == torch.float32

    def scores(self) -> Tensor:
        """What the removal of each channel adds to the error, of shape (channels,)."""
        if self.entries.shape[2] == 1:
            return (self.squares / self.blocks)[..., 0, 0].sum(0)
        return torch.linalg.solve(self.blocks, self.squares).diagonal(dim1=2, dim2=3).sum((0, 2))

    def part(self, channels: Tensor) -> Removal:
        """A copy for the given channels alone."""
        groups, entries = self._index(channels)
        numbers = torch.arange(entries.shape[1], device=entries.device).view(len(channels), -1)
        own, free = numbers.expand(len(entries), -1, -1), torch.zeros_like(entries, dtype=torch.bool)
        inverse = _at(self._rows(groups, entries), entries)
        return Removal(inverse, self._weights(groups, entries), own, free, self.places.gather(1, entries), self.scale)

    def missing(self, whole: Tensor) -> Tensor:
        """What the weights lack of those before all removals, of the same shape and scale: (groups, n, outputs)."""
        self._carry_out()
        left = torch.where(self._alive()[..., None], self.weights, 0.0)
        return whole.scatter_add(1, self.places[..., None].expand_as(left), -left)

    def remove(self, channels: Tensor, others: Tensor) -> None:
        """Remove channels, of which only the others stay; these are then numbered anew."""
        groups, entries = self._index(channels)
        rows, weights = self._rows(groups, entries), self._weights(groups, entries)
        new = _Noted(rows, *_solved(_at(rows, entries), rows, weights))
        products = None if self._narrow else self._products(new)
        if products is None:
            self.weights.baddbmm_(rows.mT, new.q, alpha=-1)
        stays, both = others.to(entries.device), (self.blocks, self.squares)
        self.entries, self.blocks, self.squares = (t.index_select(1, stays) for t in (self.entries, *both))
        self._update(rows, new.f, products)
        self.noted = new if self.noted is None else self.noted.then(new)
        if self.noted.r.shape[1] >= min(DELAYED, self.inverse.shape[1] // _PART):
            self._carry_out()
            self._look()

    def _products(self, new: _Noted) -> Tensor:
        """V of a removal, of shape (groups, entries, n)."""
        products = new.q @ self.weights.mT
        if self.noted is not None:
            products -= (new.q @ self.noted.q.mT) @ self.noted.r
        return products.sub_((new.q @ new.q.mT) @ new.r, alpha=0.5)

    def _update(self, rows: Tensor, of_inverse: Tensor, products: Tensor | None) -> None:
        """The blocks of the channels that are left."""
        r, f = self._columns(rows), self._columns(of_inverse)
        self.blocks = self.blocks - r.mT @ f
        if products is None:
            self.squares = self._squares()
            return
        cross = r.mT @ self._columns(products)
        self.squares = self.squares - cross - cross.mT

    def _columns(self, rows: Tensor) -> Tensor:
        """The entries of each channel in rows of shape (groups, k, n), of shape (groups, channels, k, size)."""
        size = self.entries.shape[1:]
        index = self.entries.flatten(1)[:, None].expand(-1, rows.shape[1], -1)
        return rows.gather(2, index).unflatten(2, size).transpose(1, 2)

    def _index(self, channels: Tensor) -> tuple[Tensor, Tensor]:
        """Convolution groups, of shape (groups, 1), and the entries of channels, of shape (groups, entries)."""
        groups = torch.arange(len(self.entries), device=self.entries.device)[:, None]
        return groups, self.entries[:, channels.to(self.entries.device)].flatten(1)

    def _rows(self, groups: Tensor, entries: Tensor) -> Tensor:
        """Some rows of P, of shape (groups, entries, n)."""
        if self.noted is None:
            return self.inverse[groups, entries]
        return torch.baddbmm(self.inverse[groups, entries], _at(self.noted.r, entries).mT, self.noted.f, alpha=-1)

    def _weights(self, groups: Tensor, entries: Tensor) -> Tensor:
        """Some rows of W, of shape (groups, entries, outputs)."""
        if self.noted is None or self._narrow:
            return self.weights[groups, entries]
        return torch.baddbmm(self.weights[groups, entries], _at(self.noted.r, entries).mT, self.noted.q, alpha=-1)

    def _alive(self) -> Tensor:
        """The entries that are left, of shape (groups, n); the others hold no meaning."""
        return self.free.scatter(1, self.entries.flatten(1), True)

    def _carry_out(self) -> None:
        """Do what is noted, and give back the memory of what is removed."""
        if self.noted is None:
            return
        r, f, q = self.noted
        alive = self._alive()
        if int(alive[0].sum()) < _SPARE * alive.shape[1]:
            left = alive.nonzero()[:, 1].view(len(alive), -1)
            groups = torch.arange(len(left), device=left.device)[:, None]
            self.inverse = self.inverse[groups[..., None], left[:, :, None], left[:, None]]
            self.weights, self.places = self.weights[groups, left], self.places.gather(1, left)
            self.entries = (alive.cumsum(1) - 1)[groups[..., None], self.entries]
            self.free, r, f = self.free.gather(1, left), _at(r, left), _at(f, left)
        self.inverse.baddbmm_(r.mT, f, alpha=-1)
        if not self._narrow:
            self.weights.baddbmm_(r.mT, q, alpha=-1)
        self.noted = None


def _at(rows: Tensor, entries: Tensor) -> Tensor:
    """The columns of rows of shape (groups, k, n) at entries of shape (groups, m), of shape (groups, k, m)."""
    return rows.gather(2, entries[:, None].expand(-1, rows.shape[1], -1))


def _solved(a: Tensor, *bs: Tensor) -> Sequence[Tensor]:
    """What `a` times it is each `b`; for a single number a division, which takes less time."""
    if a.shape[-1] == 1:
        return [b / a for b in bs]
    return torch.linalg.solve(a, torch.cat(bs, 2)).split([b.shape[2] for b in bs], 2)
