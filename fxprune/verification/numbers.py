"""Numbers: what the tensors of the full-size, the masked and the pruned model hold, made when they are read.

No copy of a model is made for a comparison: a tensor's numbers are made for the call that reads them, and dropped.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from functools import cached_property
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.module.tensors import tensors_of
from fxprune.plan.plan import Plan
from fxprune.rewriting.rewrite import cut, scaled
from fxprune.verification.compare import are_close, same_numbers
from fxprune.verification.randomise import drawn_like, is_redrawn


class Precision(Enum):
    """What a comparison is computed in.

    Attributes:
        OWN: in the model's own.
        SINGLE: in the model's own, which is float32 or wider throughout; each number is equal but for its last bits,
            or nothing is known. The pruned model is given the masked one's sums wherever it has the same weights and
            inputs, so that no rounding of one layer reaches the next.
        DOUBLE: in float64.
    """

    OWN = auto()
    SINGLE = auto()
    DOUBLE = auto()


class Numbers:
    """The numbers of a model's tensors, and what a plan leaves of them.

    Attributes:
        tensors: the model's parameters and buffers by name, each once.
        plan: what stays.
        small: the pruned model, if it was made already.
        made: its parameters and buffers by name, each once; none if it was not made.
        precision: of the comparison.
        random: whether constants and vectors of parameters are drawn anew, and statistics and biases are set from the
            signal.
    """

    def __init__(
        self, model: nn.Module, plan: Plan, seed: int | None, precision: Precision, *, small: nn.Module | None = None
    ) -> None:
        """Seed None: the model's own numbers; small: what `rewrite` made of the model."""
        self.small = small
        self.made = {} if small is None else tensors_of(small)
        self.tensors, self.plan = tensors_of(model), plan
        self.random = seed is not None
        self.precision, self._seed = precision, seed or 0
        self._drawn: dict[str, bool] = {}
        self._vectors: dict[str, Tensor] = {}
        self._agree: dict[str, bool] = {}
        self._products: dict[str, list[_Product]] = {}
        self._has_ends = False  # whether a map was seen whose end functions may round in another way
        self._orders: dict[str, dict[int, Tensor]] = {}
        self._scaled = {scale.tensor for scale in plan.scales}
        self._given: dict[str, Tensor] = {}

    @cached_property
    def cuts(self) -> dict[str, dict[int, np.ndarray]]:
        return self.plan.cuts()

    @cached_property
    def _parts(self) -> dict[str, dict[int, tuple[Tensor, Tensor]]]:
        """The indices that stay of each tensor's dims, ascending, and those that go."""
        known: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # equated dims have the very same arrays

        def part(kept: np.ndarray, tensor: Tensor, dim: int) -> tuple[Tensor, Tensor]:
            key, length = (id(kept), tensor.shape[dim]), tensor.shape[dim]
            if key not in known:
                stay = np.zeros(length, dtype=bool)
                stay[kept] = True
                known[key] = torch.from_numpy(np.flatnonzero(stay)), torch.from_numpy(np.flatnonzero(~stay))
            stays, goes = known[key]
            return stays.to(tensor.device), goes.to(tensor.device)

        return {
            name: {dim: part(kept, self.tensors[name], dim) for dim, kept in dims.items()}
            for name, dims in self.cuts.items()
        }

    @cached_property
    def planned(self) -> dict[str, list[np.ndarray]]:
        """The indices that stay of any dim of each module's own tensors."""
        found: dict[str, dict[int, np.ndarray]] = {}
        for name, dims in self.cuts.items():
            mine = found.setdefault(name.rpartition(".")[0], {})
            mine |= {id(kept): kept for _, kept in sorted(dims.items())}
        return {module: list(mine.values()) for module, mine in found.items()}

    def kept(self, name: str, dim: int) -> Tensor | None:
        """The indices that stay, ascending; None for all."""
        part = self._parts.get(name, {}).get(dim)
        return None if part is None else part[0]

    def read_by(self, name: str, groups: int) -> tuple[Tensor | None, int] | None:
        """The input channels that the rest of a weight reads, and in how many groups; None if these are of two sizes.

        Channels that meet zeros are not read, nor are those of groups of which no row is left.
        """
        rows, columns = self.kept(name, 0), self.kept(name, 1)
        if groups == 1 or (rows is None and columns is None):
            return columns, groups
        size, width = self.tensors[name].shape[:2]
        rows = torch.arange(size, device=self.tensors[name].device) if rows is None else rows
        alive, counts = torch.unique_consecutive(rows // (size // groups), return_counts=True)
        if not len(counts) or bool((counts != counts[0]).any()):
            return None
        columns = torch.arange(width, device=rows.device) if columns is None else columns
        return (alive[:, None] * width + columns).flatten(), len(alive)

    def generator(self, name: str) -> torch.Generator:
        """Draws for a tensor do not depend on the order in which tensors are read."""
        return torch.Generator().manual_seed(self._seed ^ zlib.crc32(name.encode()))

    def whole(self, name: str) -> Tensor:
        """The full-size model's numbers."""
        return self._fresh(name, self._source(name))

    def masked(self, name: str) -> Tensor:
        """With zeros where the plan removes something."""
        tensor = self.whole(name)
        for dim, (_, gone) in self._parts.get(name, {}).items():
            tensor = tensor.index_fill_(dim, gone, 0)
        return tensor

    def blocks(self, name: str) -> Iterator[Tensor]:
        """What is left of the masked tensor without its zeros, in blocks of rows if it is a large matrix.

        So much memory is not taken and given back for each layer.
        """
        kept = {dim: stays for dim, (stays, _) in self._parts.get(name, {}).items()}
        source, made, alike = self._source(name), self._made(name), name not in self._scaled
        order = self._order(name, kept)
        for part in _parts_of(source, kept):
            left = cut(source, kept if part is None else {**kept, 0: part.rows})
            if name not in self._agree and alike and made is not None:
                alike = (
                    _holds(made, left, order) if part is None else not order and same_numbers(left, made[part.place])
                )
            yield self._fresh(name, left)
        self._agree.setdefault(name, alike)

    def _order(self, name: str, kept: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Where the indices that a dim of the pruned model has lie among what is left, unless they ascend."""
        if name not in self._orders:
            turned = {dim: k for dim, k in self._cuts_of(name).items() if (k[1:] < k[:-1]).any()}
            self._orders[name] = {dim: kept[dim].new_tensor(k.argsort().argsort()) for dim, k in turned.items()}
        return self._orders[name]

    def forget_products(self) -> None:
        self._products.clear()
        self._has_ends = False

    def note_product(self, name: str, x: Tensor, out: Tensor, how: Any, *, channel: int, groups: int) -> None:
        """Remember what a layer made with `blocks(name)`, if that takes little memory beside the weight.

        It may take more, as long as it is little, where the pruned model would round sums in another way.

        Args:
            name: of the weight.
            x: what the layer has read, without channels that meet zeros.
            out: what it has made, without its bias.
            how: the layer's further arguments, in the order and by the names that they were given by.
            channel: the dim of both that holds the channels.
            groups: how many groups of channels there were.
        """
        order, depthwise = self._orders[name], groups == x.shape[channel] == out.shape[channel]
        if order and groups > 1 and not depthwise:
            return  # in what order the pruned model's layer reads is not known
        if x.is_inference() or out.is_inference():
            return  # whether they are written to afterwards is not known
        self._has_ends = self._has_ends or out.numel() % _AT_ONCE != 0
        rounded_anew = self._has_ends or bool(order)
        limit = max(self.tensors[name].numel(), _LITTLE if rounded_anew else 0)
        if 2 * (x.numel() + out.numel()) <= limit and self._agree[name]:
            written, read = order.get(0), order.get(0 if depthwise else 1)
            product = _Product(x, out, (x._version, out._version), how, channel, written, read)
            self._products.setdefault(name, []).append(product)

    def known_product(self, name: str, x: Tensor, how: Any) -> Tensor | None:
        """What a layer of the pruned model makes, if it is the very product that the masked model has computed.

        Its weight holds what `blocks(name)` do, and its input the same numbers but for rounding.
        """
        noted = self._products.get(name)
        if not noted:
            return None
        known = noted.pop(0)
        if (known.x._version, known.out._version) != known.versions or known.how != how or x.dtype != known.x.dtype:
            return None
        alike = are_close if self.precision is Precision.SINGLE else _alike
        if not alike(x, selected(known.x, known.read, known.channel)):
            return None
        return known.out.clone() if known.written is None else selected(known.out, known.written, known.channel)

    def pruned(self, name: str) -> Tensor:
        """As `rewrite` cuts it, or has cut it."""
        source = self._source(name)
        if name in self._scaled:
            source = scaled(name, self._fresh(name, source), self.plan)  # a factor is rounded in a narrow type
        elif (made := self._made(name)) is not None:
            return self._fresh(name, made)
        return self._fresh(name, cut(source, self._cuts_of(name)))

    def _cuts_of(self, name: str) -> dict[int, np.ndarray]:
        return self.cuts.get(name, {})

    def _made(self, name: str) -> Tensor | None:
        """The tensor of the pruned model that was made already, unless other numbers than the model's own are used."""
        own = name in self.made and _same_memory(self._source(name), self.tensors[name])
        return self.made[name].detach() if own else None

    def is_set(self, name: str) -> bool:
        return name in self._given

    def set(self, name: str, tensor: Tensor) -> None:
        """Other numbers for the full-size tensor."""
        self._given[name] = tensor

    def _source(self, name: str) -> Tensor:
        if name in self._given:
            return self._given[name]
        if name in self._vectors:
            return self._vectors[name]
        tensor = self.tensors[name].detach()
        if name not in self._drawn:
            self._drawn[name] = self.random and is_redrawn(self.tensors[name])
        if self._drawn[name]:
            tensor = drawn_like(tensor, self.generator(name)) + 0.5
        if tensor.dim() == 1:
            self._vectors[name] = tensor
        return tensor

    def _fresh(self, name: str, tensor: Tensor) -> Tensor:
        """In the precision of the comparison, and nobody else's: a call may write to what it reads."""
        new = lifted(tensor) if self.precision is Precision.DOUBLE else tensor
        held = (self.tensors[name], self._given.get(name), self._vectors.get(name), self.made.get(name))
        return new.clone() if any(t is not None and _same_memory(new, t) for t in held) else new


def _same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether both may hold the same numbers in the same place; of tensors that are not dense that is not known."""
    return torch.strided not in (a.layout, b.layout) or (a.layout is b.layout and a.data_ptr() == b.data_ptr())


_LITTLE = 2**18  # numbers; all maps of a network on a small image are a few megabytes
_AT_ONCE = 32  # numbers that a processor's widest instructions take; what is left is computed one by one


def _holds(made: Tensor, left: Tensor, order: Mapping[int, Tensor]) -> bool:
    """Whether a tensor of the pruned model holds what is left of the masked one, in that order."""
    for dim, places in order.items():
        left = left.index_select(dim, places)
    return same_numbers(left, made)


class _Product(NamedTuple):
    """What a layer has made of its input.

    Attributes:
        x: the input.
        out: the result.
        versions: of both, which grow with what is written to them.
        how: the layer's further arguments.
        channel: the dim of both that holds the channels.
        written: where the channels that the pruned model's layer writes lie in the result, if in another order.
        read: where those that it reads lie in the input, if in another order.
    """

    x: Tensor
    out: Tensor
    versions: tuple[int, int]
    how: Any
    channel: int
    written: Tensor | None
    read: Tensor | None


def selected(x: Tensor, kept: Tensor | None, dim: int) -> Tensor:
    """Those of a dim's indices, or all."""
    return x if kept is None else x.index_select(dim, kept)


def _alike(x: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, or differ by less than sums of other zeros may come out as."""
    if x.shape != other.shape or not x.is_floating_point() or same_numbers(x, other):
        return same_numbers(x, other)
    gap = float((x - other).abs_().max())
    return isfinite(gap) and gap <= _ROUNDING * torch.finfo(x.dtype).eps * float(other.abs().max())


_ROUNDING = 64  # times the precision: far less than any channel that is taken for another makes


class _Rows(NamedTuple):
    """Some rows of a tensor: which ones, and where they lie in what is left of it."""

    rows: Tensor
    place: slice


def _parts_of(source: Tensor, kept: Mapping[int, Tensor]) -> Iterator[_Rows | None]:
    """Blocks of rows of a large matrix; None for all of another tensor."""
    if source.dim() != 2 or source.numel() <= _LARGE:
        yield None
        return
    rows = kept[0] if 0 in kept else torch.arange(len(source), device=source.device)
    step = max(1, _LARGE // 4 // source.shape[1])
    for start in range(0, len(rows), step):
        yield _Rows(rows[start : start + step], slice(start, start + step))


_LARGE = 2**23  # numbers; the memory allocator gives back to the system what is larger than 32 MiB


def lifted(value: Tensor) -> Tensor:
    """In float64, where it is of floating point."""
    if value.is_complex():
        return value.to(torch.complex128)
    return value.double() if value.is_floating_point() else value


def is_narrow(value: Any) -> bool:
    """Whether it is a tensor of a type in which numbers that differ are often equal."""
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()) and value.dtype not in _WIDE


_WIDE = frozenset([torch.float32, torch.float64, torch.complex64, torch.complex128])
