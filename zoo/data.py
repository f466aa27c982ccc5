"""Data sets by name: found on disk, split by class with a seed, normalised by the training images."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from zoo.sources.batches import cifar10, cifar100, stl10
from zoo.sources.blend import blended
from zoo.sources.digits import digits
from zoo.sources.folders import imagenet, office31
from zoo.sources.idx import fashion_mnist
from zoo.sources.places import Request
from zoo.sources.raw import Raw, Sources
from zoo.sources.shifts import SHIFTS, shifted
from zoo.splits import Split, Splits, divide, require_classes

__all__ = ["FOLDERS", "SOURCES", "Split", "Splits", "load"]

SOURCES: Sources = {
    "digits": digits,
    "digits-m": blended(digits),
    "fashion-mnist": fashion_mnist,
    "fashion-mnist-m": blended(fashion_mnist),
    "cifar-10": cifar10,
    "cifar-100": cifar100,
    "stl-10": stl10,
    **{f"digits-{name}": shifted(digits, change) for name, change in SHIFTS.items()},
    **{f"fashion-mnist-{name}": shifted(fashion_mnist, change) for name, change in SHIFTS.items()},
}
"""Data sets that are held in memory."""

FOLDERS: Mapping[str, Callable[[Request, int], Splits]] = {
    "imagenet": imagenet,
    **{f"office31-{domain}": partial(office31, domain) for domain in ("amazon", "dslr", "webcam")},
}
"""Data sets of image files, normalised as torchvision's pretrained weights expect."""


def load(name: str, root: Path | None = None, seed: int = 0, download: bool = False) -> Splits:
    """Load the data set ``name``: one of `SOURCES`, as tensors, or one of `FOLDERS`, as image files.

    Tensors are normalised by the mean and deviation of each channel over all training images. Splits are stratified
    by class and depend on ``seed`` only; where a data set has test images of its own, those are the test split.

    Args:
        name: such as "fashion-mnist".
        root: folder of the files; ``zoo.sources.places.find`` says where they are looked for by default.
        seed: which images go to which split.
        download: fetch what is missing into ``root`` or its default.

    Raises:
        ValueError: no data set of that name.
        ZooError: its files are missing or damaged, or a split has one class only.

    >>> splits = load("digits")
    >>> splits.train.images.shape, len(splits.val), len(splits.test), splits.classes
    (torch.Size([1077, 1, 8, 8]), 360, 360, 10)
    """
    request = Request(root, download)
    if name in SOURCES:
        splits = _normalised(SOURCES[name](request, seed), seed, name)
    elif name in FOLDERS:
        splits = FOLDERS[name](request, seed)
    else:
        raise ValueError(f"load: no data set {name!r}; there are {', '.join((*SOURCES, *FOLDERS))}")
    for samples, purpose in ((splits.train, "training"), (splits.val, "validation"), (splits.test, "test")):
        require_classes(samples, f"{name} {purpose}")
    return splits


def _normalised(raw: Raw, seed: int, name: str) -> Splits:
    images, labels = raw.train
    train, val = divide(labels, raw.val, seed, name)
    mean, deviation = _moments(images[train])

    def split(images: Tensor, labels: Tensor) -> Split:
        return Split((images.float() - mean) / deviation, labels)

    return Splits(
        split(images[train], labels[train]), split(images[val], labels[val]), split(*raw.test), names=raw.names
    )


def _moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel of uint8 images, from a histogram: exact, and no copy in another type."""
    counts = torch.stack([channel.flatten().bincount(minlength=256) for channel in images.unbind(1)]).double()
    shares, grey = counts / counts.sum(1, keepdim=True), torch.arange(256, dtype=torch.float64)
    mean = shares @ grey
    variance = shares @ grey.square() - mean.square()
    deviation = variance.sqrt().clamp_min(1)  # a channel of one grey stays finite
    return mean.float()[:, None, None], deviation.float()[:, None, None]
