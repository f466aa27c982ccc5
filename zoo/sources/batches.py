"""CIFAR-10, CIFAR-100 and STL-10, read, downloaded and checked by torchvision."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.sources.places import Request, Wanted, find
from zoo.sources.raw import Raw, checked

Open = Callable[[str, bool], Any]
"""(folder, whether to open the training images) -> a torchvision data set."""


def cifar10(request: Request, _seed: int) -> Raw:
    """CIFAR-10: 50,000 training images of 32 x 32, of which 5,000 for validation, and 10,000 test images."""
    from torchvision.datasets import CIFAR10  # type: ignore[import-untyped]  # takes seconds: where it is used

    return _cifar(CIFAR10, "cifar-10", request)


def cifar100(request: Request, _seed: int) -> Raw:
    """CIFAR-100: as CIFAR-10, with 100 classes."""
    from torchvision.datasets import CIFAR100

    return _cifar(CIFAR100, "cifar-100", request)


def stl10(request: Request, _seed: int) -> Raw:
    """STL-10: 5,000 labelled training images of 96 x 96, of which 500 for validation, and 8,000 test images."""
    from torchvision.datasets import STL10

    files = [name for name, _ in (*STL10.train_list, *STL10.test_list)] + [STL10.class_names_file]
    wanted = _wanted(STL10, "stl-10", files, lambda folder: STL10(str(folder), download=True))
    folder = find(wanted, request)
    opened = [_open(lambda: STL10(str(folder), part), folder, "stl-10") for part in ("train", "test")]  # noqa: B023
    names = tuple(opened[0].classes)
    train, test = (_pair(torch.from_numpy(d.data), torch.from_numpy(d.labels), names, folder) for d in opened)
    return Raw(train, test, names, val=1 / 10)


def _cifar(dataset: Any, name: str, request: Request) -> Raw:
    files = [file for file, _ in (*dataset.train_list, *dataset.test_list)] + [dataset.meta["filename"]]
    wanted = _wanted(dataset, name, files, lambda folder: dataset(str(folder), download=True))
    folder = find(wanted, request)
    opened = [_open(lambda: dataset(str(folder), train), folder, name) for train in (True, False)]  # noqa: B023
    names = tuple(opened[0].classes)
    train, test = (
        _pair(torch.from_numpy(d.data).permute(0, 3, 1, 2), torch.tensor(d.targets), names, folder) for d in opened
    )
    return Raw(train, test, names, val=1 / 10)


def _wanted(dataset: Any, name: str, files: list[str], download: Callable[[Path], object]) -> Wanted:
    below = tuple(f"{dataset.base_folder}/{file}" for file in files)
    return Wanted(name, below, f"or unpack {dataset.url} there", download)


def _open(read: Callable[[], Any], folder: Path, name: str) -> Any:
    # torchvision compares checksums, so a file that is there and refused is not what the authors published.
    try:
        return read()
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise ZooError(
            f"{folder}: a file of {name} is truncated or damaged, its checksum is not the published one ({error}); "
            "remove the folder and fetch the data set again"
        ) from error


def _pair(images: Tensor, labels: Tensor, names: tuple[str, ...], folder: Path) -> tuple[Tensor, Tensor]:
    return checked(images, labels, names, str(folder), "fetch the data set again")
