"""Run a model on data and collect the Gram statistics of the layers that read its groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias
from zlib import crc32

import torch
from torch import Tensor, nn

from fxprune.analysis import Group
from fxprune.batches import batches, noise
from fxprune.errors import InputError
from fxprune.gram.channels import Responses, owners
from fxprune.gram.patches import draw, inputs_at
from fxprune.gram.sums import Gram
from fxprune.groups import Groups
from fxprune.observe import Contraction, observing
from fxprune.plan import Slot

Columns: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Sampling:
    """Which of a layer's output positions count.

    Attributes:
        positions: of each image, drawn anew for each layer and image; 10 as He et al. 2017 do; None: all.
        seed: of the positions, and of standard normal inputs where there is no data.

    Raises:
        InputError: no position, or a number that is no integer.
    """

    positions: int | None = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.positions is not None and (not isinstance(self.positions, int) or self.positions < 1):
            raise InputError(
                "positions must be a positive integer", seen=repr(self.positions), remedy="10 is usual; None takes all"
            )

    def start(self) -> Callable[[Contraction, int], Tensor]:
        """A function from a call and its number of images to positions, of shape (images, m).

        What a layer gets next does not depend on which other layers are looked at.
        """
        generators: dict[str, torch.Generator] = {}

        def positions(seen: Contraction, images: int) -> Tensor:
            if seen.name not in generators:
                generators[seen.name] = torch.Generator().manual_seed(crc32(f"{self.seed} {seen.name}".encode()))
            return draw(seen, images, self.positions, generators[seen.name])

        return positions


def responses(
    model: nn.Module, groups: Groups, data: Iterable[Any] | None, sampling: Sampling
) -> dict[str, list[Responses]]:
    """The channels' responses in every layer that reads each group, from one pass over the data.

    Memory: S of one layer at a time, 8·groups·n² bytes, and 8·channels·(channels + outputs) for each reader.

    Raises:
        InputError: unusable data, or a layer's inputs are not finite.
    """
    found: dict[tuple[str, str, int], Responses] = {}
    readers = _readers(groups)

    def add(gram: Gram, seen: Contraction) -> None:
        for group, slot in readers[seen.name]:
            new = Responses.of(gram, seen.kernels(), owners(seen, slot, group.size), group.size)
            _into(found, (group.name, slot.tensor, slot.dim), new)

    _run(model, groups, data, sampling, add)
    return {g.name: [r for (name, *_), r in found.items() if name == g.name] for g in groups}


@dataclass
class Reading:
    """A layer as a reader of one group.

    Attributes:
        kernels: its weights, of shape (groups, outputs, n).
        owner: the channel of each entry of a patch (see `owners`), of shape (groups, n).
        gram: of its patches; readers of several groups share it.
    """

    kernels: Tensor
    owner: Tensor
    gram: Gram


def readings(
    model: nn.Module, groups: Groups, data: Iterable[Any] | None, sampling: Sampling
) -> dict[str, list[Reading]]:
    """The Gram statistics of every layer that reads each group, from one pass over the data.

    Memory: 8·groups·n² bytes for each layer.

    Raises:
        InputError: unusable data, or a layer's inputs are not finite.
    """
    grams: dict[str, Gram] = {}
    found: dict[tuple[str, str, int], Reading] = {}
    readers = _readers(groups)

    def add(gram: Gram, seen: Contraction) -> None:
        _into(grams, seen.name, gram)
        for group, slot in readers[seen.name]:
            if (key := (group.name, slot.tensor, slot.dim)) not in found:
                found[key] = Reading(seen.kernels(), owners(seen, slot, group.size), grams[seen.name])

    _run(model, groups, data, sampling, add)
    return {g.name: [r for (name, *_), r in found.items() if name == g.name] for g in groups}


def _readers(groups: Groups) -> dict[str, list[tuple[Group, Slot]]]:
    """For each weight, the groups that it reads."""
    readers: dict[str, list[tuple[Group, Slot]]] = {}
    for g in groups:
        for s in g.consumers:
            readers.setdefault(s.tensor, []).append((g, s))
    return readers


def _into(sums: dict[Any, Any], key: Any, new: Any) -> None:
    if key in sums:
        sums[key].add(new)
    else:
        sums[key] = new


def _run(
    model: nn.Module,
    groups: Groups,
    data: Iterable[Any] | None,
    sampling: Sampling,
    add: Callable[[Gram, Contraction], None],
) -> None:
    """Hand the statistics of each call of a layer that reads a group to `add`."""
    positions, images = sampling.start(), 1

    def note(seen: Contraction) -> None:
        add(gram_of(seen, positions(seen, images)), seen)

    with observing(model, set(_readers(groups)), note) as run:
        for batch in batches(model, noise(groups.graph, sampling.seed) if data is None else data):
            images = batch.size
            run(batch)


def gram_of(seen: Contraction, where: Tensor, targets: Tensor | None = None, columns: Columns | None = None) -> Gram:
    """The Gram statistics of one call of a layer.

    Args:
        seen: the call.
        where: the output positions that count, of shape (images, m).
        targets: what the layer should give there, of shape (rows, groups, outputs); None: S alone.
        columns: a function that picks the part of each patch that counts; None: all.

    Raises:
        InputError: the patches or targets are not finite.
    """
    total, start = None, 0
    for piece in inputs_at(seen, where):
        x = piece if columns is None else columns(piece)
        part = Gram.of(x, None if targets is None else targets[start : start + len(piece)])
        start += len(piece)
        if total is None:
            total = part
        else:
            total.add(part)
    if total is None:
        raise InputError("a layer has no output position", where=seen.name, remedy="give larger inputs")
    if not (torch.isfinite(total.s).all() and torch.isfinite(total.r).all()):
        raise InputError(
            "the inputs or targets of a layer are not finite",
            where=seen.name,
            remedy="look for NaN or infinite numbers in the data and the weights",
        )
    return total
