"""Elimination: which inputs of layers can go at the smallest error, when the weights of all others are fitted anew.

A layer computes Y = W X. With S = Σ (x - μ)(x - μ)ᵀ + ρI over its patches, the squared error that remains after a set R
of input channels is removed and the other weights are fitted by least squares is

    E(R) = tr(W_R [(S⁻¹)_RR]⁻¹ W_Rᵀ).

When R is removed one block i at a time, E grows by tr(W_i [(S⁻¹)_ii]⁻¹ W_iᵀ), with W and S⁻¹ as the removals before
left them (Optimal Brain Surgeon, Hassibi and Stork 1993, for blocks of weights).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fxprune.statistics.gram.solve import joined, unseen_errors
from fxprune.statistics.gram.sums import Gram

_RIDGES = (1e-2, 0.3, 10.0)
"""Of which the one that is best at the middle width counts for errors on held-back rows."""
BLOCK = 1024
"""Weights of a kernel for each channel that goes in one step; an update of the whole inverse serves all of them."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A layer that reads the channels.

    Attributes:
        s: S of its patches, of shape (groups, n, n), without ρ.
        kernels: W, of shape (groups, outputs, n).
        entries: the entries of a patch that each channel owns, of shape (groups, channels, size).
        ridge: ρ as a part of the mean of S's diagonal.
        worth: what an error as large as ‖Y - μ‖² counts.
    """

    s: Tensor
    kernels: Tensor
    entries: Tensor
    ridge: float
    worth: float = 1.0

    @classmethod
    def of(cls, gram: Gram, kernels: Tensor, owner: Tensor, channels: int, ridge: float) -> Problem | None:
        """The problem of a layer's statistics; None where a channel takes a part of the outputs with it.

        Args:
            gram: of the layer's patches.
            kernels: its weights, of shape (groups, outputs, n).
            owner: the channel of each entry of a patch, of shape (groups, n); `channels` for those of no channel.
            channels: their number.
            ridge: as above.
        """
        counts = torch.zeros(len(owner), channels + 1, dtype=torch.int64, device=owner.device)
        counts.scatter_add_(1, owner, torch.ones_like(owner))
        size = int(counts[0, 0])
        if size == 0 or not bool((counts[:, :channels] == size).all()):
            return None
        entries = owner.argsort(dim=1, stable=True)[:, : channels * size].unflatten(1, (channels, size))
        return cls(gram.s, kernels.double(), entries, ridge)

    def damped(self) -> Tensor:
        """S + ρI. Where inputs never vary nothing is lost, and any positive ρ keeps the inverse finite."""
        rho = self.ridge * self.s.diagonal(dim1=1, dim2=2).mean(1)
        rho = torch.where(rho > 0, rho, 1.0)
        return self.s + torch.diag_embed(rho[:, None].expand(self.s.shape[:2]))

    def left(self, channels: Tensor) -> Tensor:
        """The entries of a patch that stay when channels go, of shape (groups, entries)."""
        gone = self.entries[:, channels.to(self.entries.device)].flatten(1)
        stays = torch.ones(self.s.shape[:2], dtype=torch.bool, device=gone.device).scatter_(1, gone, False)
        return stays.nonzero()[:, 1].view(len(stays), -1)

    def energy(self) -> float:
        """‖Y - μ‖², summed over rows and outputs."""
        return float(((self.kernels @ self.s) * self.kernels).sum())


def held_back(parts: Sequence[Gram], problem: Problem, orders: Sequence[Tensor], counts: Sequence[int]) -> list[float]:
    """The error when so many channels are gone, on rows that neither the choice of channels nor the refits have seen.

    Args:
        parts: statistics of different inputs, at least two; each is judged by fits to the others.
        problem: the layer.
        orders: for each part, channels in the order in which they go, chosen by the others.
        counts: of channels that go.
    """
    known = [p.towards(problem.kernels) for p in parts]
    rest = [joined([p for p in known if p is not held]) for held in known]
    total = sum(float(p.yy.sum()) for p in known) or 1.0

    def errors(count: int, ridges: Sequence[float]) -> list[float]:
        """For each ridge, over all parts."""
        each = []
        for seen, unseen, order in zip(rest, known, orders, strict=True):
            entries = problem.left(order[:count])
            groups = torch.arange(len(entries), device=entries.device)[:, None]
            start = problem.kernels.mT[groups, entries].mT
            each.append(unseen_errors(seen.part(entries), unseen.part(entries), start, ridges))
        return [problem.worth * sum(e) / total for e in zip(*each, strict=True)]

    middle = counts[len(counts) // 2 :][:1]
    tried = [errors(count, _RIDGES) for count in middle]
    best = [_RIDGES[e.index(min(e))] for e in tried]
    return [min(*tried[0]) if [count] == list(middle) else errors(count, best)[0] for count in counts]


@dataclass(eq=False)
class _State:
    """S⁻¹ and Wᵀ of one layer after removals, for the channels that are left.

    Attributes:
        inverse: of shape (groups, n, n).
        weights: of shape (groups, n, outputs), scaled so that their error counts as a part of ‖Y - μ‖².
        entries: of each channel, of shape (groups, channels, size).
        alive: the entries that are left, of shape (groups, n); the others hold no meaning.
    """

    inverse: Tensor
    weights: Tensor
    entries: Tensor
    alive: Tensor

    @classmethod
    def of(cls, problem: Problem) -> _State:
        energy = problem.energy()
        scale = (problem.worth / energy) ** 0.5 if energy > 0 else 0.0
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(problem.damped()))
        alive = torch.ones(inverse.shape[:2], dtype=torch.bool, device=inverse.device)
        return cls(inverse, problem.kernels.mT * scale, problem.entries, alive)

    def _index(self, channels: Tensor) -> tuple[Tensor, Tensor]:
        """Convolution groups, of shape (groups, 1), and the entries of channels, of shape (groups, entries)."""
        groups = torch.arange(len(self.entries), device=self.entries.device)[:, None]
        return groups, self.entries[:, channels.to(self.entries.device)].flatten(1)

    def scores(self) -> Tensor:
        """What the removal of each channel adds to the error, of shape (channels,)."""
        groups = torch.arange(len(self.entries), device=self.entries.device)[:, None, None]
        own = self.weights[groups, self.entries]  # (groups, channels, size, outputs)
        blocks = self.inverse[groups[..., None], self.entries[..., None], self.entries[:, :, None]]
        if blocks.shape[-1] == 1:
            return (own.square().sum((2, 3)) / blocks[..., 0, 0]).sum(0)
        return torch.linalg.solve(blocks, own @ own.mT).diagonal(dim1=2, dim2=3).sum((0, 2))

    def part(self, channels: Tensor) -> _State:
        """A copy for the given channels alone."""
        groups, entries = self._index(channels)
        inverse = self.inverse[groups[..., None], entries[:, :, None], entries[:, None]]
        numbers = torch.arange(entries.shape[1], device=entries.device).view(len(channels), -1)
        alive = torch.ones_like(entries, dtype=torch.bool)
        return _State(inverse, self.weights[groups, entries], numbers.expand(len(entries), -1, -1), alive)

    def remove(self, channels: Tensor) -> None:
        """Remove channels; the numbers of the later ones move up."""
        groups, entries = self._index(channels)
        rows = self.inverse[groups, entries]  # (groups, removed, n)
        own = torch.gather(rows, 2, entries[:, None].expand(-1, entries.shape[1], -1))
        solved = torch.linalg.solve(own, torch.cat([rows, self.weights[groups, entries]], 2))
        self.weights.baddbmm_(rows.mT, solved[..., rows.shape[2] :], alpha=-1)
        self.inverse.baddbmm_(rows.mT, solved[..., : rows.shape[2]], alpha=-1)
        self.alive[groups, entries] = False
        stays = torch.ones(self.entries.shape[1], dtype=torch.bool, device=entries.device)
        stays[channels.to(entries.device)] = False
        self.entries = self.entries[:, stays]
        if 4 * int(self.alive[0].sum()) < 3 * self.alive.shape[1]:
            self._compact()

    def _compact(self) -> None:
        """Give back the memory of what is removed."""
        left = self.alive.nonzero()[:, 1].view(len(self.alive), -1)
        groups = torch.arange(len(left), device=left.device)[:, None]
        self.inverse = self.inverse[groups[..., None], left[:, :, None], left[:, None]]
        self.weights = self.weights[groups, left]
        moved = (self.alive.cumsum(1) - 1)[groups[..., None], self.entries]
        self.entries, self.alive = moved, torch.ones_like(left, dtype=torch.bool)


def eliminate(problems: Sequence[Problem], channels: int, at_once: int | None = None) -> tuple[Tensor, Tensor]:
    """Remove the channels of a group one after another, each time the one that adds least to the error.

    The error is the sum over layers of E as a part of ‖Y - μ‖². Every prefix of the order is a removed set, and its
    error is exact. Memory: 16·groups·n·(n + outputs) bytes a layer, beside S.

    Args:
        problems: the layers that read the channels.
        channels: their number.
        at_once: channels that go with one update of S⁻¹, chosen greedily among twice as many of smallest score;
            None: one for each `BLOCK` weights of the widest kernel, at least one. An update takes 2·k·n² operations
            for each channel with k of the n weights, so that all channels take about n³.

    Returns:
        The channels in the order in which they go, of shape (channels,), and the error after each, of the same shape.
    """
    widest = max((p.s.shape[1] for p in problems), default=0)
    order, added = _greedy([_State.of(p) for p in problems], channels, channels, at_once or max(1, widest // BLOCK))
    return order, added.cumsum(0)


def _greedy(states: Sequence[_State], channels: int, count: int, step: int) -> tuple[Tensor, Tensor]:
    """The next `count` channels to go, in their order, and what each adds to the error; the states lose them."""
    left, order, added = torch.arange(channels, device="cpu"), list[Tensor](), list[Tensor]()
    while count:
        chosen, errors = _next(states, min(step, count))
        for state in states:
            state.remove(chosen)
        order.append(left[chosen])
        added.append(errors)
        left = left[~torch.isin(left, left[chosen])]
        count -= len(chosen)
    return torch.cat(order), torch.cat(added)


def _next(states: Sequence[_State], count: int) -> tuple[Tensor, Tensor]:
    """The next `count` channels and what each adds; of several, those that greedy search finds among twice as many."""
    scores = torch.stack([s.scores().cpu() for s in states]).sum(0)
    if count == 1:
        chosen = scores.argmin()[None]
        return chosen, scores[chosen]
    candidates = scores.argsort()[: 2 * count].sort().values
    chosen, added = _greedy([s.part(candidates) for s in states], len(candidates), count, 1)
    return candidates[chosen], added
