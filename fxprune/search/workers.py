"""Where candidates run: one after another in this process, or through joblib in others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

import torch

from fxprune.errors import InputError, check_integer, check_kind
from fxprune.optional import require

A = TypeVar("A")
B = TypeVar("B")


class Runner(Protocol):
    """Applies a function to jobs and yields the results as they come, in any order."""

    def __call__(self, function: Callable[[A], B], jobs: Iterable[A]) -> Iterator[B]: ...


def in_process(function: Callable[[A], B], jobs: Iterable[A]) -> Iterator[B]:
    """One after another, in this process, with its number of threads."""
    return map(function, jobs)


@dataclass(frozen=True)
class Workers:
    """Runs candidates in parallel through joblib: local processes, or what `joblib.parallel_config` says.

    Every candidate is tuned from its own copy of everything, under its own seed and with the same number of threads, so
    that the result depends neither on the number of workers nor on who ran what. `tune` and `evaluate` are sent along,
    with all data that they hold: let them open large data themselves. Of candidates that ran in this process
    (`workers=None`) the results can differ in rounding, since there torch uses its own number of threads.

    With Dask (`pip install fxprune[dask]`), on this machine or a cluster, a lost worker's candidates run on another:

        client = dask.distributed.Client("scheduler:8786")  # workers of one thread each
        search(model, groups, evaluate, tune=tune, workers=Workers(backend="dask"))

    With Ray (`pip install fxprune[ray]`), `ray.util.joblib.register_ray()` and `Workers(backend="ray")`. Its backend
    returns whole lists, so that results come, and reach a search's journal, some at a time: as many as there are
    workers. A lost worker ends the search; started again, it goes on from its folder.

    Attributes:
        count: processes; None is joblib's own choice: one, or what `joblib.parallel_config(n_jobs=...)` says.
        threads: of torch, for each candidate.
        backend: joblib's name of a backend; None is local processes (loky), or that of `joblib.parallel_config`.

    >>> sorted(Workers(1)(abs, [-2, 1]))
    [1, 2]
    """

    count: int | None = None
    threads: int = 1
    backend: str | None = None

    def __post_init__(self) -> None:
        if self.count is not None:
            # Negative ones are joblib's: -1 is as many as there are cores.
            least = self.count if isinstance(self.count, int) and self.count < 0 else 1
            check_integer("the number of workers", self.count, least, "give 2 or more, or None for joblib's choice")
        check_integer("the number of threads", self.threads, 1, "1 is usual")
        if self.backend is not None:
            check_kind("the backend", self.backend, str, "give its name, such as 'dask', or None for local processes")
        for library in ("joblib", "cloudpickle"):  # to fail now rather than at the first candidate
            require(library, extra="workers")

    def __call__(self, function: Callable[[A], B], jobs: Iterable[A]) -> Iterator[B]:
        joblib, cloudpickle = require("joblib", extra="workers"), require("cloudpickle", extra="workers")
        # Bytes are part of the task itself. An object might be spread over the cluster beforehand, and be lost there
        # with the worker that holds it.
        tasks = (joblib.delayed(_run)(cloudpickle.dumps((function, job)), self.threads) for job in jobs)
        with nullcontext() if self.backend is None else _backend(self.backend):
            try:
                parallel, together = joblib.Parallel(self.count, return_as="generator_unordered"), None
            except ValueError:  # the backend knows lists only
                parallel, together = joblib.Parallel(self.count), joblib.effective_n_jobs(self.count)
        if together is None:
            yield from parallel(tasks)
        else:
            while some := list(islice(tasks, together)):
                yield from parallel(some)


def _backend(name: str) -> Any:
    try:
        return require("joblib", extra="workers").parallel_config(name)
    except ValueError as error:
        remedy = "None is local processes; 'dask' wants a Client first, 'ray' register_ray()"
        raise InputError("joblib knows no such backend", seen=name, remedy=remedy) from error


# Threads of one process (Dask's workers have several by default) share the global generators and torch's settings.
_ALONE = threading.RLock()


def _run(task: bytes, threads: int) -> Any:
    import cloudpickle

    with _ALONE:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            function, job = cloudpickle.loads(task)
            return function(job)
        finally:
            torch.set_num_threads(before)
