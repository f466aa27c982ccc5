"""Data sets in the ImageFolder layout, one folder of image files a class: ImageNet and the domains of Office-31."""

import os
from dataclasses import replace
from pathlib import Path

import torch

from zoo.errors import ZooError
from zoo.image_files import ImageFiles
from zoo.sources.places import Request, Wanted, find
from zoo.splits import Splits, divide

SIDE = 224
"""Pixels of the middle square that validation and test read; training reads the canvas around it to crop from."""

_MANY = 10_000  # files from which on it pays to start processes that decode

IMAGENET = Wanted(
    "imagenet",
    ("train", "val"),
    "after registration, unpack the ILSVRC 2012 archives of https://image-net.org into train/CLASS/*.JPEG and "
    "val/CLASS/*.JPEG",
)
OFFICE = Wanted(
    "office-31",
    ("amazon", "dslr", "webcam"),
    "unpack the archive that https://faculty.cc.gatech.edu/~judy/domainadapt/ links to (amazon/images/CLASS/*.jpg, "
    "dslr/…, webcam/…)",
    inner=("", "domain_adaptation_images"),
)


def imagenet(request: Request, seed: int) -> Splits:
    """ImageNet: 4 % of the training images for validation; its own validation images for testing. Read when used."""
    folder = find(IMAGENET, request)
    train, names = read(folder / "train")
    test, others = read(folder / "val")
    if names != others:
        differ = sorted(set(names) ^ set(others))[:5]
        raise ZooError(f"{folder}: train and val have different classes ({', '.join(differ)}); unpack them again")
    rest, val = divide(train.labels, 0.04, seed, str(folder))
    return Splits(train.part(rest), _middle(train.part(val)), _middle(test), names)


def office31(domain: str, request: Request, seed: int) -> Splits:
    """One domain of Office-31, split 80 / 10 / 10 %, decoded once and held in memory (0.2 MB an image)."""
    folder = find(OFFICE, request) / domain
    album, names = read(folder / "images" if (folder / "images").is_dir() else folder)
    rest, test = divide(album.labels, 0.1, seed, str(folder))
    train, val = divide(album.labels[rest], 1 / 9, seed, str(folder))
    album = album.hold()
    return Splits(album.part(rest[train]), _middle(album.part(rest[val])), _middle(album.part(test)), names)


def read(folder: Path) -> tuple[ImageFiles, tuple[str, ...]]:
    """The image files below ``folder`` and the names of their classes, in alphabetical order.

    Raises:
        ZooError: there is no class folder, or one holds no image.
    """
    from torchvision.datasets import ImageFolder  # type: ignore[import-untyped]  # takes seconds: where it is used

    try:
        files = ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise ZooError(f"{folder}: {error} Give each class a folder of its own with at least one image.") from error
    labels = torch.tensor([label for _, label in files.samples])
    workers = min(8, os.cpu_count() or 1) if len(labels) > _MANY else 0
    return ImageFiles([Path(path) for path, _ in files.samples], labels, workers=workers), tuple(files.classes)


def _middle(album: ImageFiles) -> ImageFiles:
    return replace(album, crop=SIDE)
