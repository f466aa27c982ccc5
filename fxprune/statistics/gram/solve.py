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
SLIGHT = 0.1
"""Part of the mean contribution σ ‖W₀‖² as which smaller ones count, so that their weights can grow."""


def _spread(gram: Gram) -> Tensor:
    """Of each entry of a patch Σ (x - μ)², of shape (groups, n); above zero, and nearly zero where it never varies."""
    squares = gram.s.diagonal(dim1=1, dim2=2)
    least = ROUNDING * gram.rows * gram.x_mean.to(squares).square() + LEAST * squares.mean(1, keepdim=True)
    found = squares.maximum(least)
    return torch.where(found > 0, found, 1.0)


def stiffness(gram: Gram, start: Tensor) -> Tensor:
    """What the ridge of each entry of a patch is multiplied with, of shape (groups, n): c / ‖W₀_j‖².

    With c the mean over entries of σ_j ‖W₀_j‖², σ the variance: weights move by parts of what they are. A channel that
    is multiplied by a number where it is made, and divided by it where it is read, counts as before; one that varies
    in few rows keeps its weights more than one that varies in many; and one that never varies is worth nothing. No
    entry counts for more than 1/`SLIGHT` of its variance.
    """
    own = _spread(gram)
    size = start.to(own).square().sum(1)
    mean = (own * size).mean(1, keepdim=True)
    return torch.where(mean > 0, mean / size.maximum(SLIGHT * mean / own), own)


def fitted(gram: Gram, start: Tensor, ridge: float) -> Tensor:
    """The weights W of shape (groups, outputs, n) that minimise ‖Y - WX‖² + Σ ρ_j ‖W_j - W₀_j‖², of centred X and Y.

    W = W₀ + (R - S W₀ᵀ)ᵀ (S + diag ρ)⁻¹, with ρ = ridge · `stiffness`. Pulling towards the weights as they are, and not
    towards zero, leaves what the data does not determine as it was. It is solved in units in which all ρ are alike.

    Args:
        gram: S and R.
        start: W₀.
        ridge: 0: of all best W, the one nearest to W₀, in those units.
    """
    s, start = gram.s, start.to(gram.s)
    unit = stiffness(gram, start).rsqrt()
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
            unit = unit.to(factor)
            return torch.cholesky_inverse(factor).mul_(unit[:, :, None]).mul_(unit[:, None])
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
    return _best(parts, start, ridges)[0]


def helpful_ridge(parts: Sequence[Gram], start: Tensor, offset: Tensor) -> float | None:
    """`best_ridge`, or None where no fit has a smaller error on those rows than the weights as they are.

    Args:
        parts: as there.
        start: W₀.
        offset: the bias as it is, of shape (groups, outputs).
    """
    ridge, least = _best(parts, start, RIDGES)
    kept = offset if start.shape[1] <= MIXED else offset @ _mix(start.shape[1]).to(offset)
    parts, start = mixed(parts, start)
    judges = parts[-1:] if start.shape[-1] >= WIDE else parts
    return ridge if least < sum(_excess(p, start, kept) for p in judges) else None


def _best(parts: Sequence[Gram], start: Tensor, ridges: Sequence[float]) -> tuple[float, float]:
    """The best ridge, and its error less what is the same for all."""
    wide, (parts, start) = start.shape[-1] >= WIDE, mixed(parts, start)
    parts = [rough(p) for p in parts]
    folds = [(joined([p for p in parts if p is not held]), held) for held in (parts[-1:] if wide else parts)]
    best, least = ridges[0], float("inf")
    for ridge in ridges:
        error = sum(_unseen(seen, held, start, ridge) for seen, held in folds)
        if not error < least:
            break
        best, least = ridge, error
    return best, least


MIXED = 32
"""Mixtures of outputs that judge a ridge."""


def mixed(parts: Sequence[Gram], start: Tensor) -> tuple[list[Gram], Tensor]:
    """Statistics and weights for `MIXED` mixtures of the outputs, with normal coefficients; of few outputs, as are."""
    outputs = start.shape[1]
    if outputs <= MIXED:
        return list(parts), start
    mix = _mix(outputs).to(start.device)
    return [p.mixed(mix) for p in parts], mix.to(start).T @ start


def _mix(outputs: int) -> Tensor:
    """The mixtures' coefficients, of shape (outputs, mixtures)."""
    draw = torch.Generator().manual_seed(0)
    return torch.randn(outputs, MIXED, generator=draw, dtype=torch.float64, device="cpu") / MIXED**0.5


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
