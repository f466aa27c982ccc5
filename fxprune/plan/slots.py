"""Slots: where channels lie in tensors, which of them stay, and what that leaves of each tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False, repr=False)
class Slot:
    """Where the channels of a group lie in one dim of one tensor.

    Attributes:
        tensor: qualified name of the parameter or buffer.
        dim: the dim.
        length: the dim's length.
        positions: indices along the dim that belong to the group, of shape (n,), in the order in which they stand in
            the rewritten tensor (ascending).
        channels: the channel of each position, of shape (n,). One channel may own several positions: 49 columns of a
            linear layer after a 7x7 feature map was flattened.
        role: what the dim is to the op that uses the tensor: "producer" (makes the channels), "consumer" (reads them)
            or "other" (norms, biases, statistics).
    """

    tensor: str
    dim: int
    length: int
    positions: Ints
    channels: Ints
    role: str = "other"

    def __str__(self) -> str:
        return f"{self.tensor}[dim {self.dim}]"

    def __repr__(self) -> str:
        return f"Slot({self}: {len(self.positions)} of {self.length} indices, {self.role})"


@dataclass(frozen=True, eq=False, repr=False)
class PlannedGroup:
    """One group's part of a plan: its channels' places and the channels that stay.

    Attributes:
        name: the group's name.
        size: its number of channels.
        kept: the channels that stay, ascending, of shape (k,), 1 <= k <= size; 0 in balanced groups of
            which another keeps some.
        slots: where its channels lie.
    """

    name: str
    size: int
    kept: Ints
    slots: tuple[Slot, ...]

    def __repr__(self) -> str:
        return f"PlannedGroup({self.name}: {len(self.kept)} of {self.size} channels stay)"


@dataclass(frozen=True, eq=False, repr=False)
class Scale:
    """Rows of a weight or bias that are multiplied by a factor.

    Where the model's code computes an attention scale from a width, the shorter width would change it; the weights
    before it take up the difference, so that the scale keeps its old effect.

    Attributes:
        tensor: qualified name.
        rows: positions along the first dim of the full-size tensor.
        factor: what they are multiplied by.
    """

    tensor: str
    rows: Ints
    factor: float

    def __repr__(self) -> str:
        return f"Scale({self.tensor}: {len(self.rows)} rows times {self.factor:g})"


def kept_indices(groups: Iterable[PlannedGroup], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[int, Ints]]:
    """What stays of each tensor: {tensor: {dim: kept indices}}; untouched dims are absent.

    Args:
        groups: the planned groups.
        shapes: the full shape of each tensor that they lie in.
    """
    parts: dict[tuple[str, int], list[_Part]] = {}
    for group in groups:
        stays = np.zeros(group.size, dtype=bool)
        stays[group.kept] = True
        for slot in group.slots:
            parts.setdefault((slot.tensor, slot.dim), []).append((slot.positions, slot.channels, stays))
    found: dict[str, dict[int, Ints]] = {}
    known: dict[tuple[int, ...], Ints | None] = {}  # equated dims have the very same arrays
    for (tensor, dim), mine in parts.items():
        length = shapes[tensor][dim]
        key = (length, *(id(array) for part in mine for array in part))
        if key not in known:
            known[key] = _kept_positions(length, mine)
        kept = known[key]
        if kept is not None:
            found.setdefault(tensor, {})[dim] = kept
    return found


_Part = tuple[Ints, Ints, npt.NDArray[np.bool_]]  # a slot's positions and channels, and which channels stay


def _kept_positions(length: int, parts: list[_Part]) -> Ints | None:
    """Indices that stay, ascending; indices outside every slot stay where they are. None for all."""
    keep = np.ones(length, dtype=bool)
    for positions, channels, stays in parts:
        keep[positions] = stays[channels]
    return None if keep.all() else np.flatnonzero(keep)


@dataclass(frozen=True, repr=False, eq=False)
class PlanFields:
    """What a plan holds; `fxprune.Plan` says what each field means, and adds what can be done with them."""

    groups: Mapping[str, PlannedGroup]
    attributes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    scales: tuple[Scale, ...] = ()
    orders: Mapping[str, Mapping[int, Ints]] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    def kept_counts(self) -> dict[str, int]:
        """Channels that stay, by group."""
        return {name: len(g.kept) for name, g in self.groups.items()}

    def cuts(self) -> dict[str, dict[int, Ints]]:
        """What stays of each tensor: {tensor: {dim: kept indices in their order}}; untouched dims are absent."""
        return {
            tensor: {dim: self.orders.get(tensor, {}).get(dim, kept) for dim, kept in dims.items()}
            for tensor, dims in kept_indices(self.groups.values(), self.shapes).items()
        }
