"""Spared: what a layer gives is not computed where nobody looks at it.

A pass over the data reads what one layer reads, follows its output to the shortcut that it is added to, and stops. The
layer's own output, with weights that are about to be replaced, counts for nothing: it is zeros here. Should anything
look at what follows from them, a kept input, a shortcut, or code that reads numbers, then the run is repeated in full.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from fxprune.analysis.ops.contraction import CONVOLUTION
from fxprune.module.dispatch import DispatchMode
from fxprune.reconstruction.replay import Reads, is_strided, written
from fxprune.tracing.meta_kernels import answer

R = TypeVar("R")


class NeededError(BaseException):
    """Something looks at what was not computed. No `except Exception` of the model's code stops it."""


class Spared(DispatchMode):
    """While it is on, convolutions with one weight give zeros, and what is computed from these is known.

    Args:
        weight: id of the weight.
    """

    def __init__(self, weight: int) -> None:
        super().__init__()
        self._weight = weight
        self._touched: dict[int, Tensor] = {}  # by address; they are held, so that no other memory gets it

    def check(self, tensor: Tensor) -> None:
        """Refuse a tensor that follows from the zeros.

        Raises:
            NeededError: it does.
        """
        if self._touched and (not is_strided(tensor) or _address(tensor) in self._touched):
            raise NeededError

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op is CONVOLUTION and id(args[1]) == self._weight:
            self.check(args[0])
            result = _zeros(op, args, kwargs or {})
            self._touched[_address(result)] = result
            return result
        results = op(*args, **(kwargs or {}))
        if self._touched:
            given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            if any(not is_strided(t) or _address(t) in self._touched for t in given):
                self._touch([*tree_leaves(results), *written(op, args, kwargs)], op)
        return results

    def _touch(self, results: list[Any], op: Any) -> None:
        """Results that follow from the zeros; numbers and shapes that do so decide what comes next."""
        told = [t for t in results if t is not None]
        if _TELLING & set(op.tags) or not all(isinstance(t, Tensor) and is_strided(t) for t in told):
            raise NeededError
        self._touched |= {_address(t): t for t in told if t.numel()}


class Sparing:
    """Whether convolutions are spared; no more, once something has looked."""

    def __init__(self) -> None:
        self._on = True

    def run(self, forward: Callable[[], R], weight: int, watch: Callable[[Spared | None], None]) -> R:
        """What `forward` gives.

        Args:
            forward: runs a model, and may be called twice.
            weight: id of the weight of which nobody looks at what its convolutions give.
            watch: gets what `forward` must have checked, and None afterwards.
        """
        if self._on:
            spared = Spared(weight)
            watch(spared)
            try:
                with Reads(lambda _, tensor: spared.check(tensor)), spared:
                    return forward()
            except (NeededError, Exception):  # in full, the same call shows whether the model is to blame
                self._on = False
            finally:
                watch(None)
        return forward()


_TELLING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _zeros(op: Any, args: Any, kwargs: Any) -> Tensor:
    """Zeros of the shape and strides that a call gives."""
    with _disable_current_modes():
        like = tree_map(lambda t: torch.empty_like(t, device="meta") if isinstance(t, Tensor) else t, (args, kwargs))
        given = answer(op, *like)
        return torch.empty_strided(given.shape, given.stride(), dtype=given.dtype, device=args[0].device).zero_()
