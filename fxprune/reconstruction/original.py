"""Original: what the layers of the original give where it counts, remembered from one forward over the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from fxprune.module.batches import Batch, Prints
from fxprune.reconstruction.record import last_event, recording
from fxprune.reconstruction.residual_add import CallKey, ResidualAdd
from fxprune.statistics.gram.collect import Sampling
from fxprune.statistics.gram.patches import outputs_at
from fxprune.statistics.observe import Contraction


@dataclass(eq=False)
class Given:
    """What one call of a layer gives in the original, at the output positions that count.

    Attributes:
        seen: the call, without its activations.
        where: the positions, of shape (images, m).
        outputs: there, of shape (rows, channels).
        shortcut: what the output is added to, there, of the same shape; None: to nothing.
    """

    seen: Contraction
    where: Tensor
    outputs: Tensor
    shortcut: Tensor | None = None

    def is_added(self, addition: ResidualAdd) -> None:
        self.shortcut = outputs_at(addition.other, self.where)

    def bytes(self) -> int:
        return sum(t.nbytes for t in (self.where, self.outputs, self.shortcut) if t is not None)


class Original:
    """The original, which runs once on each batch for as many layers as there is memory for.

    Batches are known by their contents. What differs each time (a loader that shuffles or augments) is computed each
    time, for no more layers than are asked for. Which positions count depends on the layer and the batch's place alone.

    Args:
        model: the original.
        weights: of the layers that may be asked for, in the order in which they will be.
        sampling: which output positions count.
        memory: bytes that are held.
    """

    def __init__(self, model: nn.Module, weights: Sequence[str], sampling: Sampling, memory: int) -> None:
        self.model, self.sampling = model, sampling
        self._weights, self._memory = weights, memory
        self._known: dict[Prints, dict[CallKey, Given]] = {}
        self._held: set[str] = set()
        self._bytes = 0
        self._ahead = True

    @contextmanager
    def looking(self, names: Set[str]) -> Iterator[Callable[[Batch], dict[CallKey, Given]]]:
        """Inside the block, what is given tells of a batch what the calls of these layers give."""
        fresh = not names <= self._held
        if fresh:
            self._known, self._held, self._bytes = {}, {*names} | self._later(names), 0
        with self._running() as run:

            def look(batch: Batch) -> dict[CallKey, Given]:
                key = batch.prints
                calls = self._known.get(key)
                if calls is None:
                    self._ahead &= fresh
                    calls = run(batch, self._held if self._ahead else names)
                    self._keep(key, calls, names)
                return {call: given for call, given in calls.items() if call[0] in names}

            yield look

    def _later(self, names: Set[str]) -> set[str]:
        """The layers that will be asked for after these."""
        last = max((i for i, name in enumerate(self._weights) if name in names), default=-1)
        return {*self._weights[last + 1 :]} if self._ahead else set()

    @contextmanager
    def _running(self) -> Iterator[Callable[[Batch, Set[str]], dict[CallKey, Given]]]:
        """Runs the model on batches; it is not touched before the first one."""
        positions, size, stop = self.sampling.start(), 1, None

        def keep(seen: Contraction) -> Given:
            where = positions(seen, size)
            return Given(seen.light(), where, outputs_at(seen.output, where))

        with ExitStack() as stack:
            record = None

            def run(batch: Batch, names: Set[str]) -> dict[CallKey, Given]:
                nonlocal record, positions, size, stop
                record = record or stack.enter_context(recording(self.model, {*self._weights}, keep))
                positions, size = self.sampling.start(batch.place), batch.size
                done = record(batch, names, stop)
                stop = stop or last_event(done.events, names)
                return dict(done.calls)

            yield run

    def _keep(self, key: Prints, calls: dict[CallKey, Given], names: Set[str]) -> None:
        """Remember a batch, at the expense of the layers that will be asked for last."""
        if not self._ahead:
            return
        self._known[key] = calls
        self._bytes += _bytes(calls.values())
        for name in reversed(self._weights):
            if self._bytes <= self._memory:
                return
            if name in self._held - names:
                self._held.discard(name)
                for known in self._known.values():
                    gone = [call for call in known if call[0] == name]
                    self._bytes -= _bytes([known.pop(call) for call in gone])
        if self._bytes > self._memory:  # these alone are too much; they are handed out and forgotten
            self._bytes -= _bytes(self._known.pop(key).values())


def _bytes(several: Iterable[Given]) -> int:
    return sum(given.bytes() for given in several)
