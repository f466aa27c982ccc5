"""Elimination: which inputs of layers can go at the smallest error, when the weights of all others are fitted anew.

A layer computes Y = W X. With S = Σ (x - μ)(x - μ)ᵀ + diag ρ over its patches, the squared error that remains after a
set R of input channels is removed and the other weights are fitted by least squares is

    E(R) = tr(W_R [(S⁻¹)_RR]⁻¹ W_Rᵀ).

When R is removed one block i at a time, E grows by tr(W_i [(S⁻¹)_ii]⁻¹ W_iᵀ), with W and S⁻¹ as the removals before
left them (Optimal Brain Surgeon, Hassibi and Stork 1993, for blocks of weights).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from fxprune.statistics.gram.removal import Removal
from fxprune.statistics.gram.solve import WIDE, best_ridge, inverse, joined, mixed, rough, stiffness
from fxprune.statistics.gram.sums import Gram

_RIDGES = (1e-2, 0.3, 10.0)
"""The one that is best on held-back rows when half of the channels are removed counts at every width."""
BLOCK = 1024
"""Weights of a kernel for each channel that goes in one step; an update of the whole inverse serves all of them."""


def entries_of(owner: Tensor, channels: int) -> Tensor | None:
    """The entries of a patch that each channel owns, of shape (groups, channels, size).

    None where these are not as many for each channel: some take a part of the outputs with them.

    Args:
        owner: the channel of each entry of a patch, of shape (groups, n); `channels` for those of no channel.
        channels: their number.
    """
    counts = torch.zeros(len(owner), channels + 1, dtype=torch.int64, device=owner.device)
    counts.scatter_add_(1, owner, torch.ones_like(owner))
    size = int(counts[0, 0])
    if size == 0 or not bool((counts[:, :channels] == size).all()):
        return None
    return owner.argsort(dim=1, stable=True)[:, : channels * size].unflatten(1, (channels, size))


@dataclass(frozen=True, eq=False)
class Problem:
    """A layer that reads the channels.

    Attributes:
        s: S of its patches, of shape (groups, n, n), without ρ.
        kernels: W, of shape (groups, outputs, n).
        entries: the entries of a patch that each channel owns, of shape (groups, channels, size).
        ridge: ρ as a part of the stiffness.
        stiffness: of each entry of a patch (see `stiffness`), of shape (groups, n).
        worth: what an error as large as ‖Y - μ‖² counts.
        short: of more than n outputs, kernels V of n outputs with VᵀV = WᵀW, on which alone errors depend.
    """

    s: Tensor
    kernels: Tensor
    entries: Tensor
    ridge: float
    stiffness: Tensor
    worth: float = 1.0
    short: Tensor | None = None

    @classmethod
    def of(cls, gram: Gram, kernels: Tensor, entries: Tensor, ridge: float) -> Problem:
        """The problem of the statistics of a layer's patches; the rest as above."""
        kernels = kernels.double()
        short = torch.linalg.qr(kernels, mode="r").R if kernels.shape[1] > kernels.shape[2] else None
        return cls(gram.s, kernels, entries, ridge, stiffness(gram, kernels), short=short)

    def of_rows(self, gram: Gram) -> Problem:
        """The same on other rows."""
        return replace(self, s=gram.s, stiffness=stiffness(gram, self.kernels))

    def rho(self) -> Tensor:
        """ρ, of shape (groups, n): a channel that is scaled where it is made and read counts as before."""
        return self.ridge * self.stiffness

    def damped(self) -> Tensor:
        """S + diag ρ."""
        return self.s + torch.diag_embed(self.rho())

    def left(self, channels: Tensor) -> Tensor:
        """The entries of a patch that stay when channels go, of shape (groups, entries)."""
        gone = self.entries[:, channels.to(self.entries.device)].flatten(1)
        stays = torch.ones(self.s.shape[:2], dtype=torch.bool, device=gone.device).scatter_(1, gone, False)
        return stays.nonzero()[:, 1].view(len(stays), -1)

    def shortest(self) -> Tensor:
        """Kernels of which errors are those of W, with few outputs."""
        return self.kernels if self.short is None else self.short

    def energy(self) -> float:
        """‖Y - μ‖², summed over rows and outputs."""
        s = self.s.float() if self.s.shape[1] >= WIDE else self.s
        kernels = self.shortest().to(s)
        return float(((kernels @ s) * kernels).sum(dtype=torch.float64))

    def suited(self, parts: Sequence[Gram], gone: Tensor) -> Problem:
        """The same, with the ridge whose fits without some channels do best on rows that they have not seen."""
        entries = self.left(gone)
        groups = torch.arange(len(entries), device=entries.device)[:, None]
        kernels = mixed([], self.kernels)[1]
        start = kernels.mT[groups, entries].mT
        known = [q.towards(kernels.to(q.s)).part(entries) for q in map(rough, parts)]
        return replace(self, ridge=best_ridge(known, start, _RIDGES))

    def inverse(self) -> Tensor:
        """(S + diag ρ)⁻¹; in float32 for wide kernels, where ρ is far above the rounding."""
        n = self.s.shape[1]
        return inverse(self.s, self.rho(), narrow=n >= WIDE and n * 1e-6 <= self.ridge)


