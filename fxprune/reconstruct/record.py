"""Record: run a model on a batch and keep what its layers read, give and land on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from fxprune.batches import Batch
from fxprune.observe import Contraction, observing
from fxprune.reconstruct.landing import Call, Elsewhere, Landing, Landings, Normed
from fxprune.tracing.borrow import cloned, tensor_names


@dataclass
class Recorded:
    """One call of a layer.

    Attributes:
        seen: the call, with copies of its input and output.
        landing: where its output is added to something else, with a copy of that.
    """

    seen: Contraction
    landing: Landing | None = None


@dataclass
class Run:
    """One run of a model on a batch.

    Attributes:
        calls: of the layers that are kept.
        events: the weights to which something happened, in order.
        biases: the name of each layer's bias, for those that have one of their own.
        means: the names of the running means that each layer's output meets, "" where it goes elsewhere.
    """

    calls: dict[Call, Recorded] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    biases: dict[str, str] = field(default_factory=dict)
    means: dict[str, set[str]] = field(default_factory=dict)


Record: TypeAlias = Callable[..., Run]


@contextmanager
def recording(model: nn.Module, weights: Set[str]) -> Iterator[Record]:
    """Inside the block, what is given is `record(batch, keep, stop)`.

    It runs `model`, in evaluation mode, on a copy of the batch until `stop` events have happened to the weights (None:
    to the end), and keeps the calls of the weights in `keep`.
    """
    recorder = _Recorder()
    with observing(model, set(weights), recorder.saw) as run:
        recorder.names = tensor_names(model)

        def record(batch: Batch, keep: Set[str], stop: int | None = None) -> Run:
            recorder.start(keep, stop)
            try:
                with recorder.landings:
                    run(replace(batch, inputs=cloned(batch.inputs)))
            except _Enough:
                pass
            return recorder.run

        yield record


class _Enough(BaseException):
    """All that is wanted of a run has happened; no `except Exception` of the model's code shall stop it."""


class _Recorder:
    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.start(set(), None)

    def start(self, keep: Set[str], stop: int | None) -> None:
        self.run, self._keep, self._stop = Run(), keep, stop
        self._counts: Counter[str] = Counter()
        self.landings = Landings(self.note)

    def saw(self, seen: Contraction) -> None:
        with _disable_current_modes():
            call = (seen.name, self._counts[seen.name])
            self._counts[seen.name] += 1
            self.landings.follow(seen, call)
            if seen.bias is not None:
                self.run.biases[seen.name] = self.names.get(id(seen.bias), "")
            if seen.name in self._keep:
                self.run.calls[call] = Recorded(replace(seen, x=seen.x.clone(), output=seen.output.clone()))
        self._happened(seen.name)

    def note(self, event: Landing | Normed | Elsewhere) -> None:
        name = event.way.call[0] if isinstance(event, Landing) else event.name
        if isinstance(event, Landing):
            if event.way.call in self.run.calls:
                self.run.calls[event.way.call].landing = replace(event, other=event.other.clone())
        else:
            mean = self.names.get(id(event.running_mean), "") if isinstance(event, Normed) else ""
            self.run.means.setdefault(name, set()).add(mean)
        self._happened(name)

    def _happened(self, name: str) -> None:
        self.run.events.append(name)
        if len(self.run.events) == self._stop:
            raise _Enough


def last_event(run: Run, names: Set[str]) -> int:
    """How many events there are up to the last one of the given weights."""
    return max((i for i, name in enumerate(run.events, 1) if name in names), default=len(run.events))
