"""Labelled images and their division into training, validation and test; what all data sets have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from zoo.errors import ZooError


class Samples(Protocol):
    """Labelled images, in memory (`Split`) or in files (`zoo.image_files.ImageFiles`), to train on and to measure."""

    @property
    def images(self) -> Tensor:
        """All images, float32 (n, c, h, w)."""

    @property
    def labels(self) -> Tensor:
        """All labels, int64 (n,)."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor | slice) -> Split:
        """The samples at ``rows``, in memory."""

    def batches(self, order: Sequence[Tensor]) -> Iterator[Split]:
        """The samples at each of the rows in ``order``, one batch after the other."""

    def to(self, device: torch.device) -> Samples:
        """The same samples, whose batches are on ``device``."""

    def part(self, rows: Tensor) -> Samples:
        """The samples at ``rows``, kept as these are."""

    def with_labels(self, labels: Tensor) -> Samples:
        """The same images with other labels."""


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images in memory: ``images`` float32 (n, c, h, w), ``labels`` int64 (n,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor | slice) -> Split:
        """The samples at ``rows``, as a split."""
        return Split(self.images[rows], self.labels[rows])

    def batches(self, order: Sequence[Tensor]) -> Iterator[Split]:
        """The samples at each of the rows in ``order``, one batch after the other."""
        return (self[rows.to(self.labels.device)] for rows in order)

    def to(self, device: torch.device) -> Split:
        """The same samples on ``device``."""
        return Split(self.images.to(device), self.labels.to(device))

    def part(self, rows: Tensor) -> Split:
        """The samples at ``rows``."""
        return self[rows]

    def with_labels(self, labels: Tensor) -> Split:
        """The same images with other labels."""
        return Split(self.images, labels)


@dataclass(frozen=True, eq=False)
class Splits:
    """Three disjoint splits of one data set; label i is the class ``names[i]``."""

    train: Samples
    val: Samples
    test: Samples
    names: tuple[str, ...]

    @property
    def classes(self) -> int:
        """Number of classes; labels lie in [0, ``classes``)."""
        return len(self.names)

    def map(self, change: Callable[[Samples], Samples]) -> Splits:
        """The same splits, each changed."""
        return replace(self, train=change(self.train), val=change(self.val), test=change(self.test))


def divide(labels: Tensor, part: float, seed: int, where: str) -> tuple[Tensor, Tensor]:
    """Rows of a larger rest and of ``part`` of the samples of every class; both sorted, decided by ``seed``.

    Raises:
        ZooError: a class has too few images to be on both sides; ``where`` names the data set.

    >>> rest, chosen = divide(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), 1 / 4, seed=0, where="toy")
    >>> len(rest), len(chosen)
    (6, 2)
    """
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]  # takes a second

    rows = torch.arange(len(labels)).numpy()
    try:
        rest, chosen = train_test_split(rows, test_size=part, stratify=labels.cpu().numpy(), random_state=seed)
    except ValueError as error:
        raise ZooError(f"{where}: cannot be split by class ({error}); add images to its smallest classes") from error
    return torch.from_numpy(rest).sort().values, torch.from_numpy(chosen).sort().values


def require_samples(samples: Samples, purpose: str) -> None:
    """Refuse an empty split.

    Raises:
        ZooError: there is no sample; the text names the ``purpose``, such as "training".
    """
    if not len(samples):
        raise ZooError(f"the {purpose} split is empty; pass one of at least one image")


def require_classes(samples: Samples, purpose: str) -> None:
    """Refuse a split in which there is nothing to tell apart.

    Raises:
        ZooError: no sample, or all are of one class.
    """
    require_samples(samples, purpose)
    first = int(samples.labels[0])
    if bool((samples.labels == first).all()):
        raise ZooError(
            f"the {purpose} split has images of one class only (all {len(samples)} labels are {first}), so there is "
            "nothing to tell apart; check its labels, or take more of the data"
        )
