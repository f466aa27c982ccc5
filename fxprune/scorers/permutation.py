"""Weight-permutation importance in closed form: the exact expectation, from one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from fxprune.analysis import Group
from fxprune.errors import InputError
from fxprune.groups import Groups
from fxprune.observe import Contraction, observe
from fxprune.scorers.base import Scores, per_channel, share

Change = Literal["permute", "reinit", "zero", "absorb"]


@dataclass(frozen=True)
class WeightPermutation:
    """How much a layer's output changes when the weights of one of its kernels are put in random order.

    For kernel w with n weights and patches x_p, with w̄ = mean(w), c = w - w̄·1, S_p = Σ x_p and
    T = Σ_p (‖x_p‖² - S_p²/n), the expectation over all permutations P is

        E Σ_p (w·x_p - Pw·x_p)² = Σ_p (c·x_p)² + ‖c‖²·T/(n - 1),    c·x_p = y_p - b - w̄·S_p,

    per sample. S_p and ‖x_p‖² are one-channel box filters of the layer's input, so that all channels of all layers cost
    one forward pass. Where a group has several producers, a channel's score is the mean of its shares of each.

    Source: weight-permutation importance after Huang (master's thesis, USTB 2023); the closed form is fxprune's own.

    Attributes:
        change: what happens to the kernel: "permute"; "reinit", drawn anew from PyTorch's default distribution
            (variance 1/(3n)); "zero"; "absorb", zeroed with its mean response absorbed by the next layer.
        seed: of the standard normal inputs that are used when no data is given.

    Raises:
        InputError: an unknown change, no batch in `data`, or a group that no convolution or linear layer makes.
    """

    change: Change = "permute"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.change not in get_args(Change):
            raise InputError(
                "unknown change of a kernel", seen=self.change, remedy=f"one of {', '.join(get_args(Change))}"
            )

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        sums: dict[str, Tensor] = {}
        means: dict[str, list[tuple[Tensor, float]]] = {}

        def add(seen: Contraction) -> None:
            total, mean = _CHANGES[self.change](_Response(seen))
            sums[seen.name] = sums.get(seen.name, 0) + total
            if mean is not None:
                means.setdefault(seen.name, []).append(mean)

        wanted = {s.tensor for g in groups for s in g.producers}
        samples = observe(model, groups.graph, data, wanted, add, self.seed)
        for name, parts in means.items():
            first, count = torch.stack([m for m, _ in parts]).sum(0), sum(n for _, n in parts)
            sums[name] = sums[name] - first.square() / count
        return {g.name: self._score(g, {k: v / samples for k, v in sums.items()}) for g in groups}

    @staticmethod
    def _score(group: Group, sums: dict[str, Tensor]) -> Tensor:
        # A grouped transposed convolution has one weight position for the same channel of every group.
        parts = [
            share(per_channel(sums[s.tensor].view(-1, s.length).sum(0), s, group.size))
            for s in group.producers
            if s.tensor in sums
        ]
        if not parts:
            raise InputError(
                "no convolution or linear layer makes these channels",
                where=f"group {group.name}",
                remedy="protect the group or score it by its weights (L2Norm)",
            )
        return torch.stack(parts).mean(0)


class _Response:
    """A layer's kernels and its response without bias: kernels (g, o, n), response (batch, g, o, positions)."""

    def __init__(self, seen: Contraction) -> None:
        self.kernels = seen.kernels().double()
        self.n = self.kernels.shape[-1]
        groups, per_group = self.kernels.shape[:2]
        y = seen.output if seen.bias is None else seen.output - _beside(seen.bias, seen.output.dim())
        self.y = y.reshape(y.shape[0], groups, per_group, -1)
        self.seen = seen

    def box(self, power: int) -> Tensor:
        """Sum over each patch of the input's elements to a power, of shape (batch, g, 1, positions)."""
        s = self.seen.box(power)
        return s.reshape(s.shape[0], s.shape[1], 1, -1)

    def squares(self) -> Tensor:
        return _squares(self.y)


def _beside(bias: Tensor, dims: int) -> Tensor:
    return bias.reshape(1, -1, *[1] * (dims - 2))


def _squares(y: Tensor) -> Tensor:
    """Σ y² over batch and positions, of shape (channels,)."""
    return y.square().sum((0, 3), dtype=torch.float64).flatten()


Total = tuple[Tensor, "tuple[Tensor, float] | None"]


def _permute(r: _Response) -> Total:
    if r.n == 1:
        return torch.zeros_like(r.squares()), None
    mean = r.kernels.mean(-1)
    centred = (r.kernels - mean[..., None]).square().sum(-1)
    s, q = r.box(1), r.box(2)
    spread = (q.double() - s.double().square() / r.n).sum((0, 2, 3))
    response = _squares(r.y - mean[None, :, :, None].to(r.y.dtype) * s)
    return response + (centred * spread[:, None] / (r.n - 1)).flatten(), None


def _reinit(r: _Response) -> Total:
    energy = r.box(2).sum((0, 2, 3), dtype=torch.float64)
    return r.squares() + (energy[:, None] / (3 * r.n)).expand(r.kernels.shape[:2]).flatten(), None


def _zero(r: _Response) -> Total:
    return r.squares(), None


def _absorb(r: _Response) -> Total:
    """The sum of squares and the sum; the variance follows when all batches are in."""
    return r.squares(), (r.y.sum((0, 3), dtype=torch.float64).flatten(), float(r.y.shape[0] * r.y.shape[3]))


_CHANGES: dict[str, Callable[[_Response], Total]] = {
    "permute": _permute,
    "reinit": _reinit,
    "zero": _zero,
    "absorb": _absorb,
}
