"""Compare: how far the results of two runs are from one another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from math import inf, isfinite, isnan
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.errors import InputError
from fxprune.module.tensors import tensors_of
from fxprune.plan.plan import Ints

# The results of modules in execution order, by name, and at last the outputs of the whole model.
Outputs = list[tuple[str, Tensor]]
WHOLE = ""  # the name of the whole model, as in `named_modules`
CLEAR = 1e-8  # more is not rounding: noise, numbers that only masked channels cannot hold, or a wrong plan


def is_narrow(value: Any) -> bool:
    """Whether it is a tensor of a type in which numbers that differ are often equal."""
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()) and value.dtype not in _WIDE


_WIDE = frozenset([torch.float32, torch.float64, torch.complex64, torch.complex128])


def first_nan(results: Outputs) -> str | None:
    """The module whose result is the first to hold NaN."""
    return next((name for name, t in results if not _sums_up(t) and t.isnan().any()), None)


def refuse_nan(tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights and statistics that are no numbers: a comparison on other numbers would not show them.

    Raises:
        InputError: there is one.
    """
    dense = [(n, t.detach()) for n, t in tensors.items() if t.is_floating_point() and t.layout is torch.strided]
    dense = [(n, t) for n, t in dense if t.dtype in _SUMMED and not t.is_meta]
    if (name := first_nan(dense) if _may_hold_nan([t for _, t in dense]) else None) is not None:
        seen = f"{int(tensors[name].isnan().sum())} of {tensors[name].numel()}"
        raise InputError("the model holds NaN", where=name, seen=seen, remedy="load sound weights, or train again")


def refuse_nan_in(model: nn.Module) -> None:
    """The same for all parameters and running statistics; other buffers may hold NaN that nothing reads."""
    tensors = tensors_of(model).items()
    refuse_nan({n: t for n, t in tensors if isinstance(t, nn.Parameter) or n.endswith(_STATISTICS)})


def _may_hold_nan(tensors: Sequence[Tensor]) -> bool:
    """Whether the sums of the tensors, all small ones of a kind together, tell of any."""
    kinds = defaultdict[tuple[Any, ...], list[Tensor]](list)
    for index, t in enumerate(tensors):
        few = t.numel() <= _MANY
        kinds[(t.dtype, t.device) if few else (index,)].append(t.flatten() if few else t)
    return not all(_sums_up(torch.cat(alike) if len(alike) > 1 else alike[0]) for alike in kinds.values())


_STATISTICS = ("running_mean", "running_var")
_SUMMED = frozenset([torch.float16, torch.bfloat16, torch.float32, torch.float64])


def is_finite(results: Outputs) -> bool:
    """Whether they hold neither NaN nor infinity."""
    return all(bool(t.isfinite().all()) for _, t in results)


def _sums_up(values: Tensor) -> bool:
    """Whether no number is NaN, by what takes less time than to look at each; False if that is not known."""
    return not values.is_complex() and not bool(values.sum().isnan())


def deviation(
    masked: Outputs,
    pruned: Outputs,
    scaled: Container[str] = (),
    planned: Mapping[str, Sequence[Ints]] = MappingProxyType({}),
) -> float:
    """The largest relative deviation over all outputs and results of modules.

    Where the plan cuts one dim of a module's result, every index that is left must be one of the masked model's. Those
    of `planned`, by module, are tried; if it is none of these, its own numbers tell which one. Nothing is asked of the
    modules in `scaled`, whose results the plan scales: what follows shows whether it does so rightly.

    Raises:
        InputError: there is nothing to compare.
    """
    errors = list(_errors(masked, pruned, scaled, planned))
    if not errors:
        raise InputError("no output to compare", remedy="give example inputs on which the model returns numbers")
    return max(errors)


def _errors(
    masked: Outputs, pruned: Outputs, scaled: Container[str], planned: Mapping[str, Sequence[Ints]]
) -> Iterator[float]:
    for name, m, p in _pairs(masked, pruned, scaled):
        if name == WHOLE and m.shape != p.shape:
            yield inf
        elif m.is_floating_point() and m.numel() and p.numel():
            nan_is_nan = name != WHOLE  # a module's NaN may be meant to be overwritten
            if m.shape == p.shape:
                yield _error(m, p, m, nan_is_nan=nan_is_nan)
            elif (dim := _cut_dim(m, p)) is not None:
                yield from _error_of_rest(m, p, dim, planned.get(name, ()))


