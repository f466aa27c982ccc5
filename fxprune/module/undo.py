"""Undo: what is changed in place is changed whole or not at all, whatever fails or interrupts it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn

from fxprune.module.isolation import finish
from fxprune.module.saved_state import Saved


@contextmanager
def whole_or_not(models: Iterable[nn.Module], others: Iterable[Any] = ()) -> Iterator[None]:
    """Put back what modules hold, their classes included, and what other objects hold, if the block does not end well.

    Numbers that the block writes into a tensor stay.
    """
    kinds = {m: type(m) for model in models for m in model.modules()}
    saved, seen = Saved(), set[int]()
    for value in (*kinds, *others):
        saved.save(vars(value), seen)
    try:
        yield
    except BaseException:
        finish([*(partial(object.__setattr__, m, "__class__", kind) for m, kind in kinds.items()), *saved.steps])
        raise
