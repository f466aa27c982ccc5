"""Products: what layers of the masked model made, for layers of the pruned one with the same weights and inputs.

Sums of fewer numbers may be rounded in another way. Given the masked model's sums, the pruned one has the same numbers
to the last bit, as far as its weights and inputs are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fxprune.verification.compare import same_numbers


class Product(NamedTuple):
    """What a layer has made of its input.

    Attributes:
        x: the input.
        out: the result, without a bias.
        how: the layer's further arguments.
        channel: the dim of both that holds the channels.
        written: where the channels that the pruned model's layer writes lie in the result, if in another order.
        read: where those that it reads lie in the input, if in another order.
    """

    x: Tensor
    out: Tensor
    how: Any
    channel: int
    written: Tensor | None
    read: Tensor | None

    @property
    def versions(self) -> tuple[int, int]:
        """Of input and result, which grow with what is written to them."""
        return self.x._version, self.out._version


class Products:
    """What each layer has made, in the order of its calls, if that takes little memory, or little beside its weight.

    Args:
        alike: whether two inputs hold the same numbers.
    """

    def __init__(self, alike: Callable[[Tensor, Tensor], bool]) -> None:
        self._alike = alike
        self.forget()

    def forget(self) -> None:
        self._noted = dict[str, list[tuple[Product, tuple[int, int]]]]()

    def note(self, name: str, product: Product, weight: int, *, again: bool) -> None:
        """Remember a product.

        Args:
            name: of the layer's weight.
            product: what it has made.
            weight: how many numbers the weight holds.
            again: whether the pruned model has a weight that holds the same.
        """
        x, out = product.x, product.out
        if x.is_inference() or out.is_inference():
            return  # whether they are written to afterwards is not known
        if again and 2 * (x.numel() + out.numel()) <= max(weight, _LITTLE):
            self._noted.setdefault(name, []).append((product, product.versions))

    def known(self, name: str, x: Tensor, how: Any) -> Tensor | None:
        """What the pruned model's layer makes, if it is the very product that the masked model has computed.

        Its weight holds the same numbers; its input shall, but for rounding.
        """
        noted = self._noted.get(name)
        if not noted:
            return None
        known, versions = noted.pop(0)
        if known.versions != versions or known.how != how or x.dtype != known.x.dtype:
            return None
        if not self._alike(x, selected(known.x, known.read, known.channel)):
            return None
        return known.out.clone() if known.written is None else selected(known.out, known.written, known.channel)


_LITTLE = 2**18  # numbers; all maps of a network on a small image are a few megabytes


def selected(x: Tensor, kept: Tensor | None, dim: int) -> Tensor:
    """Those of a dim's indices, or all."""
    return x if kept is None else x.index_select(dim, kept)


def alike(x: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, or differ by less than sums of other zeros may come out as."""
    if x.shape != other.shape or not x.is_floating_point() or same_numbers(x, other):
        return same_numbers(x, other)
    gap = float((x - other).abs_().max())
    return isfinite(gap) and gap <= _ROUNDING * torch.finfo(x.dtype).eps * float(other.abs().max())


_ROUNDING = 64  # times the precision: far less than any channel that is taken for another makes
