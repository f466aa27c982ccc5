"""Shared: refits after several small changes of one model take what they have in common from one pass over the data.

A layer whose input no other fitted layer has changed reads what it read in the original, less what is gone: its
statistics are a part of the original's. An attempt of a progressive search mostly fits such layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.module.batches import batches
from fxprune.reconstruction.original import Original
from fxprune.reconstruction.readers import Reader
from fxprune.reconstruction.record import Recorded, Run, recording
from fxprune.reconstruction.residual_add import Landing
from fxprune.statistics.gram.collect import Sampling, gram_of
from fxprune.statistics.gram.patches import inputs_at, outputs_at
from fxprune.statistics.gram.sums import Gram
from fxprune.statistics.observe import Contraction

CLOSE = 1e-4
"""Part of the largest by which inputs may differ and still count as the original's: kernels round differently."""


@dataclass(eq=False)
class Known:
    """What a pass over the original tells of a layer that it calls once.

    Attributes:
        seen: the call, without its activations.
        gram: of all that it reads and gives.
        where: the output positions that count in the first batch.
        first: mean and mean square of what it reads there, of shape (2, groups, n).
        shortcut: what its output is added to there, of shape (rows, channels); None: to nothing.
    """

    seen: Contraction
    gram: Gram
    where: Tensor
    first: Tensor
    shortcut: Tensor | None = None

    def part(self, reader: Reader) -> Gram:
        """The statistics without what a plan takes away."""
        blocks, entries, outputs, factors = self._kept(reader)
        g, b = self.gram, blocks[:, None]
        s = g.s[b[..., None], entries[:, None], entries]
        r = g.r[b[..., None], entries[:, None], outputs[:, None]] * factors[:, None]
        y_mean, yy = g.y_mean[b, outputs] * factors, g.yy[b, outputs] * factors.square()
        return Gram(g.rows, g.x_mean[b, entries], y_mean, s, r, yy)

    def lands(self, landing: Landing) -> None:
        if self.shortcut is None:
            self.shortcut = outputs_at(landing.other, self.where)

    def holds(self, reader: Reader, new: Recorded) -> bool:
        """Whether a pruned layer reads, and is added to, what the original's is, in the first batch."""
        if new.seen.rows != self.seen.rows:
            return False
        blocks, entries, *_ = self._kept(reader)
        reads = _close(_moments(new.seen, self.where), self.first[:, blocks[:, None], entries])
        if self.shortcut is None or new.landing is None:
            return reads
        kept = reader.outputs(self.seen)[0].to(self.shortcut.device)
        return reads and _close(outputs_at(new.landing.other, self.where), self.shortcut[:, kept])

    def _kept(self, reader: Reader) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Blocks of the kernels, entries of their patches, outputs of each block, and factors of those."""
        device, each = self.gram.s.device, self.gram.y_mean.shape[1]
        blocks, entries = (t.to(device) for t in reader.entries(self.seen))
        kept, factors = (t.to(device).view(len(blocks), -1) for t in reader.outputs(self.seen))
        return blocks, entries, kept % each, factors


class Shared:
    """Statistics of one model on the same data, collected when they are first asked for.

    Args:
        model: the original of all refits.
        weights: of the layers that may be fitted.
        data: what all refits see.
        memory: bytes of Gram statistics, and of remembered outputs; layers beyond it are not shared.
    """

    def __init__(self, model: nn.Module, weights: Iterable[str], data: Iterable[Any], memory: int = 2**30) -> None:
        self.model, self.data = model, data
        self._weights, self._memory = list(dict.fromkeys(weights)), memory
        self._originals: dict[Sampling, Original] = {}
        self._known: dict[Sampling, _Collection] = {}

    def original(self, sampling: Sampling) -> Original:
        """The original, remembered for all refits."""
        if sampling not in self._originals:
            self._originals[sampling] = Original(self.model, self._weights, sampling, self._memory, again=True)
        return self._originals[sampling]

    def grams(
        self, sampling: Sampling, readers: Mapping[str, Reader], run: Run[Recorded], names: Iterable[str]
    ) -> dict[str, Gram]:
        """The statistics of those layers that read what they read in the original.

        Args:
            sampling: which output positions count.
            readers: what a plan leaves of each layer.
            run: of the pruned model on the first batch.
            names: of layers that depend on no other layer that is fitted.
        """
        known = self._about(sampling).layers
        once = [n for n in names if n in known and (n, 0) in run.calls and (n, 1) not in run.calls]
        return {n: known[n].part(readers[n]) for n in once if known[n].holds(readers[n], run.calls[n, 0])}

    def stop(self, sampling: Sampling, names: Set[str]) -> int:
        """How many events there are, if only these layers count, in a run on a batch."""
        return sum(name in names for name in self._about(sampling).events)

    def _about(self, sampling: Sampling) -> _Collection:
        if sampling not in self._known:
            self._known[sampling] = self._collected(sampling)
        return self._known[sampling]

    def _collected(self, sampling: Sampling) -> _Collection:
        known = _Collection(self._memory)
        positions, size = sampling.start(), 1
        with recording(self.model, set(self._weights), lambda seen: known.of(seen, positions(seen, size))) as record:
            for batch in batches(self.model, self.data):
                positions, size = sampling.start(batch.place), batch.size
                known.add(record(batch, known.names(self._weights)))
        return known


class _Collection:
    """What is known of layers so far.

    Args:
        room: bytes for Gram statistics.

    Attributes:
        layers: what is known, by weight.
        events: the weights to which something happened in the first batch, in order.
    """

    def __init__(self, room: int) -> None:
        self.layers: dict[str, Known] = {}
        self.events: list[str] = []
        self._room = room
        self._first = True

    def names(self, weights: Iterable[str]) -> set[str]:
        """The layers to look at in the next batch."""
        return set(weights) if self._first else {*self.layers}

    def of(self, seen: Contraction, where: Tensor) -> Known | None:
        """What a call tells; None if there is no room for it."""
        if self._first:
            groups, outputs, n = seen.kernels().shape
            self._room -= (needed := 8 * groups * n * (n + outputs))
            if self._room < 0:
                self._room += needed
                return None
        gram = gram_of(seen, where, outputs_at(seen.output, where).unflatten(1, (seen.groups, -1)))
        return Known(seen.light(), gram, where, _moments(seen, where) if self._first else torch.empty(0))

    def add(self, run: Run[Known]) -> None:
        """Take in a batch."""
        self.events = self.events or run.events
        for (name, _), call in run.calls.items():
            if (name, 1) in run.calls:  # what such a layer reads is no part of one input
                self.layers.pop(name, None)
            elif self._first:
                self.layers[name] = call
            else:
                self.layers[name].gram.add(call.gram)
        self._first = False


def _moments(seen: Contraction, where: Tensor) -> Tensor:
    """Mean and mean square over rows of what a layer reads, of shape (2, groups, n)."""
    rows, sums = where.numel(), None
    for piece in inputs_at(seen, where):
        x = piece.double()
        part = torch.stack([x.sum(0), x.square().sum(0)])
        sums = part if sums is None else sums + part
    assert sums is not None, "a layer without an output position has no statistics"
    return sums / rows


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= CLOSE * b.abs().max())


_PRESENT: ContextVar[Shared | None] = ContextVar("shared", default=None)


@contextmanager
def sharing(model: nn.Module, weights: Sequence[str], data: Iterable[Any]) -> Iterator[None]:
    """Inside the block, refits against `model` on `data` share statistics; in this thread, and no other process."""
    token = _PRESENT.set(Shared(model, weights, data))
    try:
        yield
    finally:
        _PRESENT.reset(token)


def shared_by(model: nn.Module, data: Iterable[Any]) -> Shared | None:
    """What refits of a model on these data share at present."""
    present = _PRESENT.get()
    return present if present is not None and present.model is model and present.data is data else None
