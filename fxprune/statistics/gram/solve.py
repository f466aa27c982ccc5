"""Solve: the weights that give the targets best, from Gram statistics alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fxprune.statistics.gram.sums import Gram


def uncentred(gram: Gram) -> Gram:
    """The same sums about zero: for layers that have no place for an intercept."""
    n, x, y = gram.rows, gram.x_mean, gram.y_mean
    s = gram.s + n * x[:, :, None] * x[:, None]
    r = gram.r + n * x[:, :, None] * y[:, None]
    return Gram(n, torch.zeros_like(x), torch.zeros_like(y), s, r, gram.yy + n * y.square())


ROUNDING = 1e-12
"""Part of an entry's squares below which its variance is rounding in float32."""
LEAST = 1e-16
"""Part of the mean variance below which an entry counts as constant, far below what rescaled channels lead to."""


def spread(gram: Gram) -> Tensor:
    """Of each entry of a patch Σ (x - μ)², with which its ridge grows, of shape (groups, n); above zero.

    That makes fits those of standardised entries: a channel that is multiplied by a number where it is made, and
    divided by it where it is read, is fitted as before. Entries that never vary get a spread that is nearly zero: they
    cost nothing to remove, and their weights stay as they are.
    """
    squares = gram.s.diagonal(dim1=1, dim2=2)
    least = ROUNDING * gram.rows * gram.x_mean.to(squares).square() + LEAST * squares.mean(1, keepdim=True)
    found = squares.maximum(least)
    return torch.where(found > 0, found, 1.0)


def fitted(gram: Gram, start: Tensor, ridge: float) -> Tensor:
    """The weights W of shape (groups, outputs, n) that minimise ‖Y - WX‖² + Σ ρ_j ‖W_j - W₀_j‖², of centred X and Y.

    W = W₀ + (R - S W₀ᵀ)ᵀ (S + diag ρ)⁻¹, with ρ = ridge · `spread`. Pulling towards the weights as they are, and not
    towards zero, leaves what the data does not determine as it was. It is solved for standardised entries.

    Args:
        gram: S and R.
        start: W₀.
        ridge: 0: of all best W, the one nearest to W₀, by standardised entries.
    """
    s, start = gram.s, start.to(gram.s)
    unit = spread(gram).rsqrt()
    damped = s * unit[:, :, None] * unit[:, None]
    damped.diagonal(dim1=1, dim2=2).add_(ridge)
    missing = (gram.r - s @ start.mT) * unit[..., None]
    factor, failed = torch.linalg.cholesky_ex(damped)
    if failed.any():
        moved = torch.linalg.pinv(damped, hermitian=True, rtol=1e-12) @ missing
    else:
        moved = torch.cholesky_solve(missing, factor)
    return start + (moved * unit[..., None]).mT


def inverse(s: Tensor, rho: Tensor, narrow: bool = False) -> Tensor:
    """(S + diag ρ)⁻¹ of shape (groups, n, n), ρ of shape (groups, n).

    With U = diag ρ^-½ it is U (USU + I)⁻¹ U. S was summed in float32, so that the smallest eigenvalues of USU may lie
    below -1; those of USU + I are at least 1 but for rounding.

    Args:
        s: S.
        rho: ρ.
        narrow: compute and return it in float32 where that succeeds.
    """
    unit = rho.rsqrt()
    damped = s * unit[:, :, None] * unit[:, None]
    damped.diagonal(dim1=1, dim2=2).add_(1.0)
    for given in [damped.float(), damped] if narrow else [damped]:
        factor, failed = torch.linalg.cholesky_ex(given)
        if not failed.any():
            return torch.cholesky_inverse(factor) * unit.to(factor)[:, :, None] * unit.to(factor)[:, None]
    values, vectors = torch.linalg.eigh(damped)
    vectors = vectors * unit[..., None]
    return (vectors / values.clamp_min(1.0)[:, None]) @ vectors.mT


RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Ridges that are tried: from many rows for each weight to hardly any."""
WIDE = 1024
"""Weights of a kernel from which what only judges is computed once, in float32."""


def best_ridge(parts: Sequence[Gram], start: Tensor, ridges: Sequence[float] = RIDGES) -> float:
    """The ridge whose fits have the smallest squared error on rows that they have not seen.

    Each part is left out once and judged by the fit to the others. What helps on the rows of a fit alone, because there
    are few of them or because they are alike, does not count. Larger ridges are tried as long as the error falls. Of
    more than `MIXED` outputs, so many random mixtures stand for all: their mean squared error is that of the outputs.
    For kernels of `WIDE` weights the last part alone judges, in float32.

    Args:
        parts: statistics of different inputs, at least two.
        start: W₀, as in `fitted`.
        ridges: as in `fitted`, ascending.
    """
    wide, (parts, start) = start.shape[-1] >= WIDE, mixed(parts, start)
    parts = [rough(p) for p in parts]
    folds = [(joined([p for p in parts if p is not held]), held) for held in (parts[-1:] if wide else parts)]
    best, least = ridges[0], float("inf")
    for ridge in ridges:
        error = sum(_unseen(seen, held, start, ridge) for seen, held in folds)
        if not error < least:
            break
        best, least = ridge, error
    return best


MIXED = 32
"""Mixtures of outputs that judge a ridge."""


def mixed(parts: Sequence[Gram], start: Tensor) -> tuple[list[Gram], Tensor]:
    """Statistics and weights for `MIXED` mixtures of the outputs, with normal coefficients; of few outputs, as are."""
    outputs = start.shape[1]
    if outputs <= MIXED:
        return list(parts), start
    normal = torch.randn(outputs, MIXED, generator=torch.Generator().manual_seed(0), dtype=torch.float64, device="cpu")
    mix = normal.to(start.device) / MIXED**0.5
    return [p.mixed(mix) for p in parts], mix.to(start).T @ start


def rough(gram: Gram) -> Gram:
    """Statistics that only judge: in float32 for wide kernels."""
    return gram.float() if gram.s.shape[1] >= WIDE else gram


def unseen_error(seen: Gram, unseen: Gram, start: Tensor, ridge: float) -> float:
    """The squared error on some rows of the fit to others."""
    return max(0.0, float(unseen.yy.sum()) + _unseen(seen, unseen, start, ridge))


def _unseen(seen: Gram, unseen: Gram, start: Tensor, ridge: float) -> float:
    """The same less Σ (y - μ)², which is the same for all ridges."""
    weights = fitted(seen, start, ridge)
    return _excess(unseen, weights, intercept(seen, weights))


def joined(parts: Sequence[Gram]) -> Gram:
    """The statistics of all parts together; the parts stay as they are."""
    whole = parts[0]
    for i, part in enumerate(parts[1:]):
        whole = whole if i else whole.copy()
        whole.add(part)
    return whole


def intercept(gram: Gram, weights: Tensor) -> Tensor:
    """The bias that belongs to weights, of shape (groups, outputs)."""
    return gram.y_mean - (weights @ gram.x_mean[..., None])[..., 0]


def squared_error(gram: Gram, weights: Tensor, bias: Tensor) -> float:
    """Σ ‖y - Wx - b‖² over all rows."""
    return max(0.0, float(gram.yy.sum()) + _excess(gram, weights, bias))


def _excess(gram: Gram, weights: Tensor, bias: Tensor) -> float:
    """Σ ‖y - Wx - b‖² - Σ ‖y - μ‖²."""
    centred = ((weights @ gram.s - 2 * gram.r.mT) * weights).sum(dtype=torch.float64)
    return float(centred + gram.rows * (intercept(gram, weights) - bias).square().sum())
