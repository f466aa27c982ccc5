"""Mixtures: what shorter queries and keys should be, so that their products stay.

With Q and K of d dims a head and rows for all tokens, the k mixtures QA and KB whose products (QA)(KB)ᵀ come nearest to
QKᵀ follow from their second moments alone: with C_q^½ C_k^½ = U Σ Vᵀ, A = C_q^-½ U_k Σ_k^½ and B = C_k^-½ V_k Σ_k^½
(the best rank-k approximation, Eckart and Young 1936). Heads that share their keys share A, of their moments' sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.errors import InputError
from fxprune.module.batches import batches
from fxprune.module.tensors import tensors_of
from fxprune.plan.plan import Ints, Plan
from fxprune.reconstruction.bilinear import Bilinear, Side
from fxprune.rewriting.rewrite import cut
from fxprune.statistics.observe import Contraction, observing

_NOISE = 1e-9
"""Part of the largest variance below which a direction has none."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """Output channels of a pruned layer that are mixtures of the original's.

    Attributes:
        side: of a product.
        rows: the original's channels, of shape (d,).
        columns: where the mixtures lie among the channels that stay, of shape (k,).
        weights: of shape (d, k), in float64.
    """

    side: Side
    rows: Tensor
    columns: Tensor
    weights: Tensor

    def of(self, values: Tensor) -> Tensor:
        """The mixtures of the rows of a tensor of shape (channels, ...)."""
        return torch.tensordot(self.weights.T.to(values.device), values[self.rows.to(values.device)].double(), 1)


@dataclass(eq=False)
class Moments:
    """Of a layer's outputs with its bias: Σ y yᵀ over rows, of shape (channels, channels), in float64."""

    rows: int
    total: Tensor
    products: Tensor

    @classmethod
    def none(cls, y: Tensor) -> Moments:
        n = y.shape[1]
        return cls(0, y.new_zeros(n, dtype=torch.float64), y.new_zeros(n, n, dtype=torch.float64))

    def add(self, y: Tensor) -> None:
        self.rows += len(y)
        y = y if y.dtype == torch.float64 else y.float()  # half precision would overflow
        self.total += y.sum(0, dtype=torch.float64)
        self.products += (y.T @ y).double()

    def second(self, rows: Tensor, shift: Tensor | None) -> Tensor:
        """Of some channels, each shifted by a number, of shape (d, d)."""
        part = self.products[rows][:, rows]
        if shift is None:
            return part
        cross = self.total[rows][:, None] * shift
        return part + cross + cross.T + self.rows * shift[:, None] * shift


def moments(model: nn.Module, pairs: Sequence[Bilinear], data: Iterable[Any]) -> dict[str, Moments]:
    """Of the outputs of the original's layers, a forward over the data."""
    names, found = {s.name for p in pairs for s in (p.left, p.right)}, dict[str, Moments]()

    def saw(seen: Contraction) -> None:
        y = seen.output.detach().movedim(1, -1).flatten(0, -2)
        found.setdefault(seen.name, Moments.none(y)).add(y)

    if names:
        with observing(model, names, saw) as run:
            for batch in batches(model, data):
                run(batch)
    for name, moment in found.items():
        if not torch.isfinite(moment.products.diagonal()).all():
            remedy = "look for NaN or infinity in the data and in the weights"
            raise InputError("the outputs of a layer are not finite", where=name, remedy=remedy)
    return found


def mixtures(
    model: nn.Module, pairs: Sequence[Bilinear], known: Callable[[], Mapping[str, Moments]], plan: Plan
) -> dict[str, list[Mixture]]:
    """By weight, for the layers of which a plan removes dims of a product; `known` gives the original's moments."""
    cuts, tensors, found = plan.cuts(), tensors_of(model), dict[str, list[Mixture]]()
    for pair in pairs:
        columns = _columns(pair, cuts)
        if columns:
            for mixture in _mixed(pair, columns, known(), tensors):
                found.setdefault(mixture.side.name, []).append(mixture)
    return found


def _columns(pair: Bilinear, cuts: Mapping[str, Mapping[int, Ints]]) -> list[list[int]]:
    """Where the dims that stay lie among the channels that stay, for each head's left rows, then for the right ones.

    Empty where no dim goes or all do, or where sides keep different dims.
    """
    stay = [_stay(side, rows, cuts) for side in (pair.left, pair.right) for rows in side.rows]
    dims = stay[0][0]
    if not 0 < len(dims) < len(pair.right.rows[0]) or any(other != dims for other, _ in stay):
        return []
    return [columns for _, columns in stay]


