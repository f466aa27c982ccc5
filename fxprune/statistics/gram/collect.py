"""Run a model on data and collect the Gram statistics of the layers that read its groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from math import ceil
from operator import length_hint
from typing import Any, TypeAlias
from zlib import crc32

import torch
from torch import Tensor, nn

from fxprune.analysis.fit import check_groups
from fxprune.analysis.grouping.components import Group
from fxprune.analysis.groups import Groups
from fxprune.errors import InputError
from fxprune.module.batches import batches, noise
from fxprune.plan.plan import Slot
from fxprune.statistics.gram.channels import Responses, owners
from fxprune.statistics.gram.patches import draw, inputs_at, most_varied
from fxprune.statistics.gram.sums import Gram
from fxprune.statistics.observe import Contraction, observing

Columns: TypeAlias = Callable[[Tensor], Tensor]

HELD = 2**30
"""Bytes of statistics that are held until the data has been seen; those of one more layer come on top."""


@dataclass(frozen=True)
class Informative:
    """Of each image the output positions where a layer's outputs vary most over channels, in place of random ones.

    A position's weight is the variance of the layer's outputs over its channels there: on plain background they differ
    little. Which positions count differs from layer to layer and image to image. Source: PCP for domain adaptation,
    Guo, Zhang, Ouyang and Xu, Progressive Channel Pruning; not published, choices of fxprune: the variance is that of
    the outputs as the layer makes them, before what follows it, and the number of positions.

    Attributes:
        count: of positions of each image; where there are fewer, all count.

    Raises:
        InputError: no position, or a number that is not an integer.

    >>> from fxprune.scorers import Informative, Lasso
    >>> Lasso(positions=Informative(10))
    Lasso(positions=Informative(count=10), seed=0)
    """

    count: int = 10

    def __post_init__(self) -> None:
        _require_count(self.count)


@dataclass(frozen=True)
class PerWeight:
    """As many positions of each image as give a layer so many rows for each weight of one of its kernels.

    A fit of n weights from few more rows than n repeats those rows and fails on others. Wide kernels therefore get more
    positions than narrow ones, and few images give more of each than many do. The number of images is that of the first
    batch times the number of batches, where the data tell it (`len(data)`); else each batch gives all the rows, which
    are more than needed.

    Attributes:
        rows: for each weight, over all images; a layer that has fewer output positions gives all of them.

    Raises:
        InputError: `rows` is not a positive number.

    >>> from fxprune.scorers import JointElimination, PerWeight
    >>> JointElimination(positions=PerWeight(20)) == JointElimination()
    True
    """

    rows: float = 20

    def __post_init__(self) -> None:
        if not isinstance(self.rows, int | float) or not 0 < self.rows < float("inf"):
            raise InputError("rows out of range", seen=repr(self.rows), remedy="give a positive number, such as 20")


ENOUGH = PerWeight()

Positions: TypeAlias = int | Informative | PerWeight | None
"""Output positions of each image: so many, drawn anew for each image; those that a rule gives; or None: all."""


@dataclass(frozen=True)
class Sampling:
    """Which of a layer's output positions count.

    Attributes:
        positions: of each image, drawn anew for each layer and image; 10 as He et al. 2017 do; `PerWeight`: enough for
            the layer's kernels; `Informative`: those that say most; None: all.
        seed: of the positions, and of standard normal inputs where there is no data.
        batches: number of batches that will be seen, for `PerWeight`; see `over`. The first one tells of how many
            images they are, as a smaller one at the end must not count for more.

    Raises:
        InputError: no position, or a number that is not an integer.
    """

    positions: Positions = 10
    seed: int = 0
    batches: int = 1
    _images: list[int] = field(init=False, repr=False, compare=False, default_factory=list)

    def __post_init__(self) -> None:
        if self.positions is not None and not isinstance(self.positions, Informative | PerWeight):
            _require_count(self.positions)

    def over(self, data: Iterable[Any] | None) -> Sampling:
        """The same for the given data, if they have a length."""
        # A loader over a stream has a __len__ that raises; length_hint takes that for no answer.
        return replace(self, batches=max(1, length_hint(data, 1)))

    def count(self, seen: Contraction, images: int) -> int | None:
        """Positions of each of the images of a batch, for a call of a layer; None: all."""
        if not isinstance(self.positions, PerWeight):
            return self.positions if isinstance(self.positions, int) else None
        if not self._images:
            self._images.append(images)
        return ceil(self.positions.rows * seen.kernels().shape[-1] / (max(1, self._images[0]) * self.batches))

    def start(self, batch: str = "") -> Callable[[Contraction, int], Tensor]:
        """A function from a call and its number of images to positions, of shape (images, m).

        What a layer gets next does not depend on which other layers are looked at.

        Args:
            batch: its name, so that the draw does not depend on other batches either.
        """
        generators: dict[str, torch.Generator] = {}

        def positions(seen: Contraction, images: int) -> Tensor:
            if isinstance(self.positions, Informative):
                return most_varied(seen, images, self.positions.count)
            if seen.name not in generators:
                generators[seen.name] = torch.Generator().manual_seed(crc32(f"{self.seed} {batch}{seen.name}".encode()))
            return draw(seen, images, self.count(seen, images), generators[seen.name])

        return positions


def _require_count(positions: object) -> None:
    if not isinstance(positions, int) or positions < 1:
        raise InputError(
            "positions must be a positive integer", seen=repr(positions), remedy="10 is usual; None takes all"
        )


@dataclass(frozen=True, eq=False)
class GroupReader:
    """A layer as a reader of one group.

    Attributes:
        slot: where the group's channels lie in the layer's weight.
        channels: their number.
        kernels: the layer's weights, of shape (groups, outputs, n).
        owner: the channel of each entry of a patch (see `owners`), of shape (groups, n).
    """

    slot: Slot
    channels: int
    kernels: Tensor
    owner: Tensor

    def responses(self, gram: Gram) -> Responses:
        return Responses.of(gram, self.kernels, self.owner, self.channels)


def responses(
    model: nn.Module, groups: Groups, data: Iterable[Any] | None, sampling: Sampling
) -> dict[str, list[Responses]]:
    """The channels' responses in every layer that reads each group, from one pass over the data.

    Memory: 8·channels·(channels + outputs) bytes for each reader, and statistics of 8·groups·n² bytes for each layer.
    Those are reduced to responses at the end, or batch by batch for the layers that `HELD` has no room for.

    Raises:
        InputError: unusable data, or a layer's inputs are not finite.
    """
    found: dict[Slot, Responses] = {}
    held: dict[str, Gram] = {}
    met: dict[str, list[GroupReader]] = {}

    def reduce(name: str, gram: Gram) -> None:
        for reader in met[name]:
            _into(found, reader.slot, reader.responses(gram))

    def add(seen: Contraction, where: Tensor, _batch: int) -> None:
        gram = gram_of(seen, where, into=held.get(seen.name))
        if seen.name in held:
            return
        if sum(g.s.nbytes for g in held.values()) + gram.s.nbytes <= HELD:
            held[seen.name] = gram
        else:
            reduce(seen.name, gram)

    _run(model, groups, data, sampling, met, add)
    for name, gram in held.items():
        reduce(name, gram)
    return {g.name: [found[s] for s in g.consumers if s in found and met[s.tensor]] for g in groups}


def readings(
    model: nn.Module, groups: Groups, data: Iterable[Any] | None, sampling: Sampling, parts: int = 1
) -> dict[str, list[tuple[GroupReader, list[Gram]]]]:
    """The Gram statistics of every layer that reads each group, from one pass over the data.

    Memory: 8·parts·groups·n² bytes for each layer.

    Args:
        model: the model.
        groups: the groups.
        data: batches, or None for noise.
        sampling: which output positions count.
        parts: batch i counts in part i modulo `parts`; where there are fewer batches, there are fewer parts.

    Raises:
        InputError: unusable data, or a layer's inputs are not finite.
    """
    grams: dict[tuple[str, int], Gram] = {}
    met: dict[str, list[GroupReader]] = {}

    def add(seen: Contraction, where: Tensor, batch: int) -> None:
        key = seen.name, batch % parts
        grams[key] = gram_of(seen, where, into=grams.get(key))

    _run(model, groups, data, sampling, met, add)
    found = {
        r.slot: (r, [grams[name, p] for p in range(parts) if (name, p) in grams])
        for name, readers in met.items()
        for r in readers
    }
    return {g.name: [found[s] for s in g.consumers if s in found] for g in groups}


def _of_weight(groups: Groups) -> dict[str, list[tuple[Group, Slot]]]:
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
    met: dict[str, list[GroupReader]],
    add: Callable[[Contraction, Tensor, int], None],
) -> None:
    """Hand each call of a layer that reads a group, the positions that count, and the batch's number, to `add`.

    What the layer reads is noted in `met` before; nothing, once the calls of its weight have several forms.
    """
    check_groups(groups, model)
    wanted, positions, images, number = _of_weight(groups), sampling.over(data).start(), 1, 0
    forms: dict[str, Any] = {}

    def note(seen: Contraction) -> None:
        if forms.setdefault(seen.name, seen.form) != seen.form:  # what is read for one is made by the other
            met[seen.name], forms[seen.name] = [], None
        if forms[seen.name] is None:
            return
        if seen.name not in met:
            kernels = seen.kernels()
            met[seen.name] = [GroupReader(s, g.size, kernels, owners(seen, s, g.size)) for g, s in wanted[seen.name]]
        add(seen, positions(seen, images), number)

    with observing(model, set(wanted), note) as run:
        for i, batch in enumerate(batches(model, noise(groups.graph.inputs, sampling.seed) if data is None else data)):
            images, number = batch.size, i
            run(batch)


def gram_of(
    seen: Contraction,
    where: Tensor,
    targets: Tensor | None = None,
    columns: Columns | None = None,
    into: Gram | None = None,
) -> Gram:
    """The Gram statistics of one call of a layer.

    Args:
        seen: the call.
        where: the output positions that count, of shape (images, m).
        targets: what the layer should give there, of shape (rows, groups, outputs); None: S alone.
        columns: a function that picks the part of each patch that counts; None: all.
        into: statistics of other calls, to which these are added; None: there are none.

    Raises:
        InputError: the patches or targets are not finite.
    """
    total, start = into, 0
    for piece in inputs_at(seen, where):
        x = piece if columns is None else columns(piece)
        y = None if targets is None else targets[start : start + len(piece)]
        start += len(piece)
        if total is None:
            total = Gram.of(x, y)
        else:
            total.take(x, y)
    if total is None:
        raise InputError("a layer has no output position", where=seen.name, remedy="give larger inputs")
    # Whatever is not finite shows in these as well, which are short.
    if not all(torch.isfinite(t).all() for t in (total.x_mean, total.y_mean, total.yy, total.s.diagonal(0, 1, 2))):
        raise InputError(
            "the inputs or targets of a layer are not finite",
            where=seen.name,
            remedy="look for NaN or infinite numbers in the data and the weights",
        )
    return total
