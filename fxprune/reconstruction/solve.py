"""Solve: the weights that give the targets best, from Gram statistics alone."""

from __future__ import annotations

import torch
from torch import Tensor

from fxprune.statistics.gram.sums import Gram


def uncentred(gram: Gram) -> Gram:
    """The same sums about zero: for layers that have no place for an intercept."""
    n, x, y = gram.rows, gram.x_mean, gram.y_mean
    s = gram.s + n * x[:, :, None] * x[:, None]
    r = gram.r + n * x[:, :, None] * y[:, None]
    return Gram(n, torch.zeros_like(x), torch.zeros_like(y), s, r, gram.yy + n * y.square())


def fitted(gram: Gram, start: Tensor, ridge: float) -> Tensor:
    """The weights W of shape (groups, outputs, n) that minimise ‖Y - WX‖² + ρ‖W - W₀‖², of centred X and Y.

    W = W₀ + (R - S W₀ᵀ)ᵀ (S + ρI)⁻¹, with ρ = ridge · mean of S's diagonal. Pulling towards the weights as they are,
    and not towards zero, leaves what the data does not determine as it was.

    Args:
        gram: S and R.
        start: W₀.
        ridge: 0: of all best W, the one nearest to W₀.
    """
    s, start = gram.s, start.to(gram.s)
    rho = ridge * s.diagonal(dim1=1, dim2=2).mean(1)
    damped = s + rho[:, None, None] * torch.eye(s.shape[1], dtype=s.dtype, device=s.device)
    missing = gram.r - s @ start.mT
    factor, failed = torch.linalg.cholesky_ex(damped)
    if failed.any():
        return start + (torch.linalg.pinv(damped, hermitian=True, rtol=1e-12) @ missing).mT
    return start + torch.cholesky_solve(missing, factor).mT


def intercept(gram: Gram, weights: Tensor) -> Tensor:
    """The bias that belongs to weights, of shape (groups, outputs)."""
    return gram.y_mean - (weights @ gram.x_mean[..., None])[..., 0]


def squared_error(gram: Gram, weights: Tensor, bias: Tensor) -> float:
    """Σ ‖y - Wx - b‖² over all rows."""
    centred = gram.yy.sum() - 2 * (weights.mT * gram.r).sum() + ((weights @ gram.s) * weights).sum()
    shift = gram.rows * (intercept(gram, weights) - bias).square().sum()
    return max(0.0, float(centred + shift))
