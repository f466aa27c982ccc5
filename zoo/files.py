"""Write a file so that a reader sees the old one or the whole new one, never a part."""

from pathlib import Path

from fxprune.storage.files import write_whole


def write(path: Path, data: bytes) -> None:
    """Replace ``path``; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data)
