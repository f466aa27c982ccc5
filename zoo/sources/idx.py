"""MNIST-style data sets: their four gzipped idx files."""

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from zoo.errors import ZooError
from zoo.sources.places import Request, Wanted, find
from zoo.sources.raw import Raw, checked

IMAGES = "{part}-images-idx3-ubyte.gz"
LABELS = "{part}-labels-idx1-ubyte.gz"
FILES = tuple(name.format(part=part) for part in ("train", "t10k") for name in (IMAGES, LABELS))

# Each of these is what gzip or torchvision's parser raises on some damaged file.
_DAMAGED = (OSError, EOFError, zlib.error, AssertionError, KeyError, RuntimeError, TypeError, ValueError)
_REMEDY = "fetch the data set again (apt-get install --reinstall, where a package brought it)"


def _download(folder: Path) -> None:
    from torchvision.datasets import FashionMNIST  # type: ignore[import-untyped]  # takes seconds: where it is used

    FashionMNIST(str(folder), download=True)


FASHION = Wanted(
    "fashion-mnist",
    FILES,
    "'apt-get install dataset-fashion-mnist' puts them there too",
    _download,
    ("", "FashionMNIST/raw"),
)


def fashion_mnist(request: Request, _seed: int) -> Raw:
    """Fashion-MNIST: 60,000 training images of 28 x 28, of which 5,000 for validation, and 10,000 test images."""
    from torchvision.datasets import FashionMNIST

    folder = find(FASHION, request)
    names = tuple(FashionMNIST.classes)
    train, test = (read(folder, part, names) for part in ("train", "t10k"))
    return Raw(train, test, names, val=1 / 12)


def read(folder: Path, part: str, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Images (n, 1, h, w) uint8 and labels (n,) int64 of ``part`` "train" or "t10k".

    Raises:
        ZooError: a file is truncated or not gzipped idx, the two differ in length or are empty, or a label is not
            that of a class.
    """
    from torchvision.datasets import mnist

    image_path, label_path = folder / IMAGES.format(part=part), folder / LABELS.format(part=part)
    images, labels = _parse(image_path, mnist.read_image_file), _parse(label_path, mnist.read_label_file)
    return checked(images.unsqueeze(1), labels, names, str(label_path), _REMEDY)


def _parse(path: Path, parser: Callable[[str], Tensor]) -> Tensor:
    # torchvision's parsers open a path and know no gzip, hence the detour over a scratch file.
    try:
        with tempfile.TemporaryDirectory() as scratch, gzip.open(path) as packed:
            plain = Path(scratch, "idx")
            with plain.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
            return parser(str(plain))
    except _DAMAGED as error:
        raise ZooError(
            f"{path}: cannot be read as a gzipped idx file, it may be truncated or damaged "
            f"({type(error).__name__}: {error}); {_REMEDY}"
        ) from error