def eliminate(problems: Sequence[Problem], channels: int, at_once: int | None = None) -> tuple[Tensor, Tensor]:
    """Remove the channels of a group one after another, each time the one that adds least to the error.

    The error is the sum over layers of E as a part of ‖Y - μ‖². Every prefix of the order is a removed set, and its
    error is exact. Memory: 16·groups·n·(n + min(n, outputs)) bytes a layer, beside S.

    Args:
        problems: the layers that read the channels.
        channels: their number.
        at_once: channels that go with one update of S⁻¹, chosen greedily among twice as many of smallest score;
            None: one for each `BLOCK` weights of the widest kernel, at least one. An update takes 2·k·n² operations
            for each channel with k of the n weights, so that all channels take about n³.

    Returns:
        The channels in the order in which they go, of shape (channels,), and the error after each, of the same shape.
    """
    order, added = _greedy([_start(p) for p in problems], channels, channels, _step(problems, at_once))
    return order, added.cumsum(0)


def _start(problem: Problem) -> Removal:
    """Before all removals, with weights whose error counts as a part of ‖Y - μ‖²."""
    energy = problem.energy()
    scale = (problem.worth / energy) ** 0.5 if energy > 0 else 0.0
    return Removal.of(problem.inverse(), problem.shortest().mT * scale, problem.entries, scale)


def _step(problems: Sequence[Problem], at_once: int | None) -> int:
    """Channels that go at once."""
    return at_once or max(1, max((p.s.shape[1] for p in problems), default=0) // BLOCK)


def _greedy(states: Sequence[Removal], channels: int, count: int, step: int) -> tuple[Tensor, Tensor]:
    """The next `count` channels to go, in their order, and what each adds to the error; the states lose them."""
    left, order, added = torch.arange(channels, device="cpu"), list[Tensor](), list[Tensor]()
    while count:
        chosen, errors = _next(states, min(step, count))
        stays = torch.ones(len(left), dtype=torch.bool, device="cpu").scatter_(0, chosen, False).nonzero()[:, 0]
        for state in states:
            state.remove(chosen, stays)
        order.append(left[chosen])
        added.append(errors)
        left = left[stays]
        count -= len(chosen)
    return torch.cat(order), torch.cat(added)


def _next(states: Sequence[Removal], count: int) -> tuple[Tensor, Tensor]:
    """The next `count` channels and what each adds; of several, those that greedy search finds among twice as many."""
    scores = torch.stack([s.scores().cpu().double() for s in states]).sum(0)
    if count == 1:
        chosen = scores.argmin()[None]
        return chosen, scores[chosen]
    candidates = scores.argsort()[: 2 * count].sort().values
    chosen, added = _greedy([s.part(candidates) for s in states], len(candidates), count, 1)
    return candidates[chosen], added


def held_back(
    parts: Sequence[Sequence[Gram]],
    problems: Sequence[Problem],
    channels: int,
    counts: Sequence[int],
    at_once: int | None = None,
) -> list[float]:
    """The error with so many channels removed, on rows that neither the choice of channels nor the refits have seen.

    An elimination holds the fitted weights at each width, so that these errors take one product with the other rows' S
    each and no fit.

    Args:
        parts: of each layer, statistics of different inputs, at least two; each is judged by what the others choose,
            or the last one alone where a kernel has `WIDE` weights.
        problems: the layers that read the channels.
        channels: their number.
        counts: of channels that go, ascending.
        at_once: as for `eliminate`.
    """
    wide = max(p.s.shape[1] for p in problems) >= WIDE
    folds = range(len(parts[0]))[-1:] if wide else range(len(parts[0]))
    energies = [sum(replace(q, s=p[i].s).energy() for i in folds) or 1.0 for p, q in zip(parts, problems, strict=True)]
    errors = torch.zeros(len(counts), dtype=torch.float64)
    for held in folds:
        rest = [joined([part for i, part in enumerate(p) if i != held]) for p in parts]
        states = [_start(q.of_rows(seen)) for q, seen in zip(problems, rest, strict=True)]
        judges = [
            _Judge(rough(p[held]), seen, state.weights.clone(), q.worth / energy)
            for p, seen, state, q, energy in zip(parts, rest, states, problems, energies, strict=True)
        ]
        for i, (before, count) in enumerate(pairwise([0, *counts])):
            _greedy(states, channels - before, count - before, _step(problems, at_once))
            errors[i] += sum(judge(state) for judge, state in zip(judges, states, strict=True))
    return errors.tolist()


@dataclass(frozen=True, eq=False)
class _Judge:
    """The error of a layer on rows that its fit has not seen.

    Attributes:
        unseen: statistics of these rows.
        seen: of the rows of the fit, whose intercept counts.
        whole: the weights before all removals, as a state has them.
        worth: what a squared error of 1 counts.
    """

    unseen: Gram
    seen: Gram
    whole: Tensor
    worth: float

    def __call__(self, state: Removal) -> float:
        missing = state.missing(self.whole).to(self.unseen.s)
        apart = (self.unseen.x_mean - self.seen.x_mean).to(missing)
        shift = (missing.mT @ apart[..., None]).square().sum()
        error = ((self.unseen.s @ missing) * missing).sum(dtype=torch.float64) + self.unseen.rows * shift
        return float(error / state.scale**2 * self.worth) if state.scale else 0.0
