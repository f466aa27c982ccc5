"""Merging: batches of a few small inputs as fewer, larger ones, where a model treats each input by itself."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from fxprune.module.batches import batches
from fxprune.module.isolation import output_tensors
from fxprune.module.tensors import tensor_names
from fxprune.statistics.observe import Contraction, observing

PARTS = 4
"""Batches that stay: every other one is held back, and half of the others chooses a ridge."""
NUMBERS = 2**20
"""Numbers that a layer gives on average for a batch from which its calls take longer than to watch them."""


def merged(model: nn.Module, held: Sequence[Any], most: int | None = None) -> Sequence[Any]:
    """The same inputs in fewer batches, so that fewer calls are watched; as they are where that is not known to do.

    Batches are merged while a layer gives fewer than `NUMBERS` numbers for one on average, down to `PARTS` of them, if
    their tensors have a row for each input, all else in them is equal, and the model gives for two inputs in one batch
    what it gives for each alone. A model with a batch's length in its code, or one that mixes inputs, does not.

    Args:
        model: that the batches are for; left as it is.
        held: batches, as `fxprune.module.batches.batches` takes them.
        most: inputs in a batch; None for any number.

    >>> import torch
    >>> data = [(torch.randn(8, 3),) for _ in range(32)]
    >>> [len(inputs) for inputs, in merged(torch.nn.Linear(3, 2), data)]
    [64, 64, 64, 64]
    """
    if len(held) <= PARTS:
        return held
    read = [_rows(batch) for batch in held]
    flat = [rows for rows in read if rows is not None]
    if len(flat) < len(read) or any(not _alike(rows, flat[0]) for rows in flat[1:]):
        return held
    numbers = _numbers_of_an_input(model, flat)
    if numbers is None:
        return held
    inputs = NUMBERS / max(numbers, 1) if most is None else min(NUMBERS / max(numbers, 1), most)
    into = max(PARTS, ceil(len(held) / max(1, int(inputs / flat[0].count))))
    if into >= len(held):
        return held
    return [_joined([flat[i] for i in part]) for part in np.array_split(range(len(held)), into)]


class _Rows:
    """A batch whose tensors have a row for each input."""

    def __init__(self, leaves: list[Any], form: TreeSpec, count: int) -> None:
        self.leaves, self.form, self.count = leaves, form, count

    def first(self) -> _Rows:
        """Its first input."""
        return _Rows([v[:1] if isinstance(v, Tensor) else v for v in self.leaves], self.form, 1)


def _rows(batch: Any) -> _Rows | None:
    leaves, form = tree_flatten(batch)
    tensors = [v for v in leaves if isinstance(v, Tensor)]
    counts = {len(t) if t.dim() else 0 for t in tensors}
    dense = all(t.layout is torch.strided and not t.is_nested for t in tensors)
    return _Rows(leaves, form, counts.pop()) if dense and len(counts) == 1 and min(counts) else None


def _alike(one: _Rows, other: _Rows) -> bool:
    """Whether they differ in numbers and lengths alone."""
    return one.form == other.form and all(map(_same_kind, one.leaves, other.leaves))


def _same_kind(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return type(a) is type(b) and (a.shape[1:], a.dtype, a.device) == (b.shape[1:], b.dtype, b.device)
    return type(a) is type(b) and type(a) in _PLAIN and a == b


_PLAIN = (bool, int, float, str, type(None))


def _joined(parts: Sequence[_Rows]) -> Any:
    columns = zip(*(p.leaves for p in parts), strict=True)
    return tree_unflatten([torch.cat(c) if isinstance(c[0], Tensor) else c[0] for c in columns], parts[0].form)


def _numbers_of_an_input(model: nn.Module, flat: Sequence[_Rows]) -> float | None:
    """What a layer gives for one input, on average; None where two inputs are not what each is alone."""
    given: list[int] = []

    def note(call: Contraction) -> None:
        given.append(call.output.numel())

    alone = [flat[0].first(), flat[-1].first()]
    try:
        with observing(model, set(tensor_names(model).values()), note) as run:
            tried = batches(model, [_joined(rows) for rows in (alone[:1], alone[1:], alone)])
            made = [[t if t.is_complex() else t.double() for t in output_tensors(run(batch))] for batch in tried]
    except Exception:  # a model that wants other batches; if it fails on those that it is given, that is told then
        return None
    apart = len(made[0]) == len(made[1]) == len(made[2]) and all(map(_is_both, *made))
    return fmean(given) * 3 / 4 if given and made[0] and apart else None  # three runs, of four inputs


def _is_both(one: Tensor, other: Tensor, both: Tensor) -> bool:
    """But for rounding: a sum over many numbers is made in another order for another length of a batch."""
    if not both.numel() or not both.dim() or one.shape != other.shape or both.shape != (2 * len(one), *one.shape[1:]):
        return False
    apart = torch.cat([one, other])
    return bool(((apart - both).abs() <= 1e-3 * apart.abs().amax()).all())
