"""From a layer's Gram statistics to its input channels: how the channels' responses go together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fxprune.plan.plan import Slot
from fxprune.statistics.gram.sums import Gram
from fxprune.statistics.moments import merged
from fxprune.statistics.observe import Contraction


def owners(seen: Contraction, slot: Slot, channels: int) -> Tensor:
    """The channel that owns each entry of a layer's patches, of shape (groups, n); `channels` for those of no channel.

    Args:
        seen: a call of the layer.
        slot: where the channels lie in the dim of its weight that reads them.
        channels: their number.
    """
    owner = torch.full((slot.length,), channels, device="cpu")
    owner[torch.from_numpy(slot.positions)] = torch.from_numpy(slot.channels)
    n = seen.kernels().shape[-1]
    grid = owner.view(seen.groups, -1) if slot.length == seen.x.shape[1] else owner.expand(seen.groups, -1)
    return grid.repeat_interleave(n // grid.shape[1], 1).to(seen.x.device)


@dataclass
class Responses:
    """How much each channel contributes to a layer's output: Z_i = X_i W_iᵀ, of shape (rows, outputs) for channel i.

    Memory: 8·channels·(channels + outputs) bytes, whatever the layer's kernel size and the number of rows.

    Attributes:
        rows: number of rows seen.
        mean: the mean of each Z_i, of shape (channels + 1, outputs); the last one is of all other input channels.
        a: A_ij = Σ (Z_i - mean_i)·(Z_j - mean_j), of shape (channels + 1, channels + 1).
    """

    rows: int
    mean: Tensor
    a: Tensor

    @classmethod
    def of(cls, gram: Gram, kernels: Tensor, owner: Tensor, channels: int) -> Responses:
        """A = blocksum((WᵀW) ∘ S): the blocks are the entries of a patch that belong to two channels.

        Args:
            gram: of the layer's patches.
            kernels: W, of shape (groups, outputs, n).
            owner: from `owners`.
            channels: their number.
        """
        w, (groups, n) = kernels.double(), owner.shape
        products = (w.mT @ w) * gram.s
        rows = products.new_zeros(groups, channels + 1, n).scatter_add_(
            1, owner[:, :, None].expand_as(products), products
        )
        a = rows.new_zeros(groups, channels + 1, channels + 1)
        a.scatter_add_(2, owner[:, None].expand_as(rows), rows)
        means = (w * gram.x_mean[:, None]).mT  # (groups, n, outputs)
        mean = means.new_zeros(groups, channels + 1, w.shape[1])
        mean.scatter_add_(1, owner[:, :, None].expand_as(means), means)
        return cls(gram.rows, mean.transpose(0, 1).flatten(1), a.sum(0))

    def add(self, other: Responses) -> None:
        """Take in the rows of another."""
        step = other.mean - self.mean
        self.rows, part, weight = merged(self.rows, other.rows)
        self.a = self.a + other.a + weight * (step @ step.T)
        self.mean = self.mean + part * step

    def raw(self) -> Tensor:
        """Σ Z_i·Z_j without centring, of shape (channels + 1, channels + 1)."""
        return self.a + self.rows * (self.mean @ self.mean.T)
