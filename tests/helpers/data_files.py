"""Writers of tiny data sets in the published formats, for the tests of the zoo's data."""

import gzip
import hashlib
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100, STL10

from zoo.sources import idx

DRAW = np.random.default_rng(0)


def idx_bytes(array: np.ndarray) -> bytes:
    """The idx format: two zero bytes, type 8 (uint8), rank, sizes as big-endian uint32, values."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_fashion(folder: Path, train: int = 24, test: int = 2, side: tuple[int, int] = (5, 4)) -> None:
    """Fashion-MNIST with this many images a class, every image another."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", train), ("t10k", test)):
        labels = DRAW.permutation(np.repeat(np.arange(10, dtype=np.uint8), count))
        images = DRAW.integers(0, 256, (len(labels), *side), dtype=np.uint8)
        for name, array in ((idx.IMAGES, images), (idx.LABELS, labels)):
            (folder / name.format(part=part)).write_bytes(gzip.compress(idx_bytes(array)))


def labelled(classes: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3, 32, 32) whose red corner is their label, and the labels."""
    labels = DRAW.permutation(np.repeat(np.arange(classes), each))
    images = DRAW.integers(0, 256, (len(labels), 3, 32, 32), dtype=np.uint8)
    images[:, 0, 0, 0] = labels
    return images, labels


def _pickled(path: Path, content: dict[str, Any]) -> None:
    path.write_bytes(pickle.dumps(content))


def write_cifar(root: Path, classes: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-10 or -100 (10 or 100 ``classes``) with 10 training and 1 test images a class; returns its folder."""
    dataset, key = (CIFAR10, "labels") if classes == 10 else (CIFAR100, "fine_labels")
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)
    images, labels = labelled(classes, 10)
    names = [name for name, _ in dataset.train_list]
    shares = zip(names, np.array_split(images, len(names)), np.array_split(labels, len(names)), strict=True)
    for name, part, numbers in [*shares, (dataset.test_list[0][0], *labelled(classes, 1))]:
        _pickled(folder / name, {"data": part.reshape(len(part), -1), key: numbers.tolist()})
    _pickled(folder / dataset.meta["filename"], {dataset.meta["key"]: [f"class {i}" for i in range(classes)]})
    for lists in ("train_list", "test_list"):
        monkeypatch.setattr(dataset, lists, [[n, md5(folder / n)] for n, _ in getattr(dataset, lists)])
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": md5(folder / dataset.meta["filename"])})
    return folder


def write_stl(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """STL-10 with 10 training and 1 test images a class; returns its folder."""
    folder = root / STL10.base_folder
    folder.mkdir(parents=True)
    for part, each in (("train", 10), ("test", 1)):
        labels = DRAW.permutation(np.repeat(np.arange(10, dtype=np.uint8), each))
        images = DRAW.integers(0, 256, (len(labels), 3, 96, 96), dtype=np.uint8)
        images[:, 0, 0, 5] = labels  # column 0, row 5: the file is written column by column
        (folder / f"{part}_X.bin").write_bytes(images.tobytes())
        (folder / f"{part}_y.bin").write_bytes((labels + 1).tobytes())
    (folder / "unlabeled_X.bin").write_bytes(b"")
    (folder / STL10.class_names_file).write_text("\n".join(f"class {i}" for i in range(10)))
    for lists in ("train_list", "test_list"):
        monkeypatch.setattr(STL10, lists, [[n, md5(folder / n)] for n, _ in getattr(STL10, lists)])
    return folder


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_images(folder: Path, classes: dict[str, int], size: tuple[int, int] = (40, 30)) -> None:
    """A folder of JPEG files a class; the red of an image is 20 times the number of its class."""
    for number, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", size, (20 * number, i, 100)).save(folder / name / f"{i}.jpg")
