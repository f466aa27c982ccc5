"""MNIST-style data sets on disk: find their four gzipped idx files and read them."""

import gzip
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

from torch import Tensor
from torchvision.datasets import mnist  # type: ignore[import-untyped]  # torchvision ships no type information

from zoo.errors import ZooError

ENVIRONMENT = "FXPRUNE_DATA"
"""Environment variable that names the folder of the data sets where no root is passed."""

IMAGES = "{part}-images-idx3-ubyte.gz"
LABELS = "{part}-labels-idx1-ubyte.gz"
FILES = tuple(name.format(part=part) for part in ("train", "t10k") for name in (IMAGES, LABELS))

# Each of these is what gzip or torchvision's parser raises on some damaged file.
_DAMAGED = (OSError, EOFError, zlib.error, AssertionError, KeyError, RuntimeError, TypeError, ValueError)
_REMEDY = "fetch the data set again (apt-get install --reinstall, where a package brought it)"


def find(dataset: str, root: Path | None = None) -> Path:
    """Folder of the four files of ``dataset`` (in lower case, such as "fashion-mnist").

    Looked for in ``root`` alone where it is given, else in ``$FXPRUNE_DATA`` alone where it is set, else
    where the system's packages put data. A root is the folder of the files or the one above it.

    Raises:
        ZooError: no folder holds all four files; the text says where they were sought and how to get them.
    """
    folders = _folders(dataset, root)
    for folder in folders:
        if all((folder / name).is_file() for name in FILES):
            return folder
    looked = "\n".join(f"  {folder}: {_shortage(folder)}" for folder in folders)
    raise ZooError(
        f"{dataset}: needs the files {', '.join(FILES)} in one folder; looked in\n{looked}\n"
        f"Install them with 'apt-get install dataset-{dataset}', or name their folder as root (--data-root) "
        f"or in the environment variable {ENVIRONMENT}."
    )


def read(folder: Path, part: str, classes: int) -> tuple[Tensor, Tensor]:
    """Images (n, 1, h, w) uint8 and labels (n,) int64 of ``part`` "train" or "t10k".

    Raises:
        ZooError: a file is truncated or not gzipped idx, the two differ in length or are empty, or a label is
            outside [0, classes).
    """
    image_path, label_path = folder / IMAGES.format(part=part), folder / LABELS.format(part=part)
    images, labels = _parse(image_path, mnist.read_image_file), _parse(label_path, mnist.read_label_file)
    if len(images) != len(labels) or not len(images):
        raise ZooError(f"{image_path}: {len(images)} images, but {len(labels)} labels beside it; {_REMEDY}")
    if int(labels.max()) >= classes:
        raise ZooError(f"{label_path}: label {int(labels.max())} is not one of {classes} classes; {_REMEDY}")
    return images.unsqueeze(1), labels


def _folders(dataset: str, root: Path | None) -> list[Path]:
    if root is None and os.environ.get(ENVIRONMENT):
        root = Path(os.environ[ENVIRONMENT])
    if root is not None:
        return [root / dataset, root]
    prefixes = dict.fromkeys((sys.prefix, sys.base_prefix, "/usr"))
    return [Path(prefix, "share", "datasets", dataset) for prefix in prefixes]


def _shortage(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    missing = [name for name in FILES if not (folder / name).is_file()]
    return "none of them" if len(missing) == len(FILES) else f"without {', '.join(missing)}"


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
