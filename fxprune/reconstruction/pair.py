"""Pair: run the original and the pruned model on the same data, and sum what the pruned layers read and should give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.errors import InputError
from fxprune.module.batches import Batch, batches
from fxprune.reconstruction.mixtures import Mixture, targets
from fxprune.reconstruction.original import Given, Original
from fxprune.reconstruction.readers import Reader
from fxprune.reconstruction.record import Recorded, Replay, last_event, recording
from fxprune.reconstruction.replay import WORTH, Tapes
from fxprune.reconstruction.residual_add import CallKey, ResidualAdd
from fxprune.reconstruction.spared import Sparing
from fxprune.statistics.gram.collect import gram_of
from fxprune.statistics.gram.patches import outputs_at
from fxprune.statistics.gram.sums import Gram
from fxprune.statistics.observe import Contraction

_Sums = dict[str, dict[int, Gram]]
NEGLIGIBLE = 1e-3
"""Part of a batch norm's largest scale below which a channel cannot repair the shortcut."""


@dataclass(frozen=True, eq=False)
class Pair:
    """An original and its pruned model.

    Attributes:
        original: the original.
        small: the pruned model, as it is at the time.
        readers: the layers that read removed channels.
        data: batches, that can be read again and again.
        repairs: whether a layer's call makes up for the error of what it is added to: the call, and the weight of the
            layer that made the other, or None.
        tapes: hold what the pruned model computes before the layers that are still to be fitted.
        events: of the readers in a forward of the pruned model (see `RecordedRun`), so that the first batch of a pass
            needs no run to the end either; empty where they are not known.
        mixtures: of the layers that should give mixtures of the original's outputs.
        apart: the weights whose calls keep biases of their own, so that the targets are without them.
        sparing: of what the layer of a pass gives, which is not looked at.
    """

    original: Original
    small: nn.Module
    readers: Mapping[str, Reader]
    data: Iterable[Any]
    repairs: Callable[[CallKey, str | None], bool]
    tapes: Tapes | None = None
    events: Sequence[str] = ()
    mixtures: Mapping[str, Sequence[Mixture]] = field(default_factory=dict)
    apart: Set[str] = frozenset()
    sparing: Sparing = field(default_factory=Sparing)

    def current(self, names: Set[str], parts: int = 1, pending: Set[str] = frozenset()) -> dict[str, list[Gram]]:
        """X from the pruned model as it is, Y from the original, with what repairs the shortcut that it is added to.

        Args:
            names: of weights.
            parts: batch i counts in part i modulo `parts`; where there are fewer batches, there are fewer parts.
            pending: names of the tensors of the pruned model that may still change; none where all of them may.
        """
        sums = _Sums()
        stop = last_event(self.events, names) if self.events else None
        with recording(self.small, set(self.readers), Recorded.reading) as pruned, self.original.looking(names) as look:
            for i, batch in enumerate(batches(self.small, self.data)):
                given = look(batch)
                new = pruned(batch, names, stop, self._replay(batch, pending), self._sparing(given))
                stop = stop or last_event(new.events, names)
                if given.keys() != new.calls.keys():
                    raise InputError(
                        "original and pruned model do not run the same layers",
                        where=batch.place,
                        seen=f"{sorted(given)} and {sorted(new.calls)}"[:200],
                        remedy="give the model that the plan was made for, and its pruned copy",
                    )
                for call, recorded in new.calls.items():
                    if recorded.seen.rows == given[call].seen.rows:  # else its positions are removed channels
                        known = sums.setdefault(recorded.seen.name, {})
                        known[i % parts] = self._gram(given[call], recorded, known.get(i % parts))
        return _in_parts(sums)

    def _replay(self, batch: Batch, pending: Set[str]) -> Replay | None:
        return Replay(self.tapes, batch.prints, pending) if self.tapes is not None and pending else None

    def _sparing(self, given: Mapping[CallKey, Given]) -> Sparing | None:
        """None where a layer's output takes less time than to look at all calls."""
        return self.sparing if max((g.seen.output.numel() for g in given.values()), default=0) >= WORTH else None

    def _gram(self, given: Given, new: Recorded, into: Gram | None) -> Gram:
        name = new.seen.name
        kept, targets = self._wanted(given.seen, given.outputs)
        if given.shortcut is not None and new.addition and self.repairs(new.addition.way.call, new.addition.partner):
            targets += _repair(new.addition, given.shortcut[:, kept], given.where)
        if name in self.apart and new.seen.bias is not None:
            targets = targets - new.seen.bias.detach().double()
        return gram_of(new.seen, given.where, targets.unflatten(1, (new.seen.groups, -1)), into=into)

    def _wanted(self, seen: Contraction, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """The original's output channels that stay, and what a layer should give there, of shape (rows, kept)."""
        kept, factors = (t.to(outputs.device) for t in self.readers[seen.name].outputs(seen))
        return kept, targets(self.mixtures.get(seen.name, ()), outputs, outputs[:, kept].double()) * factors

    def at_once(self, names: Set[str], parts: int = 1) -> dict[str, list[Gram]]:
        """X and Y from the original, as if all that comes before a layer were repaired already; else as `current`."""
        sums = _Sums()
        model, positions, stop = self.original.model, self.original.sampling.start(), None
        with recording(model, set(self.readers), Recorded.of) as whole:
            for i, batch in enumerate(batches(model, self.data)):
                run = whole(batch, names, stop)
                stop = stop or last_event(run.events, names)
                for (name, _), old in run.calls.items():
                    where = positions(old.seen, batch.size)
                    blocks, entries = (i.to(old.seen.x.device) for i in self.readers[name].entries(old.seen))
                    given = outputs_at(old.seen.output, where)
                    if name in self.apart and old.seen.bias is not None:
                        given = given - old.seen.bias.detach()
                    targets = self._wanted(old.seen, given)[1].unflatten(1, (len(blocks), -1))

                    def pick(patches: Tensor, blocks: Tensor = blocks, entries: Tensor = entries) -> Tensor:
                        return patches[:, blocks[:, None], entries]

                    known = sums.setdefault(name, {})
                    known[i % parts] = gram_of(old.seen, where, targets, pick, known.get(i % parts))
        return _in_parts(sums)


def _repair(addition: ResidualAdd, original: Tensor, where: Tensor) -> Tensor:
    """What a layer should give beside its own output, so that the sum with a changed shortcut is the original's.

    (Y₁ - Y₁')/s with the shortcut's values Y₁ in the original and Y₁' now, and s the factor of the batch norm in
    between; channels that the batch norm all but switches off repair nothing.
    """
    lacking = original.double() - outputs_at(addition.other, where).double()
    scale = addition.way.scale
    if scale is None:
        return lacking
    usable = scale.abs() > NEGLIGIBLE * scale.abs().max()
    return torch.where(usable, lacking / torch.where(usable, scale, 1.0), 0.0)


def _in_parts(sums: _Sums) -> dict[str, list[Gram]]:
    """By weight, the statistics of the parts that there are, in order."""
    return {name: [known[part] for part in sorted(known)] for name, known in sums.items()}
