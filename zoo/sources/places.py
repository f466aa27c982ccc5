"""Find the files of a data set: a root that was passed, the environment, a download, the system's packages."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import ZooError

ENVIRONMENT = "FXPRUNE_DATA"
"""Environment variable that names the folder of the data sets where no root is passed."""


@dataclass(frozen=True)
class Wanted:
    """What must be on disk.

    Args:
        name: of the data set, and of its folder below a root.
        files: paths below that folder, files or folders, that must exist.
        remedy: a sentence on how to get them.
        download: puts them below the folder that it is given; None where nothing can be downloaded.
        inner: where below that folder the files may be too, "" for itself.
    """

    name: str
    files: tuple[str, ...]
    remedy: str
    download: Callable[[Path], object] | None = None
    inner: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class Request:
    """What the user asked for: folder of the files (or the one above it), and whether to download what is missing."""

    root: Path | None = None
    download: bool = False


def find(wanted: Wanted, request: Request) -> Path:
    """Folder that holds all files of ``wanted``.

    Looked for in the root alone where one is given, else in ``$FXPRUNE_DATA`` alone where it is set, else in the
    user's cache and where the system's packages put data.

    Raises:
        ZooError: no folder holds them all, or the download failed; the text says where they were sought, what is
            missing and how to get it.
    """
    folders = _folders(wanted, request.root)
    found = _complete(folders, wanted)
    if found is None and request.download:
        _download(wanted, folders[0])
        found = _complete(folders, wanted)
    if found is not None:
        return found
    looked = "\n".join(f"  {folder}: {_shortage(folder, wanted.files)}" for folder in folders)
    fetch = "Fetch them with --download (download=True)" if wanted.download else "They cannot be downloaded from here"
    raise ZooError(
        f"{wanted.name}: needs {', '.join(wanted.files)} in one folder; looked in\n{looked}\n"
        f"{fetch}: {wanted.remedy}. Their folder can be named as root (--data-root) or in the environment variable "
        f"{ENVIRONMENT}."
    )


def _folders(wanted: Wanted, root: Path | None) -> list[Path]:
    if root is None and os.environ.get(ENVIRONMENT):
        root = Path(os.environ[ENVIRONMENT])
    if root is not None:
        above = [root / wanted.name, root]
    else:
        prefixes = dict.fromkeys((sys.prefix, sys.base_prefix, "/usr"))
        above = [_cache() / wanted.name, *(Path(prefix, "share", "datasets", wanted.name) for prefix in prefixes)]
    return [folder / inner for folder in above for inner in wanted.inner]


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "fxprune"


def _complete(folders: list[Path], wanted: Wanted) -> Path | None:
    return next((f for f in folders if all((f / name).exists() for name in wanted.files)), None)


def _shortage(folder: Path, files: tuple[str, ...]) -> str:
    if not folder.is_dir():
        return "no such folder"
    missing = [name for name in files if not (folder / name).exists()]
    return "none of them" if len(missing) == len(files) else f"without {', '.join(missing)}"


def _download(wanted: Wanted, folder: Path) -> None:
    if wanted.download is None:
        raise ZooError(f"{wanted.name}: cannot be downloaded from here: {wanted.remedy}")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        wanted.download(folder)
    except (OSError, RuntimeError) as error:
        raise ZooError(f"{wanted.name}: the download into {folder} failed ({error}): {wanted.remedy}") from error
