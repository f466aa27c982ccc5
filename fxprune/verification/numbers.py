"""Numbers: what the tensors of the full-size, the masked and the pruned model hold, made when they are read.

No copy of a model is made for a comparison: a tensor's numbers are made for the call that reads them, and dropped.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.module.tensors import tensors_of
from fxprune.plan.plan import Plan
from fxprune.rewriting.rewrite import Rewritten, cut, scaled
from fxprune.verification.compare import are_close, same_numbers
from fxprune.verification.products import Product, Products, alike
from fxprune.verification.randomise import drawn_like, is_constant
from fxprune.verification.vectors import cut as cut_vectors
from fxprune.verification.vectors import drawn, is_vector, masked


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
        products: what the masked model has made with weights that the pruned one has as well.
        random: whether constants and vectors of parameters are drawn anew, and statistics and biases are set from the
            signal.
    """

    def __init__(
        self, model: nn.Module, plan: Plan, seed: int | None, precision: Precision, *, small: Rewritten | None = None
    ) -> None:
        """Seed None: the model's own numbers; small: what `rewritten` made of the model."""
        self.small = None if small is None else small.model
        self.made = {} if small is None else tensors_of(small.model)
        self.cuts = plan.cuts() if small is None else small.kept
        self._as_cut = {} if small is None else small.cuts
        self.tensors, self.plan = tensors_of(model), plan
        self.random = seed is not None
        self.precision, self._seed = precision, seed or 0
        self._drawn: dict[str, bool] = {}
        self._agree: dict[str, bool] = {}
        self.products = Products(are_close if precision is Precision.SINGLE else alike)
        self._known: dict[tuple[int, int, torch.device], tuple[Tensor, Tensor]] = {}
        self._orders: dict[str, dict[int, Tensor]] = {}
        self._turned: dict[int, bool] = {}
        self._scaled = {scale.tensor for scale in plan.scales}
        self._given: dict[str, Tensor] = {}

    def _parts(self, name: str) -> dict[int, tuple[Tensor, Tensor]]:
        """The indices that stay of each dim that is cut of a tensor, ascending, and those that go."""
        return {dim: self._part(kept, self.tensors[name], dim) for dim, kept in self._cuts_of(name).items()}

    def _part(self, kept: np.ndarray, tensor: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        key = id(kept), tensor.shape[dim], tensor.device  # equated dims have the very same arrays
        if key not in self._known:
            stay = np.zeros(tensor.shape[dim], dtype=bool)
            stay[kept] = True
            both = torch.from_numpy(np.flatnonzero(stay)), torch.from_numpy(np.flatnonzero(~stay))
            self._known[key] = both[0].to(tensor.device), both[1].to(tensor.device)
        return self._known[key]

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
        kept = self._cuts_of(name).get(dim)
        return None if kept is None else self._part(kept, self.tensors[name], dim)[0]

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

    def unit(self, name: str) -> Tensor:
        """Random numbers in [0, 1) for a vector, in float64; those of all vectors are drawn at once."""
        return self._units[name]

    @cached_property
    def _units(self) -> dict[str, Tensor]:
        lengths = {name: len(tensor) for name, tensor in self.tensors.items() if tensor.dim() == 1}
        drawn = torch.rand(sum(lengths.values()), generator=self.generator(""), dtype=torch.float64, device="cpu")
        return dict(zip(lengths, drawn.split(list(lengths.values())), strict=True))

    @cached_property
    def _vectors(self) -> dict[str, Tensor]:
        """The full-size model's vectors of parameters, drawn anew."""
        found = {name: t for name, t in self.tensors.items() if is_vector(t)} if self.random else {}
        return drawn(found, self._units)

    def vectors(self, which: str) -> dict[str, Tensor]:
        """New tensors for one run of the "masked" or the "pruned" model: all vectors that are drawn, or set by now."""
        known = {**self._vectors, **self._given}.items()
        suits = {name for name, t in known if t.dim() == 1 and t.shape == self.tensors[name].shape} - self._scaled
        sources = {name: t for name, t in known if name in suits}
        kept = {name: dims[0] for name, dims in self.cuts.items() if name in suits}
        made = (masked if which == "masked" else cut_vectors)(sources, kept)
        return {name: lifted(t) for name, t in made.items()} if self.precision is Precision.DOUBLE else made

    def whole(self, name: str) -> Tensor:
        """The full-size model's numbers."""
        return self._fresh(name, self._source(name))

    def masked(self, name: str) -> Tensor:
        """With zeros where the plan removes something."""
        parts = self._parts(name)
        own = not parts or self.precision is Precision.DOUBLE
        tensor = self.whole(name) if own else self._source(name)
        for dim, (_, gone) in parts.items():
            tensor = tensor.index_fill_(dim, gone, 0) if own else tensor.index_fill(dim, gone, 0)
            own = True
        return tensor

    def blocks(self, name: str) -> Iterator[Tensor]:
        """What is left of the masked tensor without its zeros, in blocks of rows if it is a large matrix.

        So much memory is not taken and given back for each layer.
        """
        kept = {dim: stays for dim, (stays, _) in self._parts(name).items()}
        source, made, alike = self._source(name), self._made(name), name not in self._scaled
        order = self._order(name, kept)
        if made is not None and alike and not order and self._is_as_cut(name, source):
            self._agree.setdefault(name, True)
            yield made
            return
        for part in _parts_of(source, kept):
            left = cut(source, kept if part is None else {**kept, 0: part.rows})
            if name not in self._agree and alike and made is not None:
                alike = (
                    _holds(made, left, order) if part is None else not order and same_numbers(left, made[part.place])
                )
            yield self._fresh(name, left)
        self._agree.setdefault(name, alike)

    def _is_as_cut(self, name: str, source: Tensor) -> bool:
        """Whether the pruned model has the very tensor that was cut for it, and nothing has been written to that."""
        tensor, version = self._as_cut.get(name, (None, 0))
        made = self.made[name]
        if tensor is not made or made._version != version or self.precision is Precision.DOUBLE or not made.numel():
            return False
        first = [0] * made.dim()
        for dim, kept in self._cuts_of(name).items():
            first[dim] = int(kept[0])
        # A copy's own code may write past the version.
        return made[(0,) * made.dim()].item() == source[tuple(first)].item()

    def _order(self, name: str, kept: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Where the indices that a dim of the pruned model has lie among what is left, unless they ascend."""
        if name not in self._orders:
            turned = {dim: k for dim, k in self._cuts_of(name).items() if self._is_turned(k)}
            self._orders[name] = {dim: kept[dim].new_tensor(k.argsort().argsort()) for dim, k in turned.items()}
        return self._orders[name]

    def _is_turned(self, kept: np.ndarray) -> bool:
        """Equated dims have the very same arrays."""
        if id(kept) not in self._turned:
            self._turned[id(kept)] = bool((kept[1:] < kept[:-1]).any())
        return self._turned[id(kept)]

    def note_product(self, name: str, x: Tensor, out: Tensor, how: Any, *, channel: int, groups: int) -> None:
        """Remember what a layer made with `blocks(name)`, if the pruned model's weight holds the same.

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
        product = Product(x, out, how, channel, order.get(0), order.get(0 if depthwise else 1))
        self.products.note(name, product, self.tensors[name].numel(), again=self._agree[name])

    def pruned(self, name: str) -> Tensor:
        """As `rewrite` cuts it, or has cut it."""
        source = self._source(name)
        if name in self._scaled:
            source = scaled(name, self._fresh(name, source), self.plan)  # a factor is rounded in a narrow type
        elif (made := self._made(name)) is not None:
            return self._fresh(name, made)
        cuts = self._cuts_of(name)
        if cuts and source.dim() == 1:
            left = source.index_select(0, torch.as_tensor(cuts[0], device=source.device))
            return lifted(left) if self.precision is Precision.DOUBLE else left
        return self._fresh(name, cut(source, cuts))

    def _cuts_of(self, name: str) -> dict[int, np.ndarray]:
        return self.cuts.get(name, {})

    def _made(self, name: str) -> Tensor | None:
        """The tensor of the pruned model that was made already, unless other numbers than the model's own are used."""
        self._source(name)
        other = name in self._given or name in self._vectors or self._drawn[name]
        return self.made[name].detach() if name in self.made and not other else None

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
            self._drawn[name] = self.random and is_constant(tensor)
        return drawn_like(tensor, self.generator(name)) + 0.5 if self._drawn[name] else tensor

    def _fresh(self, name: str, tensor: Tensor) -> Tensor:
        """In the precision of the comparison, and nobody else's: a call may write to what it reads."""
        new = lifted(tensor) if self.precision is Precision.DOUBLE else tensor
        held = (self.tensors[name], self._given.get(name), self._vectors.get(name), self.made.get(name))
        return new.clone() if any(t is not None and _same_memory(new, t) for t in held) else new


def _same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether both may hold the same numbers in the same place; of tensors that are not dense that is not known."""
    return torch.strided not in (a.layout, b.layout) or (a.layout is b.layout and a.data_ptr() == b.data_ptr())


def _holds(made: Tensor, left: Tensor, order: Mapping[int, Tensor]) -> bool:
    """Whether a tensor of the pruned model holds what is left of the masked one, in that order."""
    for dim, places in order.items():
        left = left.index_select(dim, places)
    return same_numbers(left, made)


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
