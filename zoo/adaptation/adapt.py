"""Unsupervised domain adaptation by adversarial training: DANN (Ganin et al., JMLR 2016)."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from zoo.adaptation.reversal import Adversary, DomainHead, Tap, reverse
from zoo.augment import Augment
from zoo.errors import ZooError
from zoo.footprints import Device, isolated, own_randomness, seed_generators
from zoo.loop import Loop, chunks, count_chunks
from zoo.processes import present, shares
from zoo.progress import Display, EpochLog
from zoo.settings import Settings
from zoo.splits import Samples, Split, require_classes, require_samples
from zoo.train import accuracy


def adapt(
    model: nn.Module,
    source: Samples,
    target: Samples,
    settings: Settings | None = None,
    *,
    adversary: Adversary | None = None,
    augment: Augment | None = None,
    val: Samples | None = None,
    device: Device = None,
    mixed_precision: bool | None = None,
    progress: bool = True,
    state: Path | None = None,
    log: Path | None = None,
    **numbers: Any,
) -> list[EpochLog]:
    """Train ``model`` in place on labelled source and unlabelled target images; returns one log an epoch.

    Each step takes one batch of both through the model at once. The loss is the cross-entropy of the source labels
    plus that of a domain head, which sees the classifier's input through a gradient reversal layer of strength
    λ_p = 2 / (1 + e^(−10 p)) − 1 at the share p of the run: the features become such that the domains cannot be told
    apart. The domain head is dropped in the end; the model keeps its own layers only. Labels of the target are never
    read. What is said of modes, device, generators and failures at ``zoo.train.fit`` holds here too.

    Args:
        model: maps images (n, c, h, w) to logits (n, classes), by a linear layer at the end.
        source: labelled images; an epoch is one pass over them.
        target: images of the other domain; drawn anew when they run out.
        settings: numbers of the descent; ``batch_size`` is that of either domain. Ganin et al. use the schedule
            "annealed" without warm-up, ``lr`` 0.01, ``batch_size`` 32.
        adversary: the domain head and its strength.
        augment: changes each batch of either domain.
        val: measured after each epoch; nothing else depends on it.
        device, mixed_precision, progress, state, log, numbers: as in ``zoo.train.fit``.

    Raises:
        ValueError: a setting is out of range.
        ZooError: a split is empty, the source is of one class, the images of the two differ in shape, the model has
            no linear layer, the loss is not finite, or ``state`` is of another run.
    """
    chosen = replace(settings, **numbers) if settings else Settings(**numbers)
    _require_pair(source, target)
    if val is not None:
        require_samples(val, "validation")
    with isolated(model, present().place(device), training=True) as where, own_randomness(where):
        mixed = where.type == "cuda" if mixed_precision is None else mixed_precision
        against, validated = adversary or Adversary(), val.to(where) if val else None
        with Tap(model, against.classifier) as tap:
            seed_generators(where, chosen.seed)
            head = DomainHead(tap.width, against.hidden).to(where)
            both = nn.ModuleDict({"model": model, "domain": head})
            task = _Adversarial(
                both, tap, source.to(where), target.to(where), validated, chosen, against, augment, where
            )
            try:
                return Loop(task, chosen, mixed, state, log).finish(Display(chosen.epochs, progress))
            finally:
                model.zero_grad()


@dataclass(frozen=True)
class _Pair:
    source: Split
    target: Split

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True)
class _Adversarial:
    """Classification of the source against a domain head; a `zoo.loop.Task`."""

    module: nn.ModuleDict
    tap: Tap
    source: Samples
    target: Samples
    val: Samples | None
    settings: Settings
    adversary: Adversary
    augment: Augment | None
    device: torch.device

    @property
    def factors(self) -> Mapping[nn.Module, float]:
        """The classifier learns at full rate, the layers below it at a part of it."""
        return {self.module["model"]: self.adversary.backbone, self.tap.classifier: 1.0}

    @property
    def steps(self) -> int:
        return count_chunks(len(self.source), self.settings.batch_size)

    def identity(self) -> Mapping[str, Any]:
        return {"source": len(self.source), "target": len(self.target), **self.adversary.plain()}

    def batches(self, generator: Generator) -> Iterator[_Pair]:
        size = self.settings.batch_size
        order = chunks(len(self.source), size, generator)
        rounds = math.ceil(len(self.source) / len(self.target))
        rows = torch.cat([torch.randperm(len(self.target), generator=generator) for _ in range(rounds)])
        others = [rows[i * size : i * size + len(here)] for i, here in enumerate(order)]
        both = self.source.batches(shares(order)), self.target.batches(shares(others))
        return (_Pair(*pair) for pair in zip(*both, strict=True))

    def loss(self, batch: _Pair, generator: Generator, progress: float) -> Tensor:
        images = torch.cat([batch.source.images, batch.target.images])
        logits = self.module["model"](self.augment(images, generator) if self.augment else images)
        known = len(batch.source)
        smoothing = self.settings.label_smoothing
        label_loss = F.cross_entropy(logits[:known].float(), batch.source.labels, label_smoothing=smoothing)
        guess = self.module["domain"](reverse(self.tap.seen, self.adversary.at(progress))).squeeze(1).float()
        truth = torch.zeros_like(guess)
        truth[:known] = 1
        return label_loss + F.binary_cross_entropy_with_logits(guess, truth)

    def measure(self) -> float | None:
        return None if self.val is None else accuracy(self.module["model"], self.val)


def _require_pair(source: Samples, target: Samples) -> None:
    require_classes(source, "source")
    require_samples(target, "target")
    shapes = [tuple(samples[:1].images.shape[1:]) for samples in (source, target)]
    if shapes[0] != shapes[1]:
        raise ZooError(f"adapt: images of the source are {shapes[0]}, those of the target {shapes[1]}; make them alike")
