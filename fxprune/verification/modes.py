"""Modes: runs of a model in which calls give what two models of different widths can agree on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from fxprune.analysis.ops.table import spec_of
from fxprune.module.dispatch import DispatchMode


@contextmanager
def comparable_calls() -> Iterator[None]:
    """A run without noise, NaN and infinity."""
    with FiniteCalls(), ExpectedCalls():
        yield


class FiniteCalls(TorchFunctionMode):
    """Inside it, calls give 0 where they would give NaN or infinity.

    A masked channel may be 0/0 or log 0, where the pruned model has nothing; nobody reads what it holds. Used for both
    models, it changes neither in the channels that stay.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return tree_map(lambda value: _finite(value, in_place=any(value is a for a in args)), result)


def _finite(value: Any, *, in_place: bool) -> Any:
    if not isinstance(value, Tensor) or not value.is_floating_point() or torch.isfinite(value).all():
        return value
    return value.nan_to_num_(0, 0, 0) if in_place else value.nan_to_num(0, 0, 0)


class ExpectedCalls(DispatchMode):
    """Inside it, random calls give one number everywhere: noise in the shape of a cut activation is another noise.

    `OpSpec.expected` is that number: Bernoulli draws give their probability, so that dropout changes nothing.
    """

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = op(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded not in op.tags:
            return result
        spec = spec_of(op)
        number = 0.5 if spec is None else spec.expected(args)
        return tree_map(lambda t: t.fill_(number) if isinstance(t, Tensor) and t.is_floating_point() else t, result)
