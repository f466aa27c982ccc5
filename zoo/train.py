"""Train a classifier on a split that is held in memory, and measure its accuracy."""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.optim import SGD

from zoo.augment import Augment
from zoo.data import Split
from zoo.errors import ZooError
from zoo.footprints import Device, all_or_nothing, borrowed, own_randomness, seed_generators
from zoo.progress import Display, EpochLog
from zoo.resume import keep, pick_up
from zoo.settings import Schedule, Settings


def fit(
    model: nn.Module,
    split: Split,
    *,
    epochs: int,
    lr: float = 0.1,
    batch_size: int = 128,
    weight_decay: float = 5e-4,
    momentum: float = 0.9,
    schedule: Schedule = "cosine",
    warmup: float = 0.1,
    label_smoothing: float = 0.0,
    seed: int = 0,
    augment: Augment | None = None,
    val: Split | None = None,
    device: Device = None,
    mixed_precision: bool | None = None,
    progress: bool = True,
    state: Path | None = None,
) -> list[EpochLog]:
    """Train ``model`` in place on the cross-entropy of ``split``; returns one log an epoch.

    Every module trains, frozen parameters (``requires_grad`` false) excepted. Afterwards modes, device and
    the global generators are as they were and gradients are cleared. If the run fails or is interrupted, the
    model is left as it was after the last finished epoch and the exception goes on.

    Args:
        model: maps images (n, c, h, w) to logits (n, classes).
        split: images to train on. A last batch of a single image is left out, batch norm cannot train on it.
        epochs, lr, batch_size, weight_decay, momentum, schedule, warmup, label_smoothing, seed: as in
            ``zoo.settings.Settings``.
        augment: changes each batch, such as ``zoo.augment.shift(2)``.
        val: measured after each epoch; nothing else depends on it.
        device: where to train; default where the model is.
        mixed_precision: bfloat16 where autocast allows it; default on CUDA only.
        progress: show a line an epoch, and a bar on a terminal, on standard error.
        state: file that holds the run after each epoch. If it exists, the run goes on from it and ends as
            if it had never stopped.

    Raises:
        ValueError: a setting is out of range.
        ZooError: a split is empty, the loss is not finite, or ``state`` is of another run.
    """
    chosen = Settings(epochs, lr, batch_size, weight_decay, momentum, schedule, warmup, label_smoothing, seed)
    _require_samples(split, "training")
    if val is not None:
        _require_samples(val, "validation")
    with borrowed(model, device, training=True) as where, own_randomness(where):
        mixed = where.type == "cuda" if mixed_precision is None else mixed_precision
        run = _Run(model, split.to(where), val.to(where) if val else None, chosen, augment, mixed, state)
        try:
            return run.finish(Display(epochs, progress))
        finally:
            model.zero_grad()


@torch.no_grad()
def accuracy(model: nn.Module, split: Split, batch_size: int = 512, device: Device = None) -> float:
    """Share of ``split`` in [0, 1] whose largest logit is that of its label.

    Measured in evaluation mode and the model's own precision; the model is left in the mode and on the device
    that it had.

    Args:
        model: maps images (n, c, h, w) to logits (n, classes).
        split: what to measure on.
        batch_size: images a forward.
        device: where to measure; default where the model is.

    Raises:
        ZooError: the split is empty.
    """
    _require_samples(split, "evaluation")
    with borrowed(model, device, training=False) as where:
        right = torch.zeros((), dtype=torch.int64, device=where)
        for start in range(0, len(split), batch_size):
            batch = split[start : start + batch_size].to(where)
            right += (model(batch.images).argmax(1) == batch.labels).sum()
    return int(right) / len(split)


@dataclass
class _Run:
    """One call of ``fit``: everything on the device, the model in training mode."""

    model: nn.Module
    split: Split
    val: Split | None
    settings: Settings
    augment: Augment | None
    mixed: bool
    state: Path | None

    def __post_init__(self) -> None:
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not trained:
            raise ZooError("fit: the model has no parameter to train; set requires_grad on some of them")
        momentum, decay = self.settings.momentum, self.settings.weight_decay
        self.optimizer = SGD(trained, self.settings.lr, momentum, weight_decay=decay, nesterov=momentum > 0)

    def finish(self, display: Display) -> list[EpochLog]:
        """Run the epochs that ``state`` does not hold yet."""
        logs = self._finished()
        for epoch in range(len(logs) + 1, self.settings.epochs + 1):
            with all_or_nothing(self.model):
                logs.append(self._epoch(epoch, display))
            display.line(logs[-1])
            if self.state:
                keep(self.state, self._identity(), logs, self.model, self.optimizer)
        return logs

    def _finished(self) -> list[EpochLog]:
        with all_or_nothing(self.model):
            return pick_up(self.state, self._identity(), self.model, self.optimizer) if self.state else []

    def _identity(self) -> Mapping[str, Any]:
        return {**asdict(self.settings), "samples": len(self.split), "mixed_precision": self.mixed}

    def _epoch(self, epoch: int, display: Display) -> EpochLog:
        started = time.perf_counter()
        generator = self._seeded(epoch)
        batches = _batches(len(self.split), self.settings.batch_size, generator)
        loss = rate = 0.0
        for index, rows in enumerate(display.steps(batches, epoch)):
            rate = self.settings.rate((epoch - 1) * len(batches) + index, self.settings.epochs * len(batches))
            loss += self._step(self.split[rows.to(self.split.labels.device)], rate, generator) * len(rows)
        val = accuracy(self.model, self.val) if self.val is not None else None
        return EpochLog(epoch, loss / sum(map(len, batches)), rate, val, time.perf_counter() - started)

    def _seeded(self, epoch: int) -> Generator:
        # Seeded by the epoch too: a run that is picked up needs no generator state to go on as before.
        seed = self.settings.seed * 1_000_003 + epoch
        seed_generators(self.split.labels.device, seed)
        return Generator().manual_seed(seed)

    def _step(self, batch: Split, rate: float, generator: Generator) -> float:
        images = self.augment(batch.images, generator) if self.augment else batch.images
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.mixed):
            logits = self.model(images)
        loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=self.settings.label_smoothing)
        self._descend(loss, rate)
        return loss.item()

    def _descend(self, loss: Tensor, rate: float) -> None:
        if not math.isfinite(loss.item()):
            raise ZooError(
                f"fit: the loss became {loss.item()} at learning rate {rate:.4g}; lower lr (it was "
                f"{self.settings.lr:g}), lengthen warmup, or look for non-finite images or weights"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()


def _batches(samples: int, size: int, generator: Generator) -> list[Tensor]:
    order = torch.randperm(samples, generator=generator)
    batches = [order[start : start + size] for start in range(0, samples, size)]
    alone = len(batches) > 1 and len(batches[-1]) == 1
    return batches[:-1] if alone else batches


def _require_samples(split: Split, purpose: str) -> None:
    if not len(split):
        raise ZooError(f"the {purpose} split is empty; pass one of at least one image")
