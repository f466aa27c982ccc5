"""Compare: how far the results of two runs are from one another."""

from __future__ import annotations

from collections.abc import Iterator
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


def deviation(masked: Outputs, pruned: Outputs) -> float:
    errors = list(_errors(masked, pruned))
    if not errors:
        raise InputError("no output to compare", remedy="give example inputs on which the model returns numbers")
    return max(errors)


def _errors(masked: Outputs, pruned: Outputs) -> Iterator[float]:
    for (name, m), (_, p) in zip(masked, pruned, strict=False):
        if m.shape == p.shape and m.is_floating_point() and m.numel():
            yield _error(m, p, nan_is_nan=name != WHOLE)  # a module's NaN may be meant to be overwritten
        elif name == WHOLE and m.shape != p.shape:
            yield inf


def _error(masked: Tensor, pruned: Tensor, *, nan_is_nan: bool) -> float:
    """max |pruned - masked| / max |masked|, where equal infinities are no difference."""
    gap, size = (pruned - masked).abs(), masked.abs()
    if not gap.max().isfinite():
        same = masked == pruned
        if nan_is_nan:
            same |= masked.isnan() & pruned.isnan()
        gap, size = gap.masked_fill(same, 0), size.masked_fill(~size.isfinite(), 0)
    error = float(gap.max() / size.max().clamp_min(torch.finfo(masked.dtype).tiny))
    return inf if isnan(error) else error
