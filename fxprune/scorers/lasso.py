"""LASSO channel selection: every support size from one path."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from fxprune.analysis.groups import Groups
from fxprune.errors import InputError, check_seed, shown
from fxprune.optional import require
from fxprune.scorers.base import Scores
from fxprune.scorers.thinet import Floats, in_order, joint, require_readers
from fxprune.statistics.gram.collect import Positions, Sampling, responses

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Lasso:
    """The channels from which a sparse combination gives the next layers' outputs best.

    Channel i adds Z_i = X_i W_iᵀ to the output Y of a layer that reads it. The LASSO

        min_β 1/2 ‖Y - Σ β_i Z_i‖² + λ‖β‖₁        (as a part of ‖Y‖²; centred, for the bias)

    needs A_ij = Z_i·Z_j and b_i = Z_i·Y alone, summed over the data in one pass, and its whole path gives the channels
    to keep for every count (see `LassoPath`). A channel's score is the λ at which it is first among those to keep;
    layers that read the same group add up. Source: He, Zhang and Sun, Channel Pruning, 2017, who search λ for each
    count; the path in its place, and adding up relative errors over several readers, are fxprune's own.

    Attributes:
        positions: output positions of each image that count, drawn anew for each image; 10 in the paper; `Informative`:
            those where the layer's outputs vary most over channels; None: all.
        seed: of the positions, and of standard normal inputs where there is no data.

    Raises:
        InputError: bad settings, unusable data, or a group that no convolution or linear layer reads.

    >>> import torch, fxprune
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 1))
    >>> _ = net[0].weight.data.copy_(torch.eye(3)), net[1].weight.data.copy_(torch.tensor([[2.0, 3.0, 0.0]]))
    >>> groups = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 3)))
    >>> fxprune.scorers.Lasso()(net, groups, [torch.eye(3)])["0"].argsort(descending=True)
    tensor([1, 0, 2])
    """

    positions: Positions = 10
    seed: int = 0

    def __post_init__(self) -> None:
        Sampling(self.positions, self.seed)
        check_seed(self.seed)

    def __call__(self, model: nn.Module, groups: Groups, data: Iterable[Any] | None = None) -> Scores:
        found = responses(model, groups, data, Sampling(self.positions, self.seed))
        require_readers(groups, found)
        return {g.name: self._score(joint([r.a for r in found[g.name]])) for g in groups}

    @staticmethod
    def _score(a: Floats) -> Tensor:
        # What the group is to give is what all its channels give together: b = A·1.
        own = a[:-1, :-1]
        return in_order(*lasso_path(own, own.sum(1)).ranking())


@dataclass(frozen=True, eq=False)
class LassoPath:
    """The LASSO's solutions for all λ: they are linear in λ between knots.

    Attributes:
        lambdas: at the knots, falling, of shape (knots,).
        coefficients: β at the knots, of shape (channels, knots).
        energies: A_ii, the order of channels that never get a coefficient.
    """

    lambdas: Floats
    coefficients: Floats
    energies: Floats

    def _knots(self) -> Ints:
        """The first knot with at least 1, 2, ... channels, of shape (largest support,)."""
        reached = np.maximum.accumulate((self.coefficients != 0).sum(0))
        return np.searchsorted(reached, np.arange(1, int(reached[-1]) + 1))

    def _orders(self) -> Ints:
        """Channels by falling |β| at each of these knots, of shape (channels, largest support)."""
        found: Ints = np.argsort(-np.abs(self.coefficients[:, self._knots()]), axis=0, kind="stable")
        return found

    def support(self, count: int) -> Ints:
        """The `count` channels to keep, ascending: those of the first knot that has so many, or the largest |β| there.

        Channels that the path never takes (they add nothing) follow by energy.
        """
        orders = self._orders()
        if count <= orders.shape[1]:
            return np.sort(orders[:count, count - 1])
        return np.sort(self.ranking()[0][:count])

    def ranking(self) -> tuple[Ints, Floats]:
        """Channels in the order in which they first belong to a support, and the λ there.

        Supports are nested unless the path drops a channel; then the first `count` of the ranking are those that
        belong to the smallest supports.
        """
        orders, size = self._orders(), len(self.coefficients)
        ranks = np.empty_like(orders)
        np.put_along_axis(ranks, orders, np.arange(size)[:, None], axis=0)
        member = ranks < np.arange(1, orders.shape[1] + 1)
        first = np.append(member, np.ones((size, 1), dtype=bool), axis=1).argmax(1)
        ties = np.append(ranks, -self.energies[:, None], axis=1)[np.arange(size), first]
        order = np.lexsort((ties, first))
        lambdas = np.append(self.lambdas[self._knots()], 0.0)
        return order, lambdas[first[order]]


def lasso_path(a: Floats, b: Floats) -> LassoPath:
    """The path of min_β 1/2 βᵀAβ - bᵀβ + λ‖β‖₁ over all λ.

    Args:
        a: positive semidefinite, of shape (channels, channels).
        b: of shape (channels,).

    Raises:
        InputError: they are of other shapes.
    """
    arrays = isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
    if not arrays or b.ndim != 1 or a.shape != (len(b), len(b)):
        seen, remedy = f"{shown(a)}, {shown(b)}", "give arrays of shapes (channels, channels) and (channels,)"
        raise InputError("a LASSO needs a matrix and a vector", seen=seen, remedy=remedy)
    lars_path_gram = require("sklearn.linear_model", extra="lasso").lars_path_gram

    size = max(float(np.abs(b).max(initial=0)), float(a.diagonal().max(initial=0)))
    scale = _LARGE / size if 0 < size < np.inf else 1.0
    with warnings.catch_warnings():
        # Channels that are copies of others leave the path; they come last.
        warnings.simplefilter("ignore", require("sklearn.exceptions", extra="lasso").ConvergenceWarning)
        lambdas, _, coefficients = lars_path_gram(
            b * scale, a * scale, n_samples=1, method="lasso", max_iter=8 * len(a)
        )
    largest = np.abs(coefficients).max(initial=0)
    coefficients[np.abs(coefficients) < _ROUNDING * largest] = 0  # of channels that have left the path
    return LassoPath(lambdas / scale, coefficients, a.diagonal())


_ROUNDING = 1e-12
_LARGE = 1e6
"""What the largest number is scaled to: scikit-learn ends a path at a λ of 1e-7, whatever the unit."""
