"""Data sets held in memory, split into train, validation and test, normalised by the training images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # scikit-learn ships no type information
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
from torch import Tensor

from zoo import idx


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images: ``images`` float32 (n, 1, h, w), ``labels`` int64 (n,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor | slice) -> "Split":
        """The samples at ``rows``, as a split."""
        return Split(self.images[rows], self.labels[rows])

    def to(self, device: torch.device) -> "Split":
        """The same samples on ``device``."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Splits:
    """Three disjoint splits of one data set whose labels lie in [0, ``classes``)."""

    train: Split
    val: Split
    test: Split
    classes: int


def load(name: str, root: Path | None = None, seed: int = 0) -> Splits:
    """Load the data set ``name``, normalised by the mean and deviation of all training pixels.

    "digits": scikit-learn's 1,797 images of 8 x 8, split 60 / 20 / 20 %. "fashion-mnist": 28 x 28; its 60,000
    training images split into 55,000 for training and 5,000 for validation, its own 10,000 test images for
    testing. Splits are stratified by class and depend on ``seed`` only.

    Args:
        name: "digits" or "fashion-mnist".
        root: folder of the files of "fashion-mnist"; ``zoo.idx.find`` says where it is looked for by default.
        seed: which images go to which split.

    Raises:
        ValueError: no data set of that name.
        ZooError: its files are missing or damaged.

    >>> splits = load("digits")
    >>> splits.train.images.shape, len(splits.val), len(splits.test), splits.classes
    (torch.Size([1077, 1, 8, 8]), 360, 360, 10)
    """
    if name not in SOURCES:
        raise ValueError(f"load: no data set {name!r}; there are {', '.join(SOURCES)}")
    splits = SOURCES[name](root, seed)
    deviation, mean = torch.std_mean(splits.train.images, correction=0)
    parts = (splits.train, splits.val, splits.test)
    train, val, test = (Split((part.images - mean) / deviation, part.labels) for part in parts)
    return Splits(train, val, test, splits.classes)


def _digits(_root: Path | None, seed: int) -> Splits:
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float().unsqueeze(1)
    rest, test = _divide(Split(images, torch.from_numpy(bunch.target).long()), 1 / 5, seed)
    train, val = _divide(rest, 1 / 4, seed)
    return Splits(train, val, test, classes=10)


def _fashion_mnist(root: Path | None, seed: int) -> Splits:
    folder = idx.find("fashion-mnist", root)
    train, test = (_read(folder, part, classes=10) for part in ("train", "t10k"))
    train, val = _divide(train, 1 / 12, seed)
    return Splits(train, val, test, classes=10)


SOURCES: Mapping[str, Callable[[Path | None, int], Splits]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
}
"""Name of a data set -> function of (root, seed) that returns its splits before normalisation."""


def _read(folder: Path, part: str, classes: int) -> Split:
    images, labels = idx.read(folder, part, classes)
    return Split(images.float(), labels)


def _divide(split: Split, part: float, seed: int) -> tuple[Split, Split]:
    """Split off ``part`` of the samples of every class: (the larger rest, the part)."""
    rest, chosen = train_test_split(
        torch.arange(len(split)).numpy(), test_size=part, stratify=split.labels.numpy(), random_state=seed
    )
    return split[torch.from_numpy(rest).sort().values], split[torch.from_numpy(chosen).sort().values]
