"""Timer: seconds of one ATen call on real tensors, in the state of the caches that a forward leaves behind."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxprune.costs.latency.calls import Operand

_ARENA = 2**24  # elements: 64 MiB of float32, more than the caches of most processors
_SECONDS = 4e-3  # a call is repeated for so long
_RUNS = (2, 4, 24)  # calls that nobody times; timed calls, at least and at most


class Timer:
    """Times calls.

    In a forward, activations come from the caches and weights from memory. So each run's activations are written anew
    just before it, and its weights are taken from another place of a large block of memory.

    Args:
        device: where the calls run.

    Attributes:
        runs: calls before any is timed, and fewest and most timed ones.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.runs = _RUNS
        # Positive, near 1: no overflow and no denormal numbers, whatever is computed.
        generator = torch.Generator().manual_seed(0)
        self._arena = torch.rand(_ARENA, generator=generator).add_(0.5).to(device)
        self._at = 0

    def __call__(self, op: Any, args: Any, kwargs: dict[str, Any]) -> float | None:
        """Median seconds of a call; None if the op refuses these arguments.

        Args:
            op: the ATen op.
            args: arguments, with (operand, shape) in place of tensors.
            kwargs: keyword arguments, likewise.
        """
        try:
            with torch.inference_mode():
                return self._median(op, args, kwargs)
        except (RuntimeError, ValueError, IndexError, TypeError):
            return None

    def _median(self, op: Any, args: Any, kwargs: dict[str, Any]) -> float:
        kwargs = dict(kwargs)
        if "device" in kwargs:
            kwargs["device"] = self.device
        leaves: list[Tensor] = []
        given, named = self._made(args, leaves), {k: self._made(v, leaves) for k, v in kwargs.items()}
        spare = [t.clone() for t in leaves]
        before, least, most = self.runs
        seconds: list[float] = []
        end = float("inf")
        while len(seconds) < before + least or (len(seconds) < before + most and time.perf_counter() < end):
            if len(seconds) == before:
                end = time.perf_counter() + _SECONDS
            for fresh, kept in zip(leaves, spare, strict=True):
                fresh.copy_(kept)
            seconds.append(clock(partial(op, *self._moved(given, args), **named), self.device))
        return statistics.median(seconds[before:])

    def _made(self, value: Any, leaves: list[Tensor]) -> Any:
        """Real arguments; the tensors that stand for activations are also put into `leaves`."""
        if _is_operand(value):
            operand, shape = value
            if operand.is_weight:
                return self._weight(operand, shape)
            x = self._filled(operand, shape)
            leaves.append(x)
            return _turned(x, operand)
        return type(value)(self._made(v, leaves) for v in value) if type(value) in (list, tuple) else value

    def _moved(self, given: Any, args: Any) -> Any:
        """The arguments with weights from other places in memory."""
        if _is_operand(args):
            return self._weight(*args) if args[0].is_weight else given
        if type(args) in (list, tuple):
            return type(args)(self._moved(g, a) for g, a in zip(given, args, strict=True))
        return given

    def _filled(self, operand: Operand, shape: Sequence[int]) -> Tensor:
        x = torch.zeros(tuple(shape), dtype=operand.dtype, device=self.device)  # as indices, zeros are always in range
        if operand.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        return x.fill_(0.75) if operand.dtype.is_floating_point else x

    def _weight(self, operand: Operand, shape: Sequence[int]) -> Tensor:
        count = torch.Size(shape).numel()
        if operand.dtype is not torch.float32 or count > len(self._arena) or not shape:
            return _turned(self._filled(operand, shape), operand)
        if self._at + count > len(self._arena):
            self._at = 0
        flat = self._arena[self._at : self._at + count]
        self._at += -(-count // 16) * 16  # lines of a cache
        if operand.channels_last:
            n, c, h, w = shape
            return _turned(flat.view(n, h, w, c).permute(0, 3, 1, 2), operand)
        return _turned(flat.view(tuple(shape)), operand)


def clock(task: Callable[[], object], device: torch.device, *, waits: bool = False) -> float:
    """Seconds of one run of a task.

    With one thread on a CPU, those that it has run for: on a machine with other programs, they are the latency of a
    free one. Else, and of a task that waits for what runs elsewhere, those that have passed.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    alone = device.type == "cpu" and torch.get_num_threads() == 1 and not waits
    now = time.thread_time if alone else time.perf_counter
    start = now()
    result = task()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = now() - start
    del result  # kept until here: to free it takes time as well
    return seconds


def median_by_turns(
    tasks: Sequence[Callable[[], object]], device: torch.device, runs: int, *, waits: bool = False
) -> list[float]:
    """Seconds of each task, run by turns.

    A machine's pace changes from one moment to the next, within a turn hardly: of all tasks but the first, what counts
    is the median of what they take as parts of the first one in the same turn.

    Args:
        tasks: what is run.
        device: where.
        runs: how often each is timed at least, after two runs that are not; short ones up to a hundred times.
        waits: whether what they take may be spent elsewhere: in other threads, or on another device.
    """
    if not tasks:
        return []
    first = [[clock(task, device, waits=waits) for task in tasks] for _ in range(2)][-1]
    turns = max(runs, min(_MOST_TURNS, round(_ENOUGH / max(*first, 1e-6))))
    seconds = np.array([[clock(task, device, waits=waits) for task in tasks] for _ in range(turns)])
    parts = seconds / np.maximum(seconds[:, :1], 1e-12)
    return (np.median(seconds[:, 0]) * np.median(parts, axis=0)).tolist()


_MOST_TURNS, _ENOUGH = 100, 0.5  # turns, and seconds of the longest task in all of them


def _is_operand(value: Any) -> bool:
    return type(value) is tuple and len(value) == 2 and isinstance(value[0], Operand)


def _turned(x: Tensor, operand: Operand) -> Tensor:
    for op, args in operand.turns:
        x = op(x, *args)
    return x