def _mixed(
    pair: Bilinear, columns: Sequence[Sequence[int]], known: Mapping[str, Moments], tensors: Mapping[str, Tensor]
) -> Iterator[Mixture]:
    left = torch.stack([_second(pair.left, rows, known, tensors) for rows in pair.left.rows]).sum(0)
    right = _second(pair.right, pair.right.rows[0], known, tensors)
    for_left, for_right = _nearest(left, right, len(columns[0]))
    *left_columns, right_columns = (torch.tensor(places) for places in columns)
    for rows, places in zip(pair.left.rows, left_columns, strict=True):
        yield Mixture(pair.left, torch.tensor(rows), places, for_left)
    yield Mixture(pair.right, torch.tensor(pair.right.rows[0]), right_columns, for_right)


def _stay(side: Side, rows: Sequence[int], cuts: Mapping[str, Mapping[int, Ints]]) -> tuple[list[int], list[int]]:
    """The dims of a product that stay, and where their rows lie among the channels that stay."""
    kept = cuts.get(side.name, {}).get(side.dim)
    if kept is None:
        return list(range(len(rows))), list(rows)
    at = {row: i for i, row in enumerate(kept.tolist())}
    dims = [j for j, row in enumerate(rows) if row in at]
    return dims, [at[rows[j]] for j in dims]


def _second(side: Side, rows: Sequence[int], known: Mapping[str, Moments], tensors: Mapping[str, Tensor]) -> Tensor:
    moments = known[side.name]
    where = torch.tensor(rows, device=moments.total.device)
    shift = tensors[side.bias].detach().double()[where] if side.later else None
    return moments.second(where, shift)


def _nearest(left: Tensor, right: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """A and B of shape (d, k), on the CPU."""
    (root_l, inverse_l), (root_r, inverse_r) = _roots(left.cpu()), _roots(right.cpu())
    u, s, v = torch.linalg.svd(root_l @ root_r)
    scale = s[:count].sqrt()
    return inverse_l @ u[:, :count] * scale, inverse_r @ v.T[:, :count] * scale


def _roots(moments: Tensor) -> tuple[Tensor, Tensor]:
    """C^½ and C^-½; directions without variance count as if they had hardly any."""
    values, vectors = torch.linalg.eigh(moments)
    values = values.clamp_min(max(float(values[-1]) * _NOISE, torch.finfo(values.dtype).tiny))
    return (vectors * values.sqrt()) @ vectors.T, (vectors / values.sqrt()) @ vectors.T


def put(model: nn.Module, small: nn.Module, plan: Plan, found: Mapping[str, Sequence[Mixture]]) -> None:
    """Write the mixtures of the original's weights and biases into a pruned model."""
    cuts, before, now = plan.cuts(), tensors_of(model), tensors_of(small)
    factors = _factors(plan)
    with torch.no_grad():
        for name, several in found.items():
            side = several[0].side
            others = {dim: kept for dim, kept in cuts[name].items() if dim != side.dim}
            rows, target = cut(before[name], others).movedim(side.dim, 0), now[name].movedim(side.dim, 0)
            kept = torch.as_tensor(cuts[name][side.dim])
            for mixture in several:
                factor = factors(name, kept[mixture.columns])
                columns = mixture.columns.to(target.device)
                each = factor.view(-1, *[1] * (rows.dim() - 1)).to(rows.device)
                target[columns] = (mixture.of(rows) * each).to(target)
                if side.bias:
                    shift = mixture.of(before[side.bias].detach()) * factor.to(rows.device)
                    now[side.bias][columns] = shift.to(now[side.bias])


def written(found: Mapping[str, Sequence[Mixture]]) -> set[str]:
    """The names of the tensors that `put` writes."""
    return {n for several in found.values() for m in several for n in (m.side.name, m.side.bias) if n}


def _factors(plan: Plan) -> Any:
    """What a plan multiplies rows of a weight by: a function of its name and full-size rows."""

    def of(name: str, rows: Tensor) -> Tensor:
        factor = torch.ones(len(rows), dtype=torch.float64)
        for scale in plan.scales:
            if scale.tensor == name:
                factor[torch.isin(rows, torch.as_tensor(scale.rows))] *= scale.factor
        return factor

    return of


def targets(found: Sequence[Mixture], outputs: Tensor, plain: Tensor) -> Tensor:
    """What the channels of a pruned layer should give, of shape (rows, kept), where some are mixtures of `outputs`."""
    for mixture in found:
        plain[:, mixture.columns.to(plain.device)] = mixture.of(outputs.T).T
    return plain
