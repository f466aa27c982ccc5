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


def inverse(damped: Tensor, rho: Tensor) -> Tensor:
    """(S + ρI)⁻¹ of shape (groups, n, n), ρ of shape (groups,).

    S was summed in float32, so that its smallest eigenvalues may lie below zero by more than ρ; no eigenvalue of
    S + ρI is below ρ but by rounding.
    """
    factor, failed = torch.linalg.cholesky_ex(damped)
    if not failed.any():
        return torch.cholesky_inverse(factor)
    values, vectors = torch.linalg.eigh(damped)
    return (vectors / values.maximum(rho.to(values)[:, None])[:, None]) @ vectors.mT


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
