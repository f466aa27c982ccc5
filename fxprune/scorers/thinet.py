"""Scores by what the next layers lose: ThiNet's greedy choice, and the exact loss after the rest is fitted anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fxprune.analysis.groups import Groups
from fxprune.errors import check_flag, check_number, check_seed
from fxprune.scorers.base import Scores, UnscorableError
from fxprune.statistics.gram.channels import Responses
from fxprune.statistics.gram.collect import GroupReader, Positions, Sampling, readings, responses
from fxprune.statistics.gram.solve import inverse, stiffness
from fxprune.statistics.gram.sums import Gram

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ThiNet:
    """The channels that the next layers miss most when channels are removed greedily, the least missed first.

    Channel i adds Z_i = X_i W_iᵀ to the output of a layer that reads it. Removing a set Q changes the output by
    ‖Σ_Q Z_i‖² = 1ᵀ A_QQ 1 with A_ij = Σ Z_i·Z_j over the data, so one pass gives A and the greedy search reads nothing
    else. A channel's score is the error, as a part of the layer's ‖Y‖², when it is removed together with all that were
    removed before it; layers that read the same group add up. Source: Luo, Wu and Lin, ThiNet, 2017; adding up
    relative errors over several readers is fxprune's own.

    Attributes:
        positions: output positions of each image that count, drawn anew for each image; ThiNet takes 10; None: all.
        centred: let the bias absorb the mean of what is removed, as `fxprune.reconstruct` does; ThiNet does not.
        seed: of the positions, and of standard normal inputs where there is no data.

    Raises:
        InputError: bad settings, unusable data, or a group that no convolution or linear layer reads.

    >>> import torch, fxprune
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 1))
    >>> _ = net[0].weight.data.copy_(torch.eye(3)), net[1].weight.data.copy_(torch.tensor([[2.0, 3.0, -2.0]]))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 3)))
    >>> fxprune.scorers.ThiNet()(net, groups, [torch.tensor([[1.0, 1.0, 1.0]])])["0"].mul(9).round()  # 2 - 2 = 0
    tensor([0., 9., 0.], dtype=torch.float64)
    """

    positions: Positions = 10
    centred: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        Sampling(self.positions, self.seed)
        check_flag("centred", self.centred)
        check_seed(self.seed)

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        found = responses(model, groups, data, Sampling(self.positions, self.seed))
        require_readers(groups, found)
        return {g.name: self._score(found[g.name]) for g in groups}

    def _score(self, readers: list[Responses]) -> Tensor:
        a = joint([r.a if self.centred else r.raw() for r in readers])
        order, errors = removed_greedily(a[:-1, :-1])
        return in_order(order[::-1], errors[::-1])


@dataclass(frozen=True)
class RefitLoss:
    """What the next layers lose when one channel is removed and their other weights are fitted anew by least squares.

    With S = Σ (x - μ)(x - μ)ᵀ + diag ρ over the patches x of a layer that reads the channel, and W_i its weights, the
    squared error after the best refit of all other weights and the bias is exactly

        tr(W_i [(S⁻¹)_ii]⁻¹ W_iᵀ),

    so one inverse a layer gives all channels. A score is the error as a part of ‖Y - μ_Y‖²; layers that read the same
    group add up. The formula is that of Optimal Brain Surgeon (Hassibi and Stork 1993) for a block of weights.

    Attributes:
        positions: output positions of each image that count, drawn anew for each image; None: all.
        ridge: ρ as a part of S's typical diagonal: how dear it is to move weights off their values.
        seed: of the positions, and of standard normal inputs where there is no data.

    Raises:
        InputError: bad settings, unusable data, or a group that no convolution or linear layer reads.

    >>> import torch, fxprune
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(3, 1))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))  # the first two are alike
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 2)))
    >>> fxprune.scorers.RefitLoss()(net, groups, [torch.randn(50, 2)])["0"] > 1e-3
    tensor([False, False,  True])
    """

    positions: Positions = 10
    ridge: float = 1e-6
    seed: int = 0

    def __post_init__(self) -> None:
        Sampling(self.positions, self.seed)
        check_number("the ridge", self.ridge, "(0, inf)", "give a positive number, such as 1e-6")
        check_seed(self.seed)

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        found = readings(model, groups, data, Sampling(self.positions, self.seed))
        require_readers(groups, found)
        return {
            g.name: torch.stack([self._loss(reader, gram) for reader, (gram,) in found[g.name]]).sum(0) for g in groups
        }

    def _loss(self, reader: GroupReader, gram: Gram) -> Tensor:
        w, s, channels = reader.kernels.double(), gram.s, reader.channels
        inverted = inverse(s, self.ridge * stiffness(gram, w))
        # All channels of a group own equally many entries of a patch; those of no channel come last.
        entries = reader.owner.argsort(dim=1, stable=True)
        size = int((reader.owner[0] < channels).sum()) // channels
        entries = entries[:, : channels * size].unflatten(1, (channels, size))  # (groups, channels, size)
        block = torch.arange(len(w), device=w.device)[:, None, None]
        own = w.mT[block, entries]  # (groups, channels, size, outputs)
        loss = (torch.linalg.solve(inverted[block[..., None], entries[..., None], entries[:, :, None]], own) * own).sum(
            (0, 2, 3)
        )
        total = ((w @ s) * w).sum()
        return loss / total if total > 0 else torch.zeros_like(loss)


def require_readers(groups: Groups, found: dict[str, Any]) -> None:
    """Refuse groups whose channels no convolution or linear layer reads.

    Raises:
        UnscorableError: names them.
    """
    without = [g.name for g in groups if not found[g.name]]
    if without:
        raise UnscorableError("no convolution or linear layer reads these channels", without)


def joint(parts: Sequence[Tensor]) -> Floats:
    """The sum of several readers' A, each as a part of its ‖Y‖² = 1ᵀA1; readers whose output is zero count nothing."""
    energies = [float(a.sum()) for a in parts]
    shares = [a.cpu().numpy() / (e if e > 0 else float("inf")) for a, e in zip(parts, energies, strict=True)]
    total: Floats = np.sum(shares, axis=0)
    return total


def removed_greedily(a: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
    """Channels in the order in which they go, each time the one that leaves the smallest 1ᵀ A_QQ 1, and that error."""
    cost = a.diagonal().copy()  # of removing each channel beside those that are removed
    order, errors, error = np.empty(len(a), dtype=np.int64), np.empty(len(a)), 0.0
    for step in range(len(a)):  # greedy: each choice depends on the one before
        chosen = int(np.argmin(cost))
        order[step], errors[step] = chosen, error + cost[chosen]
        error = errors[step]
        cost += 2 * a[chosen]
        cost[order[: step + 1]] = np.inf
    return order, errors


def in_order(order: npt.NDArray[np.int64], values: Floats) -> Tensor:
    """Scores of at least zero that fall along `order`: values, the most important first, made monotone.

    Equal values are made to differ by a millionth of the mean at most, so that every kept count follows the order.
    """
    falling = np.minimum.accumulate(np.maximum(values, 0))
    apart = 1e-6 * (falling.mean() or 1.0) * np.linspace(1, 0, len(order), endpoint=False)
    scores = np.empty(len(order))
    scores[order] = falling + apart
    return torch.from_numpy(scores)
