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
from torch.optim import SGD, AdamW, Optimizer

from zoo.errors import ZooError
from zoo.footprints import all_or_nothing, seed_generators
from zoo.processes import present
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
        """Batches an epoch, the same number in every process."""

    def identity(self) -> Mapping[str, Any]:
        """Plain data that tells this run from another with the same settings."""

    def batches(self, generator: Generator) -> Iterator[Batch]:
        """This process's share of the batches of one epoch; their order is drawn from ``generator`` at once."""

    def loss(self, batch: Any, generator: Generator, progress: float) -> Tensor:
        """Mean loss of a share of a batch, at the share ``progress`` of the run."""

    def measure(self) -> float | None:
        """Validation accuracy, if there is something to measure it on."""


@dataclass
class Loop:
    """One run, by this process alone or by all that a launcher started (`zoo.processes`).

    Several processes take an equal share of each batch, and all end with the same weights: those of one process, up to
    rounding and what is random, except that batch norm normalises by each share's own statistics. Running statistics
    are averaged after each epoch. The main process alone writes ``state`` and ``log``.

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
        self._processes = present()
        self.optimizer = _optimizer(groups, self.settings)

    def finish(self, display: Display) -> list[EpochLog]:
        """Run the epochs that ``state`` does not hold yet; returns the logs of all."""
        logs, writes = self._finished(), self._processes.rank == 0
        with ExitStack() as stack:
            scalars = stack.enter_context(Scalars(self.log, len(logs))) if self.log and writes else None
            for epoch in range(len(logs) + 1, self.settings.epochs + 1):
                with all_or_nothing(self.task.module):
                    logs.append(self._epoch(epoch, display))
                display.line(logs[-1])
                if scalars:
                    scalars.add(logs[-1])
                if self.state and writes:
                    keep(self.state, self._identity(), logs, self.task.module, self.optimizer)
        return logs

    def _finished(self) -> list[EpochLog]:
        with all_or_nothing(self.task.module):
            logs, momenta = self._processes.agree(self._pick_up)
            if self._processes.rank:
                self.optimizer.load_state_dict(momenta)
            self._processes.spread(self.task.module)
            return logs

    def _pick_up(self) -> tuple[list[EpochLog], dict[str, Any]]:
        logs = pick_up(self.state, self._identity(), self.task.module, self.optimizer) if self.state else []
        return logs, self.optimizer.state_dict()

    def _identity(self) -> Mapping[str, Any]:
        several = {"processes": self._processes.count} if self._processes.count > 1 else {}
        return {**self.settings.plain(), **self.task.identity(), "mixed_precision": self.mixed, **several}

    def _epoch(self, epoch: int, display: Display) -> EpochLog:
        started, steps = time.perf_counter(), self.task.steps
        generator = self._seeded(epoch)
        batches = self.task.batches(generator)
        if self._processes.rank:
            # The order is that of all; what is drawn for the images of a share is its own.
            generator.manual_seed(self._seed(epoch) + self._processes.rank * 1_000_000_007)
        loss = rate = seen = 0.0
        for index, batch in enumerate(display.steps(batches, steps, epoch)):
            step = (epoch - 1) * steps + index
            rate = self.settings.rate(step, self.settings.epochs * steps)
            value, images = self._step(batch, generator, step / (self.settings.epochs * steps), rate)
            loss, seen = loss + value * images, seen + images
        self._processes.join_buffers(self.task.module)
        return EpochLog(epoch, loss / seen, rate, self.task.measure(), time.perf_counter() - started)

    def _seed(self, epoch: int) -> int:
        # Of the epoch too: a run that is picked up needs no generator state to go on as before.
        return self.settings.seed * 1_000_003 + epoch

    def _seeded(self, epoch: int) -> Generator:
        seed_generators(self.task.device, self._seed(epoch) + self._processes.rank * 1_000_000_007)
        return Generator().manual_seed(self._seed(epoch))

    def _step(self, batch: Batch, generator: Generator, progress: float, rate: float) -> tuple[float, int]:
        """Mean loss and number of images of the whole batch."""
        with torch.autocast(self.task.device.type, torch.bfloat16, enabled=self.mixed):
            loss = self.task.loss(batch, generator, progress)
        value, images = self._processes.mean(loss, len(batch))
        if not math.isfinite(value):
            raise ZooError(
                f"fit: the loss became {value} at learning rate {rate:.4g}; lower lr (it was "
                f"{self.settings.lr:g}), lengthen warmup, or look for non-finite images or weights"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.zero_grad()
        torch.autograd.backward(loss * (len(batch) / images))
        self._processes.join_gradients(p for group in self.optimizer.param_groups for p in group["params"])
        self.optimizer.step()
        return value, images


def _optimizer(groups: list[dict[str, Any]], settings: Settings) -> Optimizer:
    rate, momentum, decay = settings.lr, settings.momentum, settings.weight_decay
    if settings.optimizer == "adamw":
        return AdamW(groups, rate, weight_decay=decay)
    return SGD(groups, rate, momentum, weight_decay=decay, nesterov=momentum > 0)


def _groups(task: Task) -> list[dict[str, Any]]:
    """Parameters to train, by the factor of their learning rate; frozen ones are left out."""
    special = {p: factor for module, factor in task.factors.items() for p in module.parameters()}
    by_factor: dict[float, list[nn.Parameter]] = {}
    for parameter in task.module.parameters():
        if parameter.requires_grad:
            by_factor.setdefault(special.get(parameter, 1.0), []).append(parameter)
    return [{"params": parameters, "factor": factor} for factor, parameters in by_factor.items()]


def chunks(samples: int, size: int, generator: Generator) -> Sequence[Tensor]:
    """All rows below ``samples`` in random order, ``size`` a batch.

    A last batch that would leave a process a single row is left out: batch norm cannot train on that.

    >>> [len(rows) for rows in chunks(9, 4, Generator())]
    [4, 4]
    """
    order = torch.randperm(samples, generator=generator)
    batches = [order[start : start + size] for start in range(0, samples, size)]
    alone = len(batches) > 1 and len(batches[-1]) < 2 * present().count
    return batches[:-1] if alone else batches


def count_chunks(samples: int, size: int) -> int:
    """Number of the batches of `chunks`."""
    whole, rest = divmod(samples, size)
    return whole + (rest >= 2 * present().count or (rest > 0 and whole == 0))
