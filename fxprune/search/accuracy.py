"""Accuracy as the quality of a model, of which equal ones are ranked by their cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxprune.errors import InputError
from fxprune.module.batches import batches
from fxprune.module.data import check_batches
from fxprune.module.isolation import isolated, set_training


@dataclass(frozen=True, eq=False)
class Accuracy:
    """The part of samples whose label has the largest output; of equals the model of smaller cross-entropy is better.

    With CE the mean cross-entropy of N samples, the value is

        (correct + 1/(2 (1 + CE))) / N,

    so that one more correct sample always counts more than any cross-entropy. Small splits, on which many candidates of
    a search are equally accurate, rank them all the same. PCP breaks ties so (Guo, Zhang, Ouyang and Xu). An output
    with NaN is never right.

    Attributes:
        data: batches (inputs, targets), with class indices of shape (samples,) as targets; read at each call.

    Raises:
        InputError: unusable data, labels that are no class, or outputs that are not logits of shape (samples, classes).

    >>> import torch, fxprune
    >>> quality = fxprune.search.Accuracy([(torch.eye(2), torch.tensor([0, 1]))])
    >>> sure, unsure = torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False)
    >>> _ = sure.weight.data.copy_(9 * torch.eye(2)), unsure.weight.data.copy_(torch.eye(2))
    >>> 1 < quality(unsure) < quality(sure) < 1.5
    True
    """

    data: Iterable[Any]

    def __post_init__(self) -> None:
        check_batches(self.data)

    def __call__(self, model: nn.Module) -> float:
        right, loss, samples = 0, 0.0, 0
        with isolated(model) as work, torch.no_grad():
            set_training(work, False)
            for batch in batches(work, self.data):
                logits, labels = batch.run(work), batch.targets
                _check(logits, labels, batch.place)
                labels = labels.long().to(logits.device)
                right += int(are_right(logits, labels).sum())
                loss += float(F.cross_entropy(logits.double(), labels, reduction="sum"))
                samples += len(labels)
        mean = loss / samples
        return (right + (0.0 if math.isnan(mean) else 1 / (2 * (1 + mean)))) / samples


def are_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether each sample's label has the largest output; of outputs with NaN, PyTorch takes the first such one."""
    return (logits.argmax(1) == labels) & ~logits.isnan().any(1)


def _check(logits: Any, labels: Any, place: str) -> None:
    fits = isinstance(labels, Tensor) and not labels.is_floating_point() and labels.dim() == 1
    if not fits or not isinstance(logits, Tensor) or logits.shape[:-1] != labels.shape:
        seen = " and ".join(
            str(tuple(t.shape)) if isinstance(t, Tensor) else type(t).__name__ for t in (logits, labels)
        )
        remedy = "give batches (inputs, class indices) of a classifier; for others, a function of your own"
        raise InputError("an accuracy needs logits and class indices", where=place, seen=seen, remedy=remedy)
    check_labels(labels, logits.shape[-1], place)


def check_labels(labels: Tensor, classes: int, place: str) -> None:
    """Refuse class numbers that a model has no output for.

    Raises:
        InputError: there is one.
    """
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        seen = f"classes {int(labels.min())} to {int(labels.max())}, and {classes} outputs"
        remedy = "number the classes from 0, and leave out samples without a class"
        raise InputError("a label is no class of the model", where=place, seen=seen, remedy=remedy)
