"""Train or fine-tune a classifier, and measure its accuracy."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from fxprune.search.accuracy import are_right
from zoo.augment import Augment
from zoo.footprints import Device, isolated, own_randomness
from zoo.loop import Loop, chunks, count_chunks
from zoo.processes import present, shares
from zoo.progress import Display, EpochLog
from zoo.settings import Settings
from zoo.splits import Samples, Split, require_classes, require_samples


def fit(
    model: nn.Module,
    split: Samples,
    settings: Settings | None = None,
    *,
    augment: Augment | None = None,
    val: Samples | None = None,
    teacher: nn.Module | None = None,
    device: Device = None,
    mixed_precision: bool | None = None,
    progress: bool = True,
    state: Path | None = None,
    log: Path | None = None,
    **numbers: Any,
) -> list[EpochLog]:
    """Train ``model`` in place on the cross-entropy of ``split``; returns one log an epoch.

    Training from scratch and fine-tuning after pruning differ in their settings only. Every module trains, frozen
    parameters (``requires_grad`` false) excepted. Afterwards modes, device and the global generators are as they
    were and gradients are cleared. If the run fails or is interrupted, the model is left as it was after the last
    finished epoch and the exception goes on.

    Under ``accelerate launch`` or ``torchrun`` all processes call this and train one model together (`zoo.loop.Loop`);
    an epoch is still one pass over the images, and the batch size is that of all.

    Args:
        model: maps images (n, c, h, w) to logits (n, classes).
        split: images to train on. A last batch of a single image is left out, batch norm cannot train on it.
        settings: numbers of the descent.
        augment: changes each batch, such as ``zoo.augment.shift(2)``.
        val: measured after each epoch; nothing else depends on it.
        teacher: a network, such as the original of a pruned model, whose outputs on the same images make up the share
            ``settings.distil`` of the loss; left as it is.
        device: where to train; default where the model is, or what the launcher gave this process.
        mixed_precision: bfloat16 where autocast allows it; default on CUDA only.
        progress: show a line an epoch, and a bar on a terminal, on standard error.
        state: file that holds the run after each epoch. If it exists, the run goes on from it and ends as
            if it had never stopped.
        log: folder for a TensorBoard log of each epoch.
        numbers: fields of ``zoo.settings.Settings``, instead of ``settings`` or on top of it.

    Raises:
        ValueError: a setting is out of range.
        ZooError: a split is empty or of one class, the loss is not finite, or ``state`` is of another run.
    """
    chosen = replace(settings, **numbers) if settings else Settings(**numbers)
    require_classes(split, "training")
    if val is not None:
        require_samples(val, "validation")
    with isolated(model, present().place(device), training=True) as where, own_randomness(where), _lent(teacher, where):
        mixed = where.type == "cuda" if mixed_precision is None else mixed_precision
        here, measured = split.to(where), val.to(where) if val else None
        layout = _layout(model)
        task = _Supervised(model, here, measured, chosen, augment, teacher, where, layout)
        try:
            with _laid_out(model, layout):
                return Loop(task, chosen, mixed, state, log).finish(Display(chosen.epochs, progress))
        finally:
            model.zero_grad()


@torch.no_grad()
def accuracy(model: nn.Module, split: Samples, batch_size: int = 512, device: Device = None) -> float:
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
    require_samples(split, "evaluation")
    with isolated(model, device, training=False) as where:
        right = torch.zeros((), dtype=torch.int64, device=where)
        for batch in split.batches(torch.arange(len(split)).split(batch_size)):
            here = batch.to(where)
            images = _laid(here.images, torch.channels_last)  # less than half the time where layers pool
            right += are_right(model(images), here.labels).sum()
    return int(right) / len(split)


def distillation(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """T² · KL(softmax(wanted / T) ‖ softmax(logits / T)), the mean over samples (Hinton et al. 2015).

    Args:
        logits: of the student, (n, classes).
        wanted: of the teacher, (n, classes).
        temperature: T.

    >>> logits = torch.tensor([[1.0, 2.0, 3.0]])
    >>> distillation(logits, logits + 1, temperature=4.0).item()
    0.0
    """
    student, target = (F.log_softmax(t.float() / temperature, 1) for t in (logits, wanted))
    return temperature**2 * F.kl_div(student, target, reduction="batchmean", log_target=True)


@dataclass(frozen=True)
class _Supervised:
    """Cross-entropy on one split, and the teacher's outputs where there is one; a `zoo.loop.Task`."""

    module: nn.Module
    split: Samples
    val: Samples | None
    settings: Settings
    augment: Augment | None
    teacher: nn.Module | None
    device: torch.device
    layout: torch.memory_format
    factors: Mapping[nn.Module, float] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return count_chunks(len(self.split), self.settings.batch_size)

    def identity(self) -> Mapping[str, Any]:
        return {"samples": len(self.split), "taught": self.teacher is not None}

    def batches(self, generator: Generator) -> Iterator[Split]:
        return self.split.batches(shares(chunks(len(self.split), self.settings.batch_size, generator)))

    def loss(self, batch: Split, generator: Generator, progress: float) -> Tensor:  # noqa: ARG002  # of the Protocol
        images = self.augment(batch.images, generator) if self.augment else batch.images
        images = _laid(images, self.layout)
        logits = self.module(images).float()
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.settings.label_smoothing)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            wanted = self.teacher(images)
        share = self.settings.distil
        return (1 - share) * loss + share * distillation(logits, wanted, self.settings.temperature)

    def measure(self) -> float | None:
        return None if self.val is None else accuracy(self.module, self.val)


def _layout(module: nn.Module) -> torch.memory_format:
    """How batches of images lie in memory: channels last, unless that would damage the heap.

    Convolutions of few channels take half the time with channels last. But on processors without AVX-512, PyTorch's
    oneDNN (seen in 2.14.1) writes past the end of a buffer in the backward pass of a strided 1x1 convolution that reads
    fewer than 8 channels, and a pruned network may have one.
    """
    faulty = any(
        m.kernel_size == (1, 1) and max(m.stride) > 1 and m.in_channels < 8
        for m in module.modules()
        if isinstance(m, nn.Conv2d)
    )
    return torch.contiguous_format if faulty else torch.channels_last


def _laid(images: Tensor, layout: torch.memory_format) -> Tensor:
    return images.contiguous(memory_format=layout) if images.dim() == 4 else images


@contextmanager
def _laid_out(module: nn.Module, layout: torch.memory_format) -> Iterator[None]:
    """Kernels lie as the images do, or oneDNN would copy them in each step; afterwards they lie as they did."""
    kernels = [p for p in module.parameters() if p.dim() == 4 and p.is_contiguous()]
    for kernel in kernels:
        kernel.data = kernel.data.contiguous(memory_format=layout)
    try:
        yield
    finally:
        for kernel in kernels:
            kernel.data = kernel.data.contiguous()


def _lent(teacher: nn.Module | None, where: torch.device) -> AbstractContextManager[object]:
    return nullcontext() if teacher is None else isolated(teacher, where, training=False)
