"""Files that are whole or not there, whatever kills the process while they are written."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fxprune.errors import FxpruneError, InputError, StorageError


@contextmanager
def accessing(path: Path) -> Iterator[None]:
    """What the system has against a file or folder is an error of fxprune's inside the block.

    Raises:
        StorageError: names the file and what helps.
    """
    try:
        yield
    except FxpruneError:
        raise
    except OSError as error:
        seen = f"{type(error).__name__}: {error.strerror or error}"
        remedy = _REMEDIES.get(error.errno or 0, "see that the folder exists and can be read and written")
        named = Path(error.filename or path)
        where = path if named.name.startswith(f".{path.name}.") else named  # the file that a temporary one stands for
        raise StorageError("a file cannot be read or written", where=str(where), seen=seen, remedy=remedy) from error


_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space; what was written before is whole"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "give a folder that can be written to"),
    errno.ENAMETOOLONG: "give a shorter name",
    **dict.fromkeys((errno.EISDIR, errno.ENOTDIR, errno.EEXIST), "move what has this name, or give another folder"),
}


def checked_path(path: Any) -> Path:
    """A path as the caller gives it.

    Raises:
        InputError: it is none.
    """
    remedy = "give a name, or a pathlib.Path"
    if isinstance(path, str) and not path:  # for which Path would take the working directory
        raise InputError("this is no path of a file or folder", seen="an empty text", remedy=remedy)
    try:
        if b"\0" not in os.fsencode(path):
            return Path(path)
    except (TypeError, UnicodeEncodeError) as error:
        raise InputError("this is no path of a file or folder", seen=repr(path)[:60], remedy=remedy) from error
    raise InputError("this is no path of a file or folder", seen=repr(path)[:60], remedy=f"{remedy}, without \\0")


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they lack.

    Raises:
        StorageError: the system does not let it be made.
    """
    with accessing(path):
        path.mkdir(parents=True, exist_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file; a reader sees the old one or the whole new one, also after a crash. A link stays one.

    What is there and is no regular file, such as a device or a pipe, is written into.

    Raises:
        StorageError: the system does not let it be written: a full or read-only disk, a directory of this name.
    """
    with accessing(path):
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(data)
            return
        path = path.resolve()
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            Path(name).chmod(_mode(path))
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def refuse_unmarked(path: Path, mark: str) -> None:
    """Refuse to write over a file that does not hold, in its beginning, the mark of those that fxprune writes.

    Raises:
        InputError: there is one, and it is not empty.
        StorageError: the system does not let it be read.
    """
    with accessing(path):
        if not path.is_file():
            return
        with path.open("rb") as file:
            beginning = file.read(_BEGINNING)
    if beginning and mark.encode() not in beginning:
        raise of_others(path, f"{beginning[:40]!r} in its beginning")


_BEGINNING = 1024


def of_others(path: Path, seen: str) -> InputError:
    """The error of a file that stands where one is to be written, and is not of fxprune."""
    remedy = "give another folder or name, or delete the file first"
    return InputError("a file that fxprune did not write would be replaced", where=str(path), seen=seen, remedy=remedy)


def _mode(path: Path) -> int:
    """The permissions of the old file, or those that a new one gets: temporary files are their owner's alone."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def sync_directory(path: Path) -> None:
    """Make a new name in a directory last; does nothing where the system cannot."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no directories
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_RANDOM = "[a-z0-9_]" * 8  # what `tempfile` puts between prefix and suffix, as a pattern of names


def leftovers(folder: Path, *names: str) -> list[Path]:
    """What a killed process had not finished writing: temporary files of `write_whole`, and nobody else's.

    Args:
        folder: that the files were to stand in.
        names: of the files, or patterns of them.
    """
    return [left for name in names for left in folder.glob(f".{name}.{_RANDOM}.tmp")]


def remove_leftovers(folder: Path, *names: str) -> None:
    """Delete `leftovers`."""
    for left in leftovers(folder, *names):
        left.unlink(missing_ok=True)


def claim(path: Path, settings: Mapping[str, Any], names: Collection[str] = (), resume: bool = False) -> None:
    """Note whose folder this is, in its file of settings.

    Args:
        path: of the file.
        settings: plain JSON data.
        names: settings that are functions; one may have got another name, or other code, and do the same.
        resume: take the new ones.

    Raises:
        InputError: the folder is of other settings, or its file of settings is damaged.
        StorageError: the system does not let the file be read or written.
    """
    now = json.loads(json.dumps(settings))
    before: Any = _settings(path) if path.exists() else None
    changed = [] if before is None else [k for k in {**before, **now} if before.get(k) != now.get(k)]
    renamed = all(k in names and isinstance(v.get(k), str) for k in changed for v in (before, now))
    if changed and not (renamed and resume):
        raise InputError(
            "the directory is of another run",
            where=str(path.parent),
            seen=differences(before, now),
            remedy=_RENAMED if renamed else "give another directory, or the settings that it was begun with",
        )
    if changed or before is None:
        write_whole(path, json.dumps(now, indent=1).encode())


_RENAMED = "pass resume=True if these functions do the same as before; else give another directory"


def _settings(path: Path) -> Any:
    """What a file of settings says.

    Raises:
        InputError: it is damaged.
    """
    try:
        with accessing(path):
            settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        seen, settings = f"{type(error).__name__}: {str(error)[:100]}", None
    else:
        seen = repr(settings)[:100]
    if not isinstance(settings, dict):
        remedy = "give another directory, or delete this one to start over"
        raise InputError("a damaged file of settings", where=str(path), seen=seen, remedy=remedy)
    return settings


def differences(before: Any, now: Any, name: str = "") -> str:
    """What changed, in words.

    >>> differences({"seed": 0, "search": {"cycles": 3}}, {"seed": 1, "search": {"cycles": 3}})
    'seed was 0, now 1'
    """
    if not isinstance(before, dict) or not isinstance(now, dict):
        return f"{name or 'settings'} was {_short(before)}, now {_short(now)}"
    keys = [k for k in {**before, **now} if before.get(k) != now.get(k)]
    return "; ".join(differences(before.get(k), now.get(k), f"{name}.{k}" if name else k) for k in keys)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
