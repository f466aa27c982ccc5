"""Data sets as they are read from disk: before they are split and normalised."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.sources.places import Request


@dataclass(frozen=True, eq=False)
class Raw:
    """Images of a data set with its own division.

    Args:
        train, test: each images uint8 (n, c, h, w) and labels int64 (n,).
        names: of the classes.
        val: part of ``train`` that becomes the validation split.
    """

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    names: tuple[str, ...]
    val: float


Source = Callable[[Request, int], Raw]
"""(request, seed) -> images."""

Sources = Mapping[str, Source]


def checked(images: Tensor, labels: Tensor, names: tuple[str, ...], where: str, remedy: str) -> tuple[Tensor, Tensor]:
    """The two as they are, labels as int64.

    Raises:
        ZooError: they differ in length, are empty, or a label is not that of a class; ``where`` is the file.
    """
    if len(images) != len(labels) or not len(images):
        raise ZooError(f"{where}: {len(images)} images, but {len(labels)} labels beside it; {remedy}")
    worst = int(labels.max() if labels.max() >= len(names) else labels.min())
    if not 0 <= worst < len(names):
        raise ZooError(f"{where}: label {worst} is not one of {len(names)} classes; {remedy}")
    return images, labels.to(torch.int64)
