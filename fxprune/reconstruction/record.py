"""Record: run a model on a batch and keep what its layers read, give and land on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from fxprune.module.batches import Batch
from fxprune.module.isolation import Inputs, cloned
from fxprune.module.tensors import tensor_names
from fxprune.reconstruction.replay import Tapes
from fxprune.reconstruction.residual_add import CallKey, Elsewhere, Normed, ResidualAdd, ResidualAdds
from fxprune.reconstruction.spared import Spared, Sparing
from fxprune.statistics.observe import Contraction, observing

K = TypeVar("K", bound="Kept")


class Kept(Protocol):
    """What is kept of a layer's call."""

    def is_added(self, addition: ResidualAdd) -> None:
        """The output is added to something else; only now is that known."""


@dataclass
class Recorded:
    """One call of a layer, in full.

    Attributes:
        seen: the call, with copies of its input and output; of a layer that is read alone, without its output.
        addition: where its output is added to something else, with a copy of that.
    """

    seen: Contraction
    addition: ResidualAdd | None = None

    @classmethod
    def of(cls, seen: Contraction) -> Recorded:
        return cls(replaced(seen, x=seen.x.clone(), output=seen.output.clone()))

    @classmethod
    def reading(cls, seen: Contraction) -> Recorded:
        return cls(replaced(seen.light(), x=seen.x.clone()))

    def is_added(self, addition: ResidualAdd) -> None:
        self.addition = replaced(addition, other=addition.other.clone())


@dataclass
class Seen:
    """One call of a layer, without its activations: all readers of a batch together would take as much as a training.

    Attributes:
        seen: the call.
    """

    seen: Contraction

    @classmethod
    def of(cls, seen: Contraction) -> Seen:
        return cls(seen.light())

    def is_added(self, addition: ResidualAdd) -> None:
        """Nothing is kept of that."""


@dataclass
class RecordedRun(Generic[K]):
    """One run of a model on a batch.

    Attributes:
        calls: what is kept of the wanted layers.
        events: the weights to which something happened, in order.
        biases: the names of the biases that each weight's calls have: "" where it is no tensor of the model's, None
            where there is none.
        means: the names of the running means that each layer's output meets, "" where it goes elsewhere; under "" those
            that the outputs of others meet.
    """

    calls: dict[CallKey, K] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    biases: dict[str, set[str | None]] = field(default_factory=dict)
    means: dict[str, set[str]] = field(default_factory=dict)


class Record(Protocol[K]):
    """Runs a model on a batch."""

    def __call__(
        self,
        batch: Batch,
        keep: Set[str],
        stop: int | None = None,
        replay: Replay | None = None,
        sparing: Sparing | None = None,
    ) -> RecordedRun[K]:
        """
        Args:
            batch: copied before.
            keep: the weights whose calls are kept.
            stop: events of the weights after which to stop; None: run to the end.
            replay: what is known of earlier runs on the batch; None: nothing.
            sparing: where the run stops, and the calls of one weight are kept without their outputs: do not compute
                these; None: compute all.
        """


@dataclass(frozen=True, eq=False)
class Replay:
    """Where results of a batch are held from run to run.

    Attributes:
        tapes: of all batches.
        key: tells the batch apart from others.
        pending: names of the tensors that may have other values in the next run.
    """

    tapes: Tapes
    key: Any
    pending: Set[str]


@contextmanager
def recording(model: nn.Module, weights: Set[str], keep: Callable[[Contraction], K]) -> Iterator[Record[K]]:
    """Inside the block, what is given runs `model`, in evaluation mode, and keeps what `keep` makes of calls."""
    recorder = _Recorder(keep)
    with observing(model, set(weights), recorder.saw) as run:
        recorder.names = tensor_names(run.model)

        def record(
            batch: Batch,
            keep: Set[str],
            stop: int | None = None,
            replay: Replay | None = None,
            sparing: Sparing | None = None,
        ) -> RecordedRun[K]:
            def forward(inputs: Inputs) -> RecordedRun[K]:
                recorder.start(keep, stop)
                with suppress(_Enough), recorder.additions:
                    run(replaced(batch, inputs=inputs))
                return recorder.run

            def whole() -> RecordedRun[K]:
                if replay is None:
                    return forward(cloned(batch.inputs))
                pending = {i for i, name in recorder.names.items() if name in replay.pending}
                return replay.tapes.run(replay.key, forward, batch.inputs, recorder.names.keys(), pending)

            kept = [i for i, name in recorder.names.items() if name in keep]
            if sparing is None or stop is None or len(kept) != 1:
                return whole()
            return sparing.run(whole, kept[0], recorder.spare)

        yield record


class _Enough(BaseException):
    """Ends a run early. It is a BaseException, so that no `except Exception` of the model's code stops it."""


class _Recorder(Generic[K]):
    def __init__(self, of: Callable[[Contraction], K]) -> None:
        self.names: dict[int, str] = {}
        self._of = of
        self._spared: Spared | None = None
        self.start(set(), None)

    def start(self, keep: Set[str], stop: int | None) -> None:
        self.run, self._keep, self._stop = RecordedRun[K](), keep, stop
        self._counts: Counter[str] = Counter()
        self.additions = ResidualAdds(self.note)

    def saw(self, seen: Contraction) -> None:
        with _disable_current_modes():
            call = (seen.name, self._counts[seen.name])
            self._counts[seen.name] += 1
            self.additions.follow(seen, call)
            bias = None if seen.bias is None else self.names.get(id(seen.bias), "")
            self.run.biases.setdefault(seen.name, set()).add(bias)
            if seen.name in self._keep:
                self._needs(seen.x)
                self.run.calls[call] = self._of(seen)
        self._happened(seen.name)

    def note(self, event: ResidualAdd | Normed | Elsewhere) -> None:
        with _disable_current_modes():  # what is kept does not count as a call of the model's
            self._note(event)

    def _note(self, event: ResidualAdd | Normed | Elsewhere) -> None:
        name = event.way.call[0] if isinstance(event, ResidualAdd) else event.name
        if isinstance(event, ResidualAdd):
            if event.way.call in self.run.calls:
                self._needs(event.other)
                self.run.calls[event.way.call].is_added(event)
        else:
            mean = self.names.get(id(event.running_mean), "") if isinstance(event, Normed) else ""
            self.run.means.setdefault(name, set()).add(mean)
        if name:
            self._happened(name)

    def spare(self, spared: Spared | None) -> None:
        """What is not computed from now on."""
        self._spared = spared

    def _needs(self, tensor: Tensor) -> None:
        if self._spared is not None:
            self._spared.check(tensor)

    def _happened(self, name: str) -> None:
        self.run.events.append(name)
        if len(self.run.events) == self._stop:
            raise _Enough


def last_event(events: Sequence[str], names: Set[str]) -> int:
    """How many events there are up to the last one of the given weights."""
    return max((i for i, name in enumerate(events, 1) if name in names), default=len(events))
