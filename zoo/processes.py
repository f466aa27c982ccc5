"""One process, or several that a launcher started: what each does, and what all must agree on.

``accelerate launch`` and ``torchrun`` tell each process its place by environment variables; ``accelerate`` does the
rest. A process that runs alone neither needs nor imports it.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from zoo.errors import ZooError

T = TypeVar("T")


class Processes(Protocol):
    """The processes that train one model together, seen from one of them."""

    @property
    def count(self) -> int:
        """How many."""

    @property
    def rank(self) -> int:
        """Which one this is, in [0, ``count``); 0 is the main process, which alone shows and writes."""

    def place(self, device: torch.device | str | None) -> torch.device | str | None:
        """Where this process computes if ``device`` is asked for; None is where the model is."""

    def agree(self, work: Callable[[], T]) -> T:
        """What ``work`` returns in the main process, which alone does it; fails in all if it fails there."""

    def spread(self, module: nn.Module) -> None:
        """Give all processes the weights and buffers of the main one."""

    def mean(self, loss: Tensor, size: int) -> tuple[float, int]:
        """The mean loss over the whole batch, and its size, from this process's mean over ``size``."""

    def join_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients over the processes."""

    def join_buffers(self, module: nn.Module) -> None:
        """Average buffers such as the statistics of batch norm, so that all processes hold one model."""


@dataclass(frozen=True)
class Alone:
    """One process, as ``python`` starts it."""

    count: int = 1
    rank: int = 0

    def place(self, device: torch.device | str | None) -> torch.device | str | None:
        return device

    def agree(self, work: Callable[[], T]) -> T:
        return work()

    def spread(self, module: nn.Module) -> None:
        pass

    def mean(self, loss: Tensor, size: int) -> tuple[float, int]:
        return loss.item(), size

    def join_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        pass

    def join_buffers(self, module: nn.Module) -> None:
        pass


class Launched:
    """One of several processes of a launcher.

    Gradients are joined by one reduction a step rather than by wrapping the model in DistributedDataParallel: the model
    stays as it is, parameters that a batch does not reach do no harm, and shares of unequal size have their due weight.

    Raises:
        ZooError: the package accelerate is not installed.
    """

    def __init__(self) -> None:
        try:
            from accelerate import PartialState, utils
        except ImportError as error:
            raise ZooError(
                "training in several processes needs accelerate; 'pip install accelerate', or start one process"
            ) from error
        forced = utils.parse_flag_from_env("ACCELERATE_USE_CPU")
        self._state = PartialState(cpu=forced or not torch.cuda.is_available())
        self._utils = utils
        self.count: int = self._state.num_processes
        self.rank: int = self._state.process_index

    def place(self, device: torch.device | str | None) -> torch.device:
        mine: torch.device = self._state.device  # type: ignore[assignment]
        if device is not None and torch.device(device).type != mine.type:
            raise ZooError(
                f"the launcher gave this process {mine}, not {device}; ask for {mine.type}, or leave the device open"
            )
        return mine

    def agree(self, work: Callable[[], T]) -> T:
        box: list[Any] = [None, None]
        if self.rank == 0:
            try:
                box[0] = work()
            except Exception as error:
                self._utils.broadcast_object_list([None, str(error) or repr(error)])
                raise
        self._utils.broadcast_object_list(box)
        if box[1] is not None:
            raise ZooError(f"the main process failed: {box[1]}")
        return box[0]

    def spread(self, module: nn.Module) -> None:
        self._utils.broadcast([tensor.detach() for tensor in (*module.parameters(), *module.buffers())])

    def mean(self, loss: Tensor, size: int) -> tuple[float, int]:
        sums = torch.stack([loss.detach().float() * size, torch.tensor(float(size), device=loss.device)])
        total, whole = self._utils.reduce(sums, "sum").tolist()
        return total / whole, int(whole)

    def join_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        chosen = list(parameters)
        for parameter in chosen:
            # None in one process may be a gradient in another, and all must send equally much.
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        self._replace([p.grad for p in chosen if p.grad is not None], "sum")

    def join_buffers(self, module: nn.Module) -> None:
        self._replace([buffer for buffer in module.buffers() if buffer.is_floating_point()], "mean")

    def _replace(self, tensors: Sequence[Tensor], how: str) -> None:
        """Reduce tensors over the processes, in place, as one."""
        if not tensors:
            return
        joint = self._utils.reduce(torch.cat([t.flatten().float() for t in tensors]), how)
        for tensor, part in zip(tensors, joint.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


def present() -> Processes:
    """The processes that this one is part of."""
    return _launched() if _are_several() else Alone()


def _are_several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ


def refuse_several(task: str) -> None:
    """Let nobody start ``task`` by a launcher.

    Raises:
        ZooError: there are several processes.
    """
    if _are_several():
        raise ZooError(f"{task} is work for one process, and a launcher started several; start it with 'python'")


@cache
def _launched() -> Launched:
    return Launched()


def is_main() -> bool:
    """Whether this process is the one that shows and writes."""
    return present().rank == 0


def shares(batches: Sequence[Tensor]) -> list[Tensor]:
    """Of the rows of each batch, those that this process takes: every ``count``-th.

    Raises:
        ZooError: a batch has fewer rows than there are processes.
    """
    processes = present()
    if any(len(rows) < processes.count for rows in batches):
        fewest = min(len(rows) for rows in batches)
        raise ZooError(f"a batch of {fewest} cannot be shared by {processes.count} processes; enlarge batch_size")
    return [rows[processes.rank :: processes.count] for rows in batches]
