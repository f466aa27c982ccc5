"""One search in several processes that train together: the main one decides, all tune."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from torch import nn

from fxprune.errors import FxpruneError
from fxprune.optional import require
from fxprune.search.result import Search

A = TypeVar("A")
B = TypeVar("B")
M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")

_PATIENCE = timedelta(days=30)
"""How long the others wait while the main process computes alone."""


def run_distributed(search: Callable[..., Search[M, T]], *arguments: Any, **options: Any) -> Search[M, T]:
    """Run one search in all processes of `torch.distributed`, for a `tune` that they do together.

    Every process calls this with the same search and arguments of its own, once the process group is there
    (`accelerate.Accelerator()` or `torch.distributed.init_process_group` makes it). The main process, rank 0, alone
    searches, and alone reads and writes the search's `folder`; every candidate is sent to the others, which call their
    own `tune` and `evaluate` on it at the same time. The value of `evaluate` in the main process counts. Therefore all
    processes end with one plan, even if their data or folders differ. In a single process it is just
    `search(*arguments, **options)`.

    Ctrl-C ends the main process's search with its best so far; the others do not get it.

    Args:
        search: a search of `fxprune.search`, such as `Bisection()`.
        arguments: the arguments of the search.
        options: its keyword arguments; not `workers`.

    Returns:
        What the search of the main process returned, in every process.

    Raises:
        FxpruneError: in the other processes, if the search failed in the main one, where its own error is raised.

    >>> import torch, fxprune
    >>> from fxprune.search import Bisection, run_distributed
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    >>> groups = fxprune.find_groups(fxprune.trace(model, torch.zeros(1, 4)))
    >>> found = run_distributed(Bisection(progress=False), model, groups, lambda small: 1.0)
    >>> found.plan.kept_counts()
    {'0': 1}
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return search(*arguments, **options)
    channel = _Channel((*arguments, *options.values()))
    try:
        return _lead(channel, search, arguments, options) if dist.get_rank() == 0 else _follow(channel)
    finally:
        channel.close()


@dataclass(frozen=True)
class _End:
    """The last message: the search's result, or the reason why there is none."""

    found: Any
    failure: str = ""


_CLOSED: list[Any] = []


class _Channel:
    """From the main process to all others; what they have themselves (`shared`) is sent by number.

    The backend is gloo, since the main process may compute alone for longer than NCCL waits.
    """

    def __init__(self, shared: Sequence[Any]) -> None:
        self._shared = shared
        self._group: Any = dist.new_group(backend="gloo", timeout=_PATIENCE)

    def close(self) -> None:
        with suppress(RuntimeError):  # of a process that has ended
            dist.destroy_process_group(self._group)
        # PyTorch 2.6 holds the interpreter's lock while it waits for the thread of a group that is freed, and that
        # thread needs the lock to free the last message. So a group is kept until the next one is closed.
        _CLOSED[:] = [self._group]

    def send(self, message: Any) -> None:
        dist.broadcast_object_list([_pickled(message, self._shared)], 0, self._group)

    def receive(self) -> Any:
        box: list[Any] = [None]
        dist.broadcast_object_list(box, 0, self._group)
        return _Unpickler(io.BytesIO(box[0]), self._shared).load()

    def run(self, function: Callable[[A], B], jobs: Iterable[A]) -> Iterator[B]:
        """In all processes at once; a `fxprune.search.workers.Runner`."""
        for job in jobs:
            self.send((function, job))
            yield function(job)


def _pickled(message: Any, shared: Sequence[Any]) -> bytes:
    base: Any = require("cloudpickle", extra="workers").Pickler
    numbers = {id(value): i for i, value in enumerate(shared) if value is not None}

    class Pickler(base):  # type: ignore[misc]  # untyped
        def persistent_id(self, value: Any) -> int | None:
            return numbers.get(id(value))

    buffer = io.BytesIO()
    Pickler(buffer).dump(message)
    return buffer.getvalue()


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, shared: Sequence[Any]) -> None:
        super().__init__(file)
        self._shared = shared

    def persistent_load(self, number: Any) -> Any:
        return self._shared[number]


def _lead(
    channel: _Channel, search: Callable[..., Search[M, T]], arguments: Sequence[Any], options: dict[str, Any]
) -> Search[M, T]:
    try:
        found = search(*arguments, **options, workers=channel.run)
    except Exception as error:
        with suppress(RuntimeError):  # others that failed have ended as well
            channel.send(_End(None, str(error) or repr(error)))
        raise
    if found.finished:
        channel.send(_End(found))
    return found


def _follow(channel: _Channel) -> Any:
    while True:
        message = channel.receive()
        if not isinstance(message, _End):
            function, job = message
            function(job)
        elif message.failure:
            raise FxpruneError("the search failed in the main process", seen=message.failure)
        else:
            return message.found
