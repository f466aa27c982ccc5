"""Files that are whole or not there, whatever kills the process while they are written."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fxprune.errors import InputError


def write_whole(path: Path, data: bytes) -> None:
    """Write a file; a reader sees the old one or the whole new one, also after a crash. A link stays one."""
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


def remove_leftovers(path: Path) -> None:
    """Delete what a killed process had not finished writing."""
    for left in path.glob(".*.tmp"):
        left.unlink(missing_ok=True)


def claim(path: Path, settings: Mapping[str, Any]) -> None:
    """Note whose folder this is; its file of settings is written once.

    Raises:
        InputError: the folder is of other settings.
    """
    now = json.loads(json.dumps(settings))
    if not path.exists():
        write_whole(path, json.dumps(now, indent=1).encode())
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        before = None
    if before != now:
        remedy = "give another directory, or the settings that it was begun with"
        raise InputError(
            "the directory is of another run", where=str(path.parent), seen=differences(before, now), remedy=remedy
        )


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