def _pairs(masked: Outputs, pruned: Outputs, scaled: Container[str]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The results of both that are to agree, as real numbers."""
    for (name, m), (_, p) in zip(masked, pruned, strict=False):
        if name == WHOLE or name not in scaled:
            yield name, _in_reals(m), _in_reals(p)


def are_equal(masked: Outputs, pruned: Outputs, scaled: Container[str], planned: Mapping[str, Sequence[Ints]]) -> bool:
    """Whether all that `deviation` compares is finite, and equal at indices of `planned` but for the last bits."""
    seen = 0
    for name, m, p in _pairs(masked, pruned, scaled):
        dim = None if m.shape == p.shape else _cut_dim(m, p)
        if name == WHOLE or m.shape == p.shape or dim is not None:
            seen += m.numel()
            if not _is_equal(m, p, dim, planned.get(name, ()) if name != WHOLE else ()):
                return False
    return seen > 0  # none are of an empty batch, for one


def _is_equal(masked: Tensor, pruned: Tensor, dim: int | None, planned: Sequence[Ints]) -> bool:
    """Dim: the only one that is cut, if any."""
    if masked.is_floating_point() and not isfinite(float(pruned.sum())):
        return False
    if masked.shape == pruned.shape:
        return are_close(masked, pruned)
    return dim is not None and any(
        len(kept) == pruned.shape[dim]
        and kept.max() < masked.shape[dim]
        and are_close(masked.index_select(dim, torch.from_numpy(kept).to(masked.device)), pruned)
        for kept in planned
    )


def are_close(a: Tensor, b: Tensor) -> bool:
    """Whether each number is equal but for its last bits.

    A function such as a sigmoid may be computed otherwise at the end of a tensor than before, and the pruned model has
    other channels there. Any two channels differ by far more.
    """
    if a.shape != b.shape or not a.is_floating_point() or same_numbers(a, b):
        return same_numbers(a, b)
    gap = (a - b).abs_()
    close = (gap <= _LAST_BITS * torch.finfo(a.dtype).eps * b.abs()).all()
    return bool(close) and isfinite(float(gap.sum()))  # a number is not close to infinity


_LAST_BITS = 4  # times the precision


def same_numbers(a: Tensor, b: Tensor) -> bool:
    """As `torch.equal`, which looks at one number after another on a processor."""
    few = a.numel() <= _MANY and a.dtype is b.dtype
    if few or not all(t.layout is torch.strided and t.device.type == "cpu" and t.dtype in _OF_NUMPY for t in (a, b)):
        return torch.equal(a, b)
    return np.array_equal(a.numpy(force=True), b.numpy(force=True))


_MANY = 4096  # numbers, for which NumPy's detour takes less time
_OF_NUMPY = (torch.float32, torch.float64)


def _in_reals(value: Tensor) -> Tensor:
    """Complex numbers as pairs of real ones, in a last dim."""
    return torch.view_as_real(value.resolve_conj()) if value.is_complex() else value


def _cut_dim(masked: Tensor, pruned: Tensor) -> int | None:
    """The only dim of which some indices are left."""
    if masked.dim() != pruned.dim():
        return None
    cut = [d for d in range(masked.dim()) if masked.shape[d] != pruned.shape[d]]
    return cut[0] if len(cut) == 1 and pruned.shape[cut[0]] < masked.shape[cut[0]] else None


def _error_of_rest(masked: Tensor, pruned: Tensor, dim: int, planned: Sequence[Ints]) -> Iterator[float]:
    """The deviation of what is left; nothing where it cannot be found again."""
    for kept in planned:
        if len(kept) == pruned.shape[dim] and kept.max() < masked.shape[dim]:
            rest = masked.index_select(dim, torch.from_numpy(kept).to(masked.device))
            if (error := _error(rest, pruned, masked, nan_is_nan=True)) <= CLEAR:
                yield error
                return
    found = _found_again(masked, pruned, dim)
    if found is not None:
        yield _error(found, pruned, masked, nan_is_nan=True)


def _found_again(masked: Tensor, pruned: Tensor, dim: int) -> Tensor | None:
    """The masked result without the indices that are cut of one dim; None if they are not known.

    Each index of the smaller result is looked for by a random projection of what lies at it. In less than float64
    rounding could mistake one for its neighbour.
    """
    if masked.dtype != torch.float64 or not masked.isfinite().all():
        return None
    rows, fewer = (t.movedim(dim, 0).reshape(t.shape[dim], -1) for t in (masked, pruned))
    at = torch.rand(rows.shape[1], generator=torch.Generator().manual_seed(0), device="cpu").to(rows)
    places, order = (rows @ at).sort()
    sought = fewer.nan_to_num(0, 0, 0) @ at
    after = torch.searchsorted(places, sought).clamp(1, len(places) - 1)
    nearest = torch.where(sought - places[after - 1] < places[after] - sought, after - 1, after)
    return masked.index_select(dim, order[nearest])


def _error(masked: Tensor, pruned: Tensor, all_masked: Tensor, *, nan_is_nan: bool) -> float:
    """max |pruned - masked| / max |all_masked|, where equal infinities do not differ."""
    difference, least = pruned - masked, torch.finfo(masked.dtype).tiny
    gap, size = _largest(difference), _largest(all_masked)
    if not isfinite(gap) or not isfinite(size):
        same = masked == pruned
        if nan_is_nan:
            same |= masked.isnan() & pruned.isnan()
        gap = _largest(difference.masked_fill(same, 0))
        size = _largest(all_masked.masked_fill(~all_masked.isfinite(), 0))
    error = gap / max(size, least)
    return inf if isnan(error) else error


def _largest(values: Tensor) -> float:
    least, most = values.aminmax()
    return max(abs(float(least)), abs(float(most)))
