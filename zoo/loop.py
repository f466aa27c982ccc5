"""The loop that every training shares: epochs of stochastic gradient descent that can be cut off and picked up."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.optim import SGD

from zoo.errors import ZooError
from zoo.footprints import all_or_nothing, seed_generators
from zoo.progress import Display, EpochLog
from zoo.resume import keep, pick_up
from zoo.settings import Settings
from zoo.tensorboard import Scalars


class Batch(Sized, Protocol):
    """What one step learns from; its length counts the images."""


class Task(Protocol):
    """What is learnt: a model, where batches come from, and what their loss is."""

    @property
    def module(self) -> nn.Module:
        """All that is trained, on its device and in training mode."""

    @property
    def device(self) -> torch.device:
        """Where it is."""

    @property
    def factors(self) -> Mapping[nn.Module, float]:
        """Parts of ``module`` whose learning rate is multiplied by another factor than 1."""

    @property
    def steps(self) -> int:
        """Batches an epoch."""

    def identity(self) -> Mapping[str, Any]:
        """Plain data that tells this run from another with the same settings."""

    def batches(self, generator: Generator) -> Iterator[Batch]:
        """The batches of one epoch, shuffled by ``generator``."""

    def loss(self, batch: Any, generator: Generator, progress: float) -> Tensor:
        """Mean loss of a batch at the share ``progress`` of the run."""

    def measure(self) -> float | None:
        """Validation accuracy, if there is something to measure it on."""


@dataclass
class Loop:
    """One run.

    Args:
        task: what is learnt.
        settings: numbers of the descent.
        mixed: compute in bfloat16 where autocast allows it.
        state: file that holds the run after each epoch, None for none.
        log: folder of a TensorBoard log, None for none.
    """

    task: Task
    settings: Settings
    mixed: bool = False
    state: Path | None = None
    log: Path | None = None

    def __post_init__(self) -> None:
        groups = _groups(self.task)
        if not groups:
            raise ZooError("fit: the model has no parameter to train; set requires_grad on some of them")
        momentum, decay = self.settings.momentum, self.settings.weight_decay
        self.optimizer = SGD(groups, self.settings.lr, momentum, weight_decay=decay, nesterov=momentum > 0)

    def finish(self, display: Display) -> list[EpochLog]:
        """Run the epochs that ``state`` does not hold yet; returns the logs of all."""
        logs = self._finished()
        with ExitStack() as stack:
            scalars = stack.enter_context(Scalars(self.log, len(logs))) if self.log else None
            for epoch in range(len(logs) + 1, self.settings.epochs + 1):
                with all_or_nothing(self.task.module):
                    logs.append(self._epoch(epoch, display))
                display.line(logs[-1])
                if scalars:
                    scalars.add(logs[-1])
                if self.state:
                    keep(self.state, self._identity(), logs, self.task.module, self.optimizer)
        return logs

    def _finished(self) -> list[EpochLog]:
        with all_or_nothing(self.task.module):
            return pick_up(self.state, self._identity(), self.task.module, self.optimizer) if self.state else []

    def _identity(self) -> Mapping[str, Any]:
        return {**self.settings.plain(), **self.task.identity(), "mixed_precision": self.mixed}

    def _epoch(self, epoch: int, display: Display) -> EpochLog:
        started, steps = time.perf_counter(), self.task.steps
        generator = self._seeded(epoch)
        loss = rate = seen = 0.0
        for index, batch in enumerate(display.steps(self.task.batches(generator), steps, epoch)):
            step = (epoch - 1) * steps + index
            rate = self.settings.rate(step, self.settings.epochs * steps)
            loss += self._step(batch, generator, step / (self.settings.epochs * steps), rate) * len(batch)
            seen += len(batch)
        return EpochLog(epoch, loss / seen, rate, self.task.measure(), time.perf_counter() - started)

    def _seeded(self, epoch: int) -> Generator:
        # Seeded by the epoch too: a run that is picked up needs no generator state to go on as before.
        seed = self.settings.seed * 1_000_003 + epoch
        seed_generators(self.task.device, seed)
        return Generator().manual_seed(seed)

    def _step(self, batch: Batch, generator: Generator, progress: float, rate: float) -> float:
        with torch.autocast(self.task.device.type, torch.bfloat16, enabled=self.mixed):
            loss = self.task.loss(batch, generator, progress)
        value = loss.item()
        if not math.isfinite(value):
            raise ZooError(
                f"fit: the loss became {value} at learning rate {rate:.4g}; lower lr (it was "
                f"{self.settings.lr:g}), lengthen warmup, or look for non-finite images or weights"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        return value


def _groups(task: Task) -> list[dict[str, Any]]:
    """Parameters to train, by the factor of their learning rate; frozen ones are left out."""
    special = {p: factor for module, factor in task.factors.items() for p in module.parameters()}
    by_factor: dict[float, list[nn.Parameter]] = {}
    for parameter in task.module.parameters():
        if parameter.requires_grad:
            by_factor.setdefault(special.get(parameter, 1.0), []).append(parameter)
    return [{"params": parameters, "factor": factor} for factor, parameters in by_factor.items()]


def chunks(samples: int, size: int, generator: Generator) -> Sequence[Tensor]:
    """All rows below ``samples`` in random order, ``size`` a batch; batch norm cannot train on a last one of one.

    >>> [len(rows) for rows in chunks(9, 4, Generator())]
    [4, 4]
    """
    order = torch.randperm(samples, generator=generator)
    batches = [order[start : start + size] for start in range(0, samples, size)]
    alone = len(batches) > 1 and len(batches[-1]) == 1
    return batches[:-1] if alone else batches


def count_chunks(samples: int, size: int) -> int:
    """Number of the batches of `chunks`."""
    whole, rest = divmod(samples, size)
    return whole + (rest > 1 or (rest == 1 and whole == 0))
