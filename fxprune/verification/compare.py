"""Compare: how far the results of two runs are from one another."""

from __future__ import annotations

from collections.abc import Container, Iterator
from math import inf, isnan

import torch
from torch import Tensor

from fxprune.errors import InputError

# The results of modules in execution order, by name, and at last the outputs of the whole model.
Outputs = list[tuple[str, Tensor]]
WHOLE = ""  # the name of the whole model, as in `named_modules`


def first_nan(results: Outputs) -> str | None:
    """The module whose result is the first to hold NaN."""
    return next((name for name, t in results if t.isnan().any()), None)


def deviation(masked: Outputs, pruned: Outputs, scaled: Container[str] = ()) -> float:
    """The largest relative deviation over all outputs and results of modules.

    Where the plan cuts one dim of a module's result, every index that is left must be one of the masked model's; which
    one, its own numbers tell. That is not asked of the modules in `scaled`, whose results the plan scales.

    Raises:
        InputError: there is nothing to compare.
    """
    errors = list(_errors(masked, pruned, scaled))
    if not errors:
        raise InputError("no output to compare", remedy="give example inputs on which the model returns numbers")
    return max(errors)


def _errors(masked: Outputs, pruned: Outputs, scaled: Container[str]) -> Iterator[float]:
    for (name, m), (_, p) in zip(masked, pruned, strict=False):
        if name == WHOLE and m.shape != p.shape:
            yield inf
        elif m.is_floating_point() and m.numel() and p.numel():
            found = m if m.shape == p.shape else None if name in scaled else _found_again(m, p)
            if found is not None:
                yield _error(found, p, m, nan_is_nan=name != WHOLE)  # a module's NaN may be meant to be overwritten


def _found_again(masked: Tensor, pruned: Tensor) -> Tensor | None:
    """The masked result without the indices that are cut of one dim; None if more was cut, or cannot be found.

    Each index of the smaller result is looked for by a random projection of what lies at it. In less than float64
    rounding could mistake one for its neighbour.
    """
    if masked.dtype != torch.float64 or masked.dim() != pruned.dim():
        return None
    cut = [d for d in range(masked.dim()) if masked.shape[d] != pruned.shape[d]]
    if len(cut) != 1 or masked.shape[cut[0]] < pruned.shape[cut[0]] or not masked.isfinite().all():
        return None
    rows, fewer = (t.movedim(cut[0], 0).reshape(t.shape[cut[0]], -1) for t in (masked, pruned))
    at = torch.rand(rows.shape[1], generator=torch.Generator().manual_seed(0), device="cpu").to(rows)
    places, order = (rows @ at).sort()
    sought = fewer.nan_to_num(0, 0, 0) @ at
    after = torch.searchsorted(places, sought).clamp(1, len(places) - 1)
    nearest = torch.where(sought - places[after - 1] < places[after] - sought, after - 1, after)
    return masked.index_select(cut[0], order[nearest])


def _error(masked: Tensor, pruned: Tensor, all_masked: Tensor, *, nan_is_nan: bool) -> float:
    """max |pruned - masked| / max |all_masked|, where equal infinities are no difference."""
    gap, size = (pruned - masked).abs(), all_masked.abs()
    if not gap.max().isfinite():
        same = masked == pruned
        if nan_is_nan:
            same |= masked.isnan() & pruned.isnan()
        gap, size = gap.masked_fill(same, 0), size.masked_fill(~size.isfinite(), 0)
    error = float(gap.max() / size.max().clamp_min(torch.finfo(masked.dtype).tiny))
    return inf if isnan(error) else error
